"""PyTorch's tensors as variables and gradients of the optimizers for arrays."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest

torch = pytest.importorskip("torch")

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "adam": lambda: fo.Adam(0.1, use_ema=True),
    "adafactor": lambda: fo.Adafactor(0.1),
    "loss_scale": lambda: fo.LossScaleOptimizer(fo.SGD(0.5, momentum=0.5), initial_scale=1.0),
    "multi": lambda: fo.MultiOptimizer(fo.OptimizerMap(fo.SGD(0.5), {"b": fo.Adam(0.1)})),
}
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]

every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def parameters(dtype: Any) -> list[Any]:
    return [
        torch.nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4).to(dtype)),
        torch.arange(1.0, 6.0).to(dtype).requires_grad_(),
        torch.zeros(0, 3, dtype=dtype, requires_grad=True),
        torch.nn.Parameter(torch.tensor(2.0, dtype=dtype)),
    ]


def gradients(dtype: Any) -> list[Any]:
    return [
        torch.linspace(-2, 1, 12).reshape(4, 3).to(dtype).T,
        torch.nn.Parameter(torch.full((5,), 0.5, dtype=dtype)),
        torch.zeros(0, 3, dtype=dtype),
        torch.tensor(0.25, dtype=dtype).requires_grad_() * 2,
    ]


def as_numpy(tensors: list[Any]) -> list[Any]:
    """Return copies that NumPy can hold, in the layout of arrays."""
    detached = [tensor.detach() for tensor in tensors]
    return [(t.float() if t.dtype == torch.bfloat16 else t).numpy().copy() for t in detached]


NAMES = ["a", "b", "empty", "number"]


@every_dtype
@every_optimizer
def test_same_as_arrays(make: Callable[[], Any], dtype: Any, tmp_path: Path) -> None:
    tensors, optimizer, other = parameters(dtype), make(), make()
    arrays = as_numpy(tensors)
    optimizer.build(dict(zip(NAMES, tensors, strict=True)))
    other.build(dict(zip(NAMES, arrays, strict=True)))
    for of_gradient in DTYPES:
        given = gradients(of_gradient)
        optimizer.apply(given)
        optimizer.apply(dict(zip(NAMES, given, strict=True)))
        optimizer.apply(given[::-1], tensors[::-1])
        for _ in range(3):
            other.apply(as_numpy(given))
    for tensor, array in zip(tensors, arrays, strict=True):
        found, expected = tensor.detach().double().numpy(), array.astype(float)
        assert np.array_equal(found, expected) or (
            dtype == torch.bfloat16 and np.allclose(found, expected, rtol=2.0**-8)
        )
    assert all(isinstance(variable, np.ndarray) for variable in optimizer.variables)
    optimizer.save(tmp_path / "file", variables=True)
    kept = [tensor.detach().clone() for tensor in tensors]
    optimizer.apply([g * 100 for g in gradients(torch.float32)])
    optimizer.load(tmp_path / "file")
    assert all(map(torch.equal, tensors, kept))
    for copied in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        copied.apply(gradients(dtype))
        assert all(map(torch.equal, tensors, kept))


@every_dtype
def test_state_from_tensors(dtype: Any) -> None:
    optimizer = fo.Adam()
    optimizer.build([torch.ones(3)])
    values = [*map(torch.as_tensor, optimizer.variables)]
    values[2] = torch.tensor([0.5, -3.0, 7.0], dtype=dtype).requires_grad_()
    optimizer.set_weights(values)
    assert optimizer.variables[2].tolist() == [0.5, -3.0, 7.0]


@pytest.mark.parametrize("kind", ["adam", "schedule_free"])
@every_dtype
def test_evaluation_and_averages(kind: str, dtype: Any) -> None:
    tensors = parameters(dtype)
    optimizer = fo.Adam(0.1, use_ema=True) if kind == "adam" else fo.ScheduleFreeAdamW(0.1)
    optimizer.build(tensors)
    for _ in range(3):
        optimizer.apply(gradients(dtype))
    kept = [tensor.detach().clone() for tensor in tensors]
    with optimizer.evaluation_weights():
        assert not torch.equal(tensors[0], kept[0])
        tensors[0].data = tensors[0].data.clone()
        tensors[1].share_memory_()
    assert all(map(torch.equal, tensors, kept))
    optimizer.finalize_variable_values(tensors)


@every_dtype
@every_optimizer
def test_memory_that_moved(make: Callable[[], Any], dtype: Any) -> None:
    tensors, others = parameters(dtype), parameters(dtype)
    optimizer, other = make(), make()
    optimizer.build(dict(zip(NAMES, tensors, strict=True)))
    other.build(dict(zip(NAMES, others, strict=True)))
    moves: list[Callable[[Any], Any]] = [
        lambda p: setattr(p, "data", p.data.clone()),
        lambda p: p.share_memory_(),
        lambda p: setattr(p, "data", torch.cat([p.data.flatten()] * 2)[p.numel() :].view(p.shape)),
    ]
    for move in moves:
        for tensor in tensors:
            move(tensor)
        optimizer.apply(gradients(dtype))
        other.apply(gradients(dtype))
        assert all(map(torch.equal, tensors, others))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.double(), "expected float32 of shape .* now float64"),
        (lambda p: p.half(), "expected float32 of shape .* now float16"),
        (lambda p: p.view(torch.int32), "expected (dtype float32|float16).*int32"),
        (lambda p: torch.ones(5, 2), r"now float32 of shape \(5, 2\)"),
        (lambda p: torch.ones(4, 3).T, "expected C-contiguous memory"),
        (lambda p: torch.ones(4).expand(3, 4), "expected C-contiguous memory"),
        (lambda p: torch._neg_view(torch.ones(3, 4)), "negative bit set"),
    ],
    ids=["double", "half", "bits", "shape", "transposed", "expanded", "negative"],
)
@every_optimizer
def test_memory_that_cannot_be_followed(
    make: Callable[[], Any], change: Callable[[Any], Any], message: str
) -> None:
    p = torch.nn.Parameter(torch.ones(3, 4), requires_grad=False)
    optimizer = make()
    optimizer.build({"b": p})
    optimizer.apply([torch.ones(3, 4)])
    old = p.data
    before = [old.clone(), *(variable.copy() for variable in optimizer.variables)]
    p.data = change(old)
    with pytest.raises((ValueError, TypeError), match=rf"variable 0.*{message}"):
        optimizer.apply([torch.ones(3, 4)])
    after = [old, *optimizer.variables]
    assert all(np.array_equal(*pair) for pair in zip(after, before, strict=True))
    p.data = old
    optimizer.apply([torch.ones(3, 4)])


def test_tied_memory_is_refused() -> None:
    p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = fo.SGD()
    optimizer.build([p, q])
    p.data = q.data
    with pytest.raises(ValueError, match="variable 1: expected memory of its own"):
        optimizer.apply([torch.ones(3)] * 2)


@pytest.mark.parametrize(
    "view", ["p.detach().numpy()", "np.asarray(p.detach())[:2]", "memoryview(p.detach().numpy())"]
)
def test_an_array_whose_tensor_moved_is_refused(view: str) -> None:
    # Its memory is gone. Written to, it ended the process.
    program = f"""
