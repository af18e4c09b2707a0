"""Muon's matrix products: which ones a step asks for, of what function, and what follows if one fails."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from adafactor_and_muon import random
from reference import Array, Reference

# Of one panel and of several, wide and tall.
SHAPES = [(30, 70), (70, 30), (512, 512), (520, 777), (777, 520), (1100, 1030)]


def step(w: Array, g: Array, **arguments: Any) -> fo.Muon:
    optimizer = fo.Muon(**arguments)
    optimizer.build([w])
    optimizer.apply([g])
    return optimizer


def made_orthogonal(g: Array, steps: int) -> Array:
    """Newton-Schulz as the paper writes it, in double."""
    x = g.astype(np.float64)
    x /= np.linalg.norm(x) + 1e-7
    x = x.T if g.shape[0] > g.shape[1] else x
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    return x.T if g.shape[0] > g.shape[1] else x


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("steps", [1, 5, pytest.param(2, marks=pytest.mark.maintainer)])
@pytest.mark.parametrize("shape", SHAPES[:-1])
def test_matrices_are_made_orthogonal(shape: tuple[int, int], steps: int, dtype: Any) -> None:
    w, g = np.zeros(shape, dtype), random(*shape, dtype=dtype)
    step(w, g, learning_rate=1.0, momentum=0.0, rms_rate=None, ns_steps=steps)
    expected = made_orthogonal(g, steps)
    tolerance = 1e-4 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(w, -expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("shape", SHAPES)
def test_bits_are_those_of_the_reference(shape: tuple[int, int]) -> None:
    w = random(*shape)
    reference = Reference("Muon", ns_steps=3)
    reference.build([w])
    optimizer = fo.Muon(ns_steps=3)
    optimizer.build([w])
    for seed in (1, 2):
        reference.apply([random(*shape, seed=seed)])
        optimizer.apply([random(*shape, seed=seed)])
    np.testing.assert_array_equal(w, reference.stored()[0])


@pytest.mark.parametrize(
    ("side", "share"), [(64, 1.0), (511, 1.0), (512, 0.75), (1024, 0.625), (1500, 0.625)]
)
def test_symmetric_products_are_asked_for_up_to_the_diagonal(side: int, share: float) -> None:
    work, last = 0, 0

    def product(a: Array, b: Array, out: Array) -> None:
        nonlocal work, last
        last = a.shape[0] * a.shape[1] * b.shape[1]
        work += last
        np.matmul(a, b, out)

    step(random(side, side + 8), random(side, side + 8), ns_steps=1, matrix_product=product)
    general, symmetric = side * side * (side + 8), side * side * (2 * side + 8)
    assert last == general
    assert work - last == pytest.approx(share * symmetric, rel=0.01)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_function_of_the_user_is_asked(dtype: Any) -> None:
    asked: list[Any] = []

    def product(a: Array, b: Array, out: Array) -> str:
        asked.append((a.dtype, b.dtype, out.dtype))
        assert out.flags.c_contiguous
        assert not np.shares_memory(a, out)
        assert not np.shares_memory(b, out)
        for factor in (a, b):
            assert factor.flags.c_contiguous or factor.T.flags.c_contiguous
        np.matmul(a, b, out)
        return "ignored"

    for shape in ((5, 8), (8, 5), (600, 520)):
        g = random(*shape, seed=1, dtype=dtype)
        w, expected = random(*shape, dtype=dtype), random(*shape, dtype=dtype)
        assert step(w, g, matrix_product=product).matrix_product is product
        step(expected, g)
        np.testing.assert_array_equal(w, expected)
    assert set(asked) == {(np.dtype(np.float64 if dtype == np.float64 else np.float32),) * 3}


@pytest.mark.parametrize(
    "shape", [(4, 6), (6, 4), (1, 1), pytest.param((520, 530), marks=pytest.mark.maintainer)]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("failing", range(3))
@pytest.mark.parametrize("wrap", [False, True], ids=["alone", "loss_scale"])
def test_a_product_that_is_not_written_is_refused(
    shape: tuple[int, int], dtype: Any, failing: int, wrap: bool
) -> None:
    left = 0

    def product(a: Array, b: Array, out: Array) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            return a @ b
        return np.matmul(a, b, out)

    w = random(*shape, dtype=dtype)
    optimizer: Any = fo.Muon(matrix_product=product, use_ema=True)
    if wrap:
        optimizer = fo.LossScaleOptimizer(optimizer)
    optimizer.build([w])
    optimizer.apply([random(*shape, seed=1, dtype=dtype)])
    before = [w.tobytes(), *(v.tobytes() for v in optimizer.variables)]
    left = failing + 1
    with pytest.raises(ValueError, match=r"^matrix_product: expected .* found .*; write it there"):
        optimizer.apply([random(*shape, seed=2, dtype=dtype)])
    assert [w.tobytes(), *(v.tobytes() for v in optimizer.variables)] == before
    optimizer.apply([random(*shape, seed=2, dtype=dtype)])
    assert np.isfinite(w).all()


def test_a_product_of_half_the_elements_is_refused() -> None:
    def product(a: Array, b: Array, out: Array) -> None:
        half = len(out) // 2
        np.matmul(a[:half], b, out[:half])

    w = random(4, 4)
    with pytest.raises(ValueError, match="matrix_product"):
        step(w, random(4, 4), matrix_product=product)


def test_a_product_that_is_not_a_number_is_the_users() -> None:
    def product(a: Array, b: Array, out: Array) -> None:
        out[...] = np.nan

    w = random(3, 4)
    step(w, random(3, 4), matrix_product=product)
    assert np.isnan(w).all()


class Refusal(Exception):
    pass


def test_what_a_product_raises_comes_through() -> None:
    def product(a: Array, b: Array, out: Array) -> None:
        raise Refusal

    w = random(3, 4)
    before = w.copy()
    with pytest.raises(Refusal):
        step(w, random(3, 4), matrix_product=product)
    np.testing.assert_array_equal(w, before)


def test_the_configuration_has_the_function_only_if_it_is_given() -> None:
    assert "matrix_product" not in fo.Muon().get_config()
    asked = 0

    def product(a: Array, b: Array, out: Array) -> None:
        nonlocal asked
        asked += 1
        np.matmul(a, b, out)

    optimizer = fo.Muon(matrix_product=product)
    copy: Any = fo.deserialize(fo.serialize(optimizer))
    assert copy.matrix_product is product
    with pytest.raises(TypeError):  # as with a function for a learning rate: never lost in silence
        json.dumps(fo.serialize(optimizer))
    w = random(3, 4)
    optimizer.build([w])
    state = [np.array(v) for v in optimizer.variables]
    weights, _ = optimizer.stateless_apply(state, [random(3, 4, seed=1)], [w])
    assert asked == 15
    optimizer.apply([random(3, 4, seed=1)])
    np.testing.assert_array_equal(w, weights[0])


def test_another_function_can_be_assigned() -> None:
    calls = []

    def product(a: Array, b: Array, out: Array) -> None:
        calls.append(out.shape)
        np.matmul(a, b, out)

    optimizer = fo.Muon()
    optimizer.build([random(3, 4)])
    optimizer.matrix_product = product
    assert optimizer.matrix_product is product
    optimizer.apply([random(3, 4)])
    assert calls
    optimizer.matrix_product = None
    count = len(calls)
    optimizer.apply([random(3, 4)])
    assert len(calls) == count
    with pytest.raises(TypeError, match="matrix_product: expected a function"):
        optimizer.matrix_product = 3  # type: ignore[assignment]


def test_a_function_that_knows_its_optimizer_keeps_nothing_alive() -> None:
    class Products:
        optimizer: Any = None

        def __call__(self, a: Array, b: Array, out: Array) -> None:
            np.matmul(a, b, out)

    product = Products()
    product.optimizer = fo.Muon(matrix_product=product)
    product.optimizer.build([random(3, 4)])
    alive = weakref.ref(product)
    del product
    gc.collect()
    assert alive() is None


# PyTorch's.


def test_products_of_pytorch() -> None:
    pytest.importorskip("torch")
    from fusedopt import torch_products

    for shape in SHAPES:
        g = random(*shape, seed=1)
        expected = np.zeros(shape, np.float32)
        step(expected, g, learning_rate=1.0)
        for product, tolerance in (
            (torch_products.matmul, 1e-4),
            (torch_products.bfloat16_matmul, 0.1),
        ):
            w = np.zeros(shape, np.float32)
            step(w, g, learning_rate=1.0, matrix_product=product)
            assert np.linalg.norm(w - expected) <= tolerance * np.linalg.norm(expected)
    a, b = random(30, 20), random(20, 40, seed=1)
    out = np.empty((30, 40), np.float32)
    torch_products.bfloat16_matmul(a, b, out)
    assert not (out.view(np.uint32) & 0xFFFF).any()
    wide, exact = np.empty((30, 40)), a.astype(np.float64) @ b.astype(np.float64)
    torch_products.bfloat16_matmul(a.astype(np.float64), b.astype(np.float64), wide)
    np.testing.assert_allclose(wide, exact, rtol=1e-10)


def test_what_is_missing_is_named() -> None:
    program = """
import sys
sys.modules["torch"] = None
import fusedopt
try:
    import fusedopt.torch_products
except ImportError as error:
    print(error)
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "expected PyTorch, found none; pip install torch" in found.stdout
