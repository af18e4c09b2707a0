"""Objects that give their memory by `__dlpack__` alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from reference import Array

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "adam": fo.Adam,
    "loss_scale": lambda: fo.LossScaleOptimizer(fo.SGD(), initial_scale=2.0),
    "multi": lambda: fo.MultiOptimizer(fo.OptimizerMap(fo.SGD(), {"b": fo.Adam()})),
}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


class Exchanged:
    """Exports what NumPy exports of an array."""

    def __init__(self, values: Array) -> None:
        self.values = values

    def __dlpack__(self, **arguments: Any) -> Any:
        return self.values.__dlpack__(**arguments)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


class Old(Exchanged):
    """From before there were versions, so it cannot say whether it may be written."""

    def __dlpack__(self, stream: Any = None) -> Any:  # type: ignore[override]
        return self.values.__dlpack__(stream=stream)


class Elsewhere(Exchanged):
    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)


class Failing(Exchanged):
    def __dlpack__(self, **arguments: Any) -> Any:
        raise BufferError("cannot be exported")


class Nothing(Exchanged):
    def __dlpack__(self, **arguments: Any) -> Any:
        return object()


class Copies(Exchanged):
    """Shares its memory by __dlpack__ only."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return self.values.copy()


class Unknown(Exchanged):
    """NumPy cannot read it, as it has no bfloat16."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        raise TypeError("Got unsupported ScalarType")


class Negative(Unknown):
    def is_neg(self) -> bool:
        return True


VALUES: dict[str, Array] = {
    "matrix": np.arange(12.0, dtype=np.float32).reshape(3, 4),
    "half": np.arange(12.0, dtype=np.float16).reshape(3, 4),
    "double": np.arange(12.0).reshape(3, 4),
    "transposed": np.arange(12.0, dtype=np.float32).reshape(4, 3).T,
    "strided": np.arange(48.0, dtype=np.float32).reshape(6, 8)[::2, 1::2],
    "reversed": np.arange(12.0, dtype=np.float32).reshape(3, 4)[::-1],
}


@pytest.mark.parametrize("kind", [Exchanged, Old, Copies, Unknown])
@every_optimizer
def test_gradients(make: Callable[[], Any], kind: Any) -> None:
    w, copy = np.ones((3, 4)), np.ones((3, 4))
    optimizer, other = make(), make()
    optimizer.build({"b": w})
    other.build({"b": copy})
    for values in VALUES.values():
        optimizer.apply([kind(values)])
        other.apply([values])
        assert w.tobytes() == copy.tobytes()


@pytest.mark.parametrize("kind", [Exchanged, Copies, Unknown])
@every_optimizer
def test_variables(make: Callable[[], Any], kind: Any) -> None:
    variable, copy = kind(np.ones((3, 4), np.float32)), np.ones((3, 4), np.float32)
    optimizer, other = make(), make()
    optimizer.build({"b": variable})
    other.build({"b": copy})
    for _ in range(3):
        optimizer.apply([np.ones((3, 4))])
        optimizer.apply([np.ones((3, 4))], [variable])
        other.apply([np.ones((3, 4))])
        other.apply([np.ones((3, 4))])
        variable.values = variable.values.copy()
    assert variable.values.tobytes() == copy.tobytes()
    assert optimizer.iterations == 6


@pytest.mark.parametrize(
    ("variable", "found"),
    [
        (Old(np.ones(3)), "that of Old, which is read-only"),
        (Exchanged(np.broadcast_to(1.0, (3,))), "that of Exchanged, which is read-only"),
    ],
)
@every_optimizer
def test_what_may_not_be_written(make: Callable[[], Any], variable: Any, found: str) -> None:
    optimizer = make()
    with pytest.raises(ValueError, match=rf"^variable 0 \('b'\): .*{found}; give numpy.array of"):
        optimizer.build({"b": variable})
    assert variable.values.tolist() == [1.0] * 3


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            Elsewhere(np.ones(3)),
            "found Elsewhere on a device of DLPack's type 2; copy it to the CPU",
        ),
        (
            Failing(np.ones(3)),
            "found Failing that cannot give one .BufferError: cannot be exported",
        ),
        (Nothing(np.ones(3)), "found Nothing whose __dlpack__ gives something of another version"),
        (Exchanged(np.ones(3, np.int32)), "found Exchanged of another element type"),
        (Exchanged(np.ones(3, complex)), "found Exchanged of another element type"),
        (Negative(np.ones(3)), "found a Negative with its negative bit set; give its .resolve_neg"),
    ],
    ids=lambda value: type(value).__name__,
)
@every_optimizer
def test_refused(make: Callable[[], Any], value: Any, message: str) -> None:
    w = np.ones(3)
    optimizer = make()
    with pytest.raises(TypeError, match=rf"^variable 0 \('b'\): expected .*{message}"):
        optimizer.build({"b": value})
    optimizer.build({"b": w})
    with pytest.raises(TypeError, match=rf"^gradient of variable 0 \('b'\): expected .*{message}"):
        optimizer.apply([value])
    assert w.tolist() == [1.0] * 3
