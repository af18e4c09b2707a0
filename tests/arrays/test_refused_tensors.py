"""Tensors without plain values in memory are refused. The error says what they are, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from reference import Array


class Tensor:
    """Cannot give an array, and says in attributes why."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        raise TypeError("no array")


class Number(Tensor):
    """Gives an array of another type, and has no `astype`."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return np.ones(3, np.int32)


def yes() -> bool:
    return True


TENSORS: dict[str, tuple[Tensor, str]] = {
    "sparse": (
        Tensor(layout="torch.sparse_coo"),
        "of layout torch.sparse_coo; give its .to_dense()",
    ),
    "quantized": (
        Tensor(layout="torch.strided", is_quantized=True),
        "that is quantized; give its .dequantize()",
    ),
    "meta": (Tensor(device="meta"), "on the device meta, where it has no values; give one that"),
    "cuda": (Tensor(device="cuda:0"), "on the device cuda:0; copy it to the CPU"),
    "mps": (Tensor(device="mps:0"), "on the device mps:0; copy it to the CPU"),
    "complex": (
        Tensor(device="cpu", is_complex=yes, dtype="torch.complex64"),
        "of dtype torch.complex64; give its .real or .imag part",
    ),
    "negative": (
        Tensor(device="cpu", is_neg=yes),
        "with its negative bit set; give its .resolve_neg()",
    ),
    "float8": (
        Tensor(dtype="torch.float8_e5m2"),
        "of dtype torch.float8_e5m2; convert it to float32",
    ),
    "integer": (Number(dtype="torch.int32"), "of dtype int32; convert it to float32"),
    "other": (Tensor(device="cpu"), "that cannot give one (TypeError: no array); convert it"),
}
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": fo.SGD,
    "loss_scale": lambda: fo.LossScaleOptimizer(fo.SGD()),
    "multi": lambda: fo.MultiOptimizer(fo.OptimizerMap(fo.SGD(), {"b": fo.Adam()})),
}


@pytest.mark.parametrize(("tensor", "message"), TENSORS.values(), ids=TENSORS)
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_refused(make: Callable[[], Any], tensor: Tensor, message: str) -> None:
    w = np.ones(3)
    optimizer = make()
    with pytest.raises(TypeError) as variable:
        optimizer.build({"b": tensor})
    assert not optimizer.built
    optimizer.build({"b": w})
    with pytest.raises(TypeError) as gradient:
        optimizer.apply([tensor])
    for error, who in ((variable, "variable 0 ('b')"), (gradient, "gradient of variable 0 ('b')")):
        assert str(error.value).startswith(f"{who}: expected ")
        assert f"{type(tensor).__name__} {message}" in str(error.value)
    assert w.tolist() == [1.0] * 3


def test_what_records_a_computation_is_read_by_what_it_detaches() -> None:
    class Recorded:
        requires_grad = True

        def __init__(self, values: Array) -> None:
            self.values = values

        def detach(self) -> Array:
            return self.values

        def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
            raise RuntimeError("requires grad")

    w = Recorded(np.ones(3))
    optimizer = fo.SGD(learning_rate=1.0)
    optimizer.build([w])
    optimizer.apply([Recorded(np.full(3, 0.25))])
    optimizer.apply([np.full(3, 0.25)], [w])
    assert w.values.tolist() == [0.5] * 3
