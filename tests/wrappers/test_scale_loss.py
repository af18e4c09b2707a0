"""`scale_loss`: narrow losses are widened before they are multiplied, all others keep their type."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import fusedopt as fo
import ml_dtypes
import numpy as np
import pytest
from cases import RULES

SCALERS: dict[str, Callable[[float], fo.Optimizer]] = {
    **{
        rule: lambda scale, rule=rule: getattr(fo, rule)(loss_scale_factor=scale)  # type: ignore[misc]
        for rule in RULES
    },
    "LossScale": lambda scale: fo.LossScaleOptimizer(fo.SGD(), initial_scale=scale),
    "Multi": lambda scale: fo.MultiOptimizer(fo.OptimizerMap(fo.SGD()), loss_scale_factor=scale),
    "LossScale(Multi)": lambda scale: fo.LossScaleOptimizer(
        fo.MultiOptimizer(fo.OptimizerMap(fo.SGD())), initial_scale=scale
    ),
}


@pytest.mark.parametrize("shape", [None, (), (1,), (2, 3)])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("kind", SCALERS)
def test_two_bytes_are_widened(kind: str, dtype: Any, shape: tuple[int, ...] | None) -> None:
    loss = dtype(3) if shape is None else np.full(shape, 3, dtype)
    scaled = SCALERS[kind](32768.0).scale_loss(loss)
    assert scaled.dtype == np.float32
    assert scaled.shape == (shape or ())
    assert (scaled == 98304.0).all()


@pytest.mark.parametrize("kind", SCALERS)
def test_wider_types_stay(kind: str) -> None:
    optimizer = SCALERS[kind](1024.0)
    assert optimizer.scale_loss(0.5) == 512.0
    assert type(optimizer.scale_loss(0.5)) is float
    assert optimizer.scale_loss(3) == 3072.0
    for dtype in (np.float32, np.float64):
        for loss in (dtype(0.5), np.array(0.5, dtype), np.full(4, 0.5, dtype)):
            scaled = optimizer.scale_loss(loss)
            assert scaled.dtype == dtype
            assert (scaled == 512.0).all()


def test_without_a_factor_the_loss_is_what_it_was() -> None:
    loss = np.float16(3)
    assert fo.SGD().scale_loss(loss) is loss


class Tensor:
    """What matters of a PyTorch tensor: no astype, a method float that autograd knows, a dtype that prints itself."""

    def __init__(self, value: float, dtype: str, history: tuple[str, ...] = ()) -> None:
        self.value, self.dtype, self.history = value, DType(dtype), history

    def float(self) -> Tensor:
        return Tensor(self.value, "torch.float32", (*self.history, "float"))

    def __mul__(self, factor: float) -> Tensor:
        return Tensor(self.value * factor, str(self.dtype), (*self.history, "mul"))


class DType:
    def __init__(self, name: str) -> None:
        self._name = name

    def __str__(self) -> str:
        return self._name


@pytest.mark.parametrize("dtype", ["torch.float16", "torch.bfloat16"])
def test_tensors_are_widened_by_their_own_means(dtype: str) -> None:
    scaled = fo.SGD(loss_scale_factor=32768.0).scale_loss(Tensor(3.0, dtype))
    assert (scaled.value, str(scaled.dtype)) == (98304.0, "torch.float32")
    assert scaled.history == ("float", "mul")


@pytest.mark.parametrize("dtype", ["torch.float32", "torch.float64", "torch.int64"])
def test_wider_tensors_are_only_multiplied(dtype: str) -> None:
    scaled = fo.LossScaleOptimizer(fo.SGD()).scale_loss(Tensor(3.0, dtype))
    assert (str(scaled.dtype), scaled.history) == (dtype, ("mul",))


def test_a_narrow_tensor_that_cannot_be_widened_is_refused() -> None:
    class Opaque:
        dtype = DType("float16")
        __mul__ = operator.mul

    with pytest.raises(TypeError, match="^loss: expected float32 or wider"):
        fo.SGD(loss_scale_factor=2.0).scale_loss(Opaque())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_pytorch(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    weight = torch.tensor(3.0, dtype=getattr(torch, dtype), requires_grad=True)
    scaled = fo.LossScaleOptimizer(fo.SGD()).scale_loss(weight * 1.0)
    assert (scaled.item(), scaled.dtype) == (98304.0, torch.float32)
    scaled.backward()
    assert weight.grad.item() == 32768.0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_jax(dtype: str) -> None:
    jax = pytest.importorskip("jax")
    scale_loss = fo.LossScaleOptimizer(fo.SGD()).scale_loss
    loss = jax.numpy.asarray(3.0, dtype)
    scaled = scale_loss(loss)
    assert (float(scaled), scaled.dtype) == (98304.0, np.float32)
    assert float(jax.jit(jax.grad(scale_loss))(loss)) == 32768.0


@pytest.mark.parametrize("loss", [3, 3.0, np.float32(3), np.array([3.0, 3.0])], ids=repr)
def test_scale_loss(loss: Any) -> None:
    assert np.array_equal(fo.SGD().scale_loss(loss), loss)
    assert np.array_equal(fo.SGD(loss_scale_factor=4.0).scale_loss(loss), loss * 4.0)
    optimizer = fo.LossScaleOptimizer(fo.SGD(), initial_scale=16.0)
    assert np.array_equal(optimizer.scale_loss(loss), loss * 16.0)
    optimizer.build([np.zeros(1)])
    optimizer.apply([np.array([math.inf])])
    assert np.array_equal(optimizer.scale_loss(loss), loss * 8.0)


def test_loss_scale_factor_divides_the_gradients() -> None:
    w = np.zeros(1)
    optimizer = fo.SGD(learning_rate=1.0, loss_scale_factor=1000.0)
    optimizer.build([w])
    optimizer.apply([np.array([optimizer.scale_loss(2.0)])])
    assert w[0] == pytest.approx(-2.0, rel=1e-15)