import fusedopt as fo, numpy as np, torch
p = torch.nn.Parameter(torch.ones(1_000_000))
w = {view}
optimizer = fo.SGD()
optimizer.build([w])
optimizer.apply([np.ones(len(w))])
p.share_memory_()
try:
    optimizer.apply([np.ones(len(w))])
except ValueError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (
        "variable 0: expected the memory it was built with, found that of the Tensor" in done.stdout
    )


def tensors_without_plain_values() -> dict[str, tuple[Any, str]]:
    ones, complex_ones = torch.ones(3), torch.ones(3, dtype=torch.complex64)
    return {
        "imaginary": (complex_ones.conj().imag, "negative bit set; give its .resolve_neg"),
        "negative": (torch._neg_view(ones), "negative bit set; give its .resolve_neg"),
        "conjugate": (complex_ones.conj(), "complex64; give its .real or .imag part"),
        "complex": (complex_ones, "complex64; give its .real or .imag part"),
        "integer": (ones.int(), "dtype int32; convert it to float32"),
        "bool": (ones.bool(), "dtype bool; convert it to float32"),
        "float8": (ones.to(torch.float8_e4m3fn), "float8_e4m3fn; convert it to float32"),
        "sparse": (torch.eye(3).to_sparse(), "layout torch.sparse_coo.*; give its .to_dense"),
        "meta": (torch.ones(3, device="meta"), "on the device meta, where it has no values"),
        "zero": (torch._efficientzerotensor(3), "ZeroTensor"),
    }


@pytest.mark.parametrize("name", tensors_without_plain_values())
@every_optimizer
def test_tensors_without_plain_values(make: Callable[[], Any], name: str) -> None:
    tensor, message = tensors_without_plain_values()[name]
    w = torch.ones(3)
    optimizer = make()
    with pytest.raises(TypeError, match=rf"^variable 0 \('b'\): expected .*{message}"):
        optimizer.build({"b": tensor})
    optimizer.build({"b": w})
    for _ in range(3):
        with pytest.raises(
            TypeError, match=rf"^gradient of variable 0 \('b'\): expected .*{message}"
        ):
            optimizer.apply([tensor])
    assert w.tolist() == [1.0] * 3


# PyTorch's own.
@pytest.mark.filterwarnings(
    "ignore:torch.quantize_per_tensor, torch.quantize_per_channel and other"
)
def test_quantized() -> None:
    tensor = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    optimizer = fo.SGD()
    optimizer.build([torch.ones(3)])
    with pytest.raises(TypeError, match=r"quantized; give its \.dequantize"):
        optimizer.apply([tensor])


def test_signs_of_tensors_at_one_address() -> None:
    x, w = torch.ones(3), torch.zeros(3)
    optimizer = fo.SGD(1.0)
    optimizer.build([w])
    for _ in range(4):
        for _ in range(3):
            optimizer.apply([x.detach()])
        with pytest.raises(TypeError, match="negative bit"):
            optimizer.apply([torch._neg_view(x)])
    assert w.tolist() == [-12.0] * 3


@every_dtype
def test_subclasses_give_their_own_conversion(dtype: Any) -> None:
    class Tagged(torch.nn.Parameter):
        pass

    class Scaled(torch.Tensor):
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.full(3, 0.25)

    w = Tagged(torch.ones(3, dtype=dtype))
    optimizer = fo.SGD(1.0)
    optimizer.build([w])
    optimizer.apply([torch.full((3,), 0.5, dtype=dtype).as_subclass(Tagged)])
    optimizer.apply([torch.ones(3).as_subclass(Scaled)], [w])
    assert w.tolist() == [0.25] * 3


def test_layouts_of_images() -> None:
    w = torch.zeros(2, 3, 4, 5)
    optimizer = fo.SGD(1.0)
    optimizer.build([w])
    gradient = torch.arange(120.0).reshape(2, 3, 4, 5).to(memory_format=torch.channels_last)
    optimizer.apply([gradient])
    assert torch.equal(w, -gradient)
    with pytest.raises(ValueError, match="expected C-contiguous memory"):
        fo.SGD().build([w.to(memory_format=torch.channels_last)])
