"""Adafactor where it differs from other rules: means of rows and columns, and the state that it lists."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from adafactor_and_muon import MAKERS, bits, make_gradients, make_weights, random
from reference import Array


def adafactor_after(w: Array, *gradients: Any, **arguments: Any) -> fo.Adafactor:
    optimizer = fo.Adafactor(learning_rate=0.1, **arguments)
    optimizer.build([w])
    for gradient in gradients:
        optimizer.apply([np.asarray(gradient, w.dtype)])
    return optimizer


def test_a_vector_of_adafactor_shows_it_too() -> None:
    for bad in (np.nan, np.inf):
        w = random(6)
        adafactor_after(w, [1, 2, bad, 4, 5, 6])
        assert np.isnan(w).all()


# Means that are zero, or nearly


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("epsilon_1", [1e-30, 0.0])
def test_rows_and_columns_of_zeros_stay(epsilon_1: float, dtype: Any) -> None:
    for shape in [(20, 30), (2, 7, 1100)]:
        w, gradient = random(*shape, dtype=dtype), random(*shape, seed=1, dtype=dtype)
        gradient[..., 3, :] = 0
        gradient[..., :, 5] = 0
        before = w.copy()
        optimizer = adafactor_after(w, gradient, gradient, epsilon_1=epsilon_1)
        assert np.isfinite(w).all()
        zero = gradient == 0
        np.testing.assert_array_equal(w[zero], before[zero])
        assert (w[~zero] != before[~zero]).mean() > 0.9
        assert all(np.isfinite(v).all() for v in optimizer.variables)


@pytest.mark.parametrize("epsilon_1", [1e-30, 0.0])
@pytest.mark.parametrize("shape", [(20, 30), (2, 3, 4), (30, 1), (30,), (), (0, 4), (0,)])
def test_no_gradient_but_zeros(shape: tuple[int, ...], epsilon_1: float) -> None:
    w = random(*shape)
    before = w.copy()
    zeros = np.zeros(shape, np.float32)
    adafactor_after(w, zeros, zeros, epsilon_1=epsilon_1)
    np.testing.assert_array_equal(w, before)


@pytest.mark.parametrize("shape", [(20, 30), (30,), ()])
def test_a_variable_of_zeros_leaves_them(shape: tuple[int, ...]) -> None:
    w = np.zeros(shape)
    adafactor_after(w, random(*shape, seed=1, dtype=np.float64), epsilon_2=0.5)
    # An update's root mean square is 1 in the first step, more or less, and the variable's counts as epsilon_2.
    assert 0.01 < np.sqrt(np.mean(w * w)) < 0.1


def test_large_and_small_gradients() -> None:
    for size in (1e18, 1e-12):  # squares that float32 holds
        w, small = random(20, 30), random(20, 30)
        adafactor_after(w, random(20, 30, seed=1) * np.float32(size))
        adafactor_after(small, random(20, 30, seed=1))
        np.testing.assert_allclose(w, small, rtol=1e-5, atol=1e-6)


def test_squares_beyond_float32() -> None:
    # As in Keras: a matrix's means are infinite, and that shows; a vector's elements stand still.
    w, bias = random(20, 30), random(30)
    before = bias.copy()
    adafactor_after(w, np.full((20, 30), 1e20))
    adafactor_after(bias, np.full(30, 1e20))
    assert np.isnan(w).all()
    np.testing.assert_array_equal(bias, before)
    wide = random(20, 30, dtype=np.float64)
    adafactor_after(wide, np.full((20, 30), 1e20))
    assert np.isfinite(wide).all()


# What it lists


def test_variables_of_adafactor() -> None:
    shapes = {"kernel": (3, 4), "stack": (2, 3, 4), "bias": (4,), "gain": (), "half": (5, 6)}
    weights = {
        name: random(*shape, dtype=np.float16 if name == "half" else np.float64)
        for name, shape in shapes.items()
    }
    optimizer = fo.Adafactor()
    optimizer.build(weights)
    found = [(v.shape, v.dtype.name) for v in optimizer.variables]
    assert found == [
        ((), "int64"),
        ((), "float64"),
        *[((3,), "float64"), ((4,), "float64"), ((3, 4), "float64")],
        *[((2, 3), "float64"), ((2, 4), "float64"), ((2, 3, 4), "float64")],
        *[((), "int64"), ((), "int64"), ((4,), "float64")],
        *[((), "int64"), ((), "int64"), ((), "float64")],
        *[((5,), "float32"), ((6,), "float32"), ((5, 6), "float32")],
    ]
    assert all((v == 0).all() for v in optimizer.variables[2:])
    optimizer.apply({name: random(*shape, seed=1) for name, shape in shapes.items()})
    for first in (2, 5, 14):
        r, c, velocity = optimizer.variables[first : first + 3]
        mean = r.mean(axis=-1, keepdims=True)[..., None]
        expected = r[..., None] * c[..., None, :] / mean
        np.testing.assert_allclose(velocity, expected, rtol=1e-6)
    assert [int(optimizer.variables[k]) for k in (8, 9, 11, 12)] == [0, 0, 0, 0]


def test_a_listed_velocity_is_only_listed() -> None:
    weights, copies = make_weights(), make_weights()
    read, unread = MAKERS["Adafactor"](), MAKERS["Adafactor"]()
    read.build(weights)
    unread.build(copies)
    for step in range(4):
        velocity = next(v for v in read.variables if v.shape == (4, 30) and v.dtype == np.float32)
        velocities = [v for v in read.variables if v.shape == velocity.shape]
        if step == 2:
            for v in velocities[1:]:  # the first is the average
                v[...] = np.nan
        read.apply(make_gradients(step))
        unread.apply(make_gradients(step))
    assert bits(read, weights) == bits(unread, copies)


def test_weights_with_another_velocity_are_taken() -> None:
    weights = make_weights()
    optimizer = fo.Adafactor()
    optimizer.build(weights)
    optimizer.apply(make_gradients(0))
    before = bits(optimizer, weights)
    values = [np.array(v) for v in optimizer.variables]
    values[4][...] = 5.0  # of "wide"
    optimizer.set_weights(values)
    assert bits(optimizer, weights) == before


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_adafactor() -> None:
    program = """
import os, numpy as np, fusedopt as fo
def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
fo.set_num_threads(1)
warm = np.ones((70, 2048), np.float32)
def step_twice(w, g):
    optimizer = fo.Adafactor()
    optimizer.build([w])
    before = resident()
    for _ in range(2):
        optimizer.apply([g])
    return optimizer, before
step_twice(warm, warm.copy())
w, g = np.ones((2048, 2048), np.float32), np.ones((2048, 2048), np.float32)
start = resident()
optimizer, _ = step_twice(w, g)
stepped = resident()
optimizer.variables
print(stepped - start, resident() - stepped)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    of_steps, of_reading = map(int, done.stdout.split())
    assert of_steps < 2**20 < 2**24 <= of_reading + 2**20
