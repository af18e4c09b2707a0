"""Muon's matrix products in bfloat16, if the attribute `dtype` of their function asks for them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from adafactor_and_muon import random
from reference import Array
from selection import first

# Of one panel and of several, wide and tall, with blocks that end early.
SHAPES = [(1, 1), (1, 9), (30, 70), (70, 30), (512, 512), (520, 777), (777, 520), (1100, 1030)]


def widen(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrow(x: Array) -> Array:
    bits = x.astype(np.float32).view(np.uint32)
    nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FC0), nearest)


class InBfloat16:
    """What a library with products of bfloat16 does."""

    dtype = "bfloat16"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, a: Array, b: Array, out: Array) -> None:
        self.asked.append(" ".join(x.dtype.name for x in (a, b, out)))
        assert out.flags.c_contiguous
        for factor in (a, b):
            assert factor.flags.c_contiguous or factor.T.flags.c_contiguous
            assert not np.shares_memory(factor, out)
        if out.dtype == np.float64:
            np.matmul(a, b, out)
        else:
            out[...] = narrow(widen(a) @ widen(b))


def in_float32(a: Array, b: Array, out: Array) -> None:
    """The same numbers in float32."""
    out[...] = widen(narrow(widen(narrow(a)) @ widen(narrow(b))))


def step(w: Array, g: Array, product: Any, **arguments: Any) -> None:
    optimizer = fo.Muon(matrix_product=product, **arguments)
    optimizer.build([w])
    optimizer.apply([g])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("steps", first(1, [2, 1, 5]))
@pytest.mark.parametrize("shape", SHAPES)
def test_bits_are_those_of_products_that_are_rounded(
    shape: tuple[int, int], steps: int, dtype: Any
) -> None:
    g = random(*shape, seed=1, dtype=dtype)
    found, expected = np.zeros(shape, dtype), np.zeros(shape, dtype)
    product = InBfloat16()
    step(found, g, product, learning_rate=1.0, ns_steps=steps)
    step(expected, g, in_float32, learning_rate=1.0, ns_steps=steps)
    np.testing.assert_array_equal(found, expected)
    assert found.any()
    assert set(product.asked) == {"uint16 uint16 uint16"}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_is_near_that_of_float32(shape: tuple[int, int]) -> None:
    g = random(*shape, seed=1)
    found, expected = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    step(found, g, InBfloat16(), learning_rate=1.0)
    step(expected, g, None, learning_rate=1.0)
    assert np.linalg.norm(found - expected) <= 0.1 * np.linalg.norm(expected)


def test_variables_of_float64_have_products_of_float64() -> None:
    shapes = [(30, 70), (530, 520)]
    found = [random(*shape, dtype=np.float64) for shape in shapes] + [random(20, 30)]
    expected = [w.copy() for w in found]
    gradients = [random(*w.shape, seed=1, dtype=w.dtype) for w in found]
    product = InBfloat16()
    for variables, function in ((found, product), (expected, None)):
        optimizer = fo.Muon(matrix_product=function)
        optimizer.build(variables)
        optimizer.apply(gradients)
    for w, x in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_array_equal(w, x)
    assert set(product.asked) == {"float64 float64 float64", "uint16 uint16 uint16"}


class Idle(InBfloat16):
    """Writes nothing, or only half of it, in one call."""

    left = 0
    share = 0.0

    def __call__(self, a: Array, b: Array, out: Array) -> None:
        self.left -= 1
        if self.left != 0:
            super().__call__(a, b, out)
        else:
            rows = int(self.share * len(out))
            out[:rows] = narrow(widen(a[:rows]) @ widen(b))


@pytest.mark.parametrize(
    "shape", [(4, 6), (6, 4), pytest.param((520, 530), marks=pytest.mark.maintainer)]
)
@pytest.mark.parametrize("call", range(1, 4))
@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("wrap", [lambda x: x, fo.LossScaleOptimizer], ids=["alone", "loss_scale"])
def test_a_product_that_is_not_written_is_refused(
    shape: tuple[int, int], call: int, share: float, wrap: Callable[[Any], Any]
) -> None:
    product = Idle()
    product.share = share
    w = random(*shape)
    optimizer = wrap(fo.Muon(matrix_product=product, use_ema=True))
    optimizer.build([w])
    optimizer.apply([random(*shape, seed=1)])
    before = [w.tobytes(), *(v.tobytes() for v in optimizer.variables)]
    product.left = call
    with pytest.raises(ValueError, match=r"^matrix_product: expected .* found .*; write it there"):
        optimizer.apply([random(*shape, seed=2)])
    assert [w.tobytes(), *(v.tobytes() for v in optimizer.variables)] == before
    optimizer.apply([random(*shape, seed=2)])
    assert np.isfinite(w).all()


def test_a_gradient_that_is_not_a_number_goes_through() -> None:
    g = random(30, 40)
    g[3, 4] = np.nan
    w = random(30, 40)
    step(w, g, InBfloat16())
    assert np.isnan(w).all()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        fo.LossScaleOptimizer,
        lambda x: fo.MultiOptimizer(fo.OptimizerMap(x, {"bias": fo.SGD()})),
    ],
    ids=["alone", "loss_scale", "multi"],
)
def test_a_copy_asks_for_the_same_products(wrap: Callable[[Any], Any]) -> None:
    product = InBfloat16()
    variables = {"kernel": random(30, 40), "bias": random(5)}
    gradients = {"kernel": random(30, 40, seed=1), "bias": random(5, seed=1)}
    optimizer: Any = fo.deserialize(fo.serialize(wrap(fo.Muon(matrix_product=product))))
    optimizer.build(variables)
    optimizer.apply(gradients)
    assert product.asked == ["uint16 uint16 uint16"] * 15


@pytest.mark.parametrize("dtype", ["float16", "float64", "", 5, None, np.float32])
def test_another_attribute_is_refused(dtype: Any) -> None:
    product: Any = InBfloat16()
    product.dtype = dtype
    with pytest.raises(ValueError, match=r"^matrix_product: expected .* dtype, found .*; a func"):
        fo.Muon(matrix_product=product)


def test_the_attribute_may_say_float32() -> None:
    asked: list[Any] = []

    def product(a: Array, b: Array, out: Array) -> None:
        asked.append(out.dtype)
        np.matmul(a, b, out)

    product.dtype = "float32"  # type: ignore[attr-defined]
    step(random(3, 4), random(3, 4), product)
    assert set(asked) == {np.dtype(np.float32)}


@pytest.mark.parametrize("shape", [(30, 70), (70, 30), (520, 530)])
def test_the_product_of_pytorch(shape: tuple[int, int]) -> None:
    pytest.importorskip("torch")
    from fusedopt import torch_products

    a, b = narrow(random(30, 20)), narrow(random(40, 20, seed=1)).T
    out, wide = np.empty((30, 40), np.uint16), np.empty((30, 40), np.float32)
    torch_products.bfloat16_matmul(a, b, out)
    torch_products.bfloat16_matmul(widen(a), widen(b), wide)
    np.testing.assert_array_equal(widen(out), wide)
    np.testing.assert_allclose(wide, widen(a) @ widen(b), rtol=2**-8, atol=1e-3)
    found, expected = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    step(found, random(*shape, seed=1), torch_products.bfloat16_matmul, learning_rate=1.0)
    of_float32 = functools.partial(torch_products.bfloat16_matmul)  # has not its attribute
    step(expected, random(*shape, seed=1), of_float32, learning_rate=1.0)
    np.testing.assert_array_equal(found, expected)
