"""Adafactor and Muon where they are like no other rule: means of matrices, products, names, failures in between."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest

Array = np.ndarray[Any, Any]


def random(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    return np.array(np.random.default_rng(seed).standard_normal(shape), dtype)


def bits(optimizer: Any, weights: dict[str, Array]) -> list[bytes]:
    return [w.tobytes() for w in weights.values()] + [v.tobytes() for v in optimizer.variables]


def adafactor_after(w: Array, *gradients: Any, **arguments: Any) -> fo.Adafactor:
    optimizer = fo.Adafactor(learning_rate=0.1, **arguments)
    optimizer.build([w])
    for gradient in gradients:
        optimizer.apply([np.asarray(gradient, w.dtype)])
    return optimizer


# Which variables Muon leaves to Adam.


def is_adams(optimizer: fo.Muon, w: Array, name: str | None) -> bool:
    optimizer.build([w] if name is None else {name: w})
    return len(optimizer.variables) == 4  # a moment more than Muon has


@pytest.mark.parametrize(
    ("name", "exclude_layers", "adams"),
    [
        ("dense/kernel", None, False),
        ("dense/kernel", ["dense"], True),
        ("dense/kernel", ["ense/k"], True),
        ("dense/kernel", ["^ense"], False),
        ("dense/kernel", ["head", "kern.l$"], True),
        ("dense/kernel", ["Dense"], False),
        ("dense/kernel", ["(?i)Dense"], True),
        ("dense/kernel", [], False),
        ("", ["^$"], True),
        ("token_embedding/table", None, True),
        ("Embedding_1", None, True),
        ("TOKEN_EMBEDDINGS", None, True),
        ("embed", None, False),
    ],
)
def test_names_that_are_excluded(name: str, exclude_layers: Any, adams: bool) -> None:
    assert is_adams(fo.Muon(exclude_layers=exclude_layers), random(3, 4), name) == adams


def test_embeddings_may_be_included() -> None:
    assert not is_adams(fo.Muon(exclude_embeddings=False), random(3, 4), "embedding")
    other = fo.Muon(exclude_embeddings=False, exclude_layers=["embedding"])
    assert is_adams(other, random(3, 4), "embedding")


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4), (1, 1, 1), (0,), (0, 0, 0)])
def test_only_matrices_are_made_orthogonal(shape: tuple[int, ...]) -> None:
    assert is_adams(fo.Muon(), random(*shape), "kernel")


@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (1, 5), (5, 1), (1, 1), (0, 3), (0, 0)])
def test_every_matrix_is(shape: tuple[int, ...]) -> None:
    assert not is_adams(fo.Muon(), random(*shape), "kernel")


def test_arrays_in_a_list_have_no_names() -> None:
    assert not is_adams(fo.Muon(exclude_layers=["^$", "kernel", "[a-z]"]), random(3, 4), None)


def test_the_excluded_do_what_adamw_does() -> None:
    shapes = {"embedding": (4, 3), "bias": (5,), "gain": (), "filters": (2, 3, 4)}
    weights = {name: random(*shape) for name, shape in shapes.items()}
    copies = {name: w.copy() for name, w in weights.items()}
    muon = fo.Muon(learning_rate=0.01, adam_lr_ratio=0.5, adam_weight_decay=0.2)
    # Adam's rate is smaller, and what decays is not.
    adamw = fo.AdamW(learning_rate=0.005, weight_decay=0.4)
    muon.build(weights)
    adamw.build(copies)
    for step in range(3):
        gradients = {name: random(*shape, seed=step + 1) for name, shape in shapes.items()}
        muon.apply(gradients)
        adamw.apply(gradients)
    for name, w in weights.items():
        np.testing.assert_array_equal(w, copies[name])


# A product that fails.


class NoProduct(Exception):
    pass


@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "loss_scale"])
def test_a_failing_product_leaves_everything_as_it_was(
    wrapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    matmul, left = np.matmul, 0

    def failing(a: Array, b: Array, product: Array) -> None:
        nonlocal left
        left -= 1
        matmul(a, b, product)
        if left == 0:
            raise NoProduct

    def make() -> tuple[Any, dict[str, Array]]:
        with monkeypatch.context() as patch:
            patch.setattr(np, "matmul", failing)
            optimizer: Any = fo.Muon(ns_steps=2, use_ema=True, global_clipnorm=1.0)
        if wrapped:
            optimizer = fo.LossScaleOptimizer(optimizer, dynamic_growth_steps=3)
        weights = {"wide": random(3, 5), "bias": random(5), "tall": random(6, 2)}
        optimizer.build(weights)
        return optimizer, weights

    gradients = [
        {"wide": random(3, 5, seed=s), "bias": random(5, seed=s), "tall": random(6, 2, seed=s)}
        for s in range(3)
    ]
    expected_optimizer, expected = make()
    for g in gradients:
        expected_optimizer.apply(g)
    for n in range(1, 2 * 6 + 1):
        optimizer, weights = make()
        optimizer.apply(gradients[0])
        before = bits(optimizer, weights)
        left = n
        with pytest.raises(NoProduct):
            optimizer.apply(gradients[1])
        assert bits(optimizer, weights) == before
        assert optimizer.iterations == 1
        optimizer.apply(gradients[1])
        optimizer.apply(gradients[2])
        assert bits(optimizer, weights) == bits(expected_optimizer, expected)


def test_a_product_may_not_step_its_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    w, g = random(3, 4), random(3, 4, seed=1)
    optimizer: Any = None

    def meddling(a: Array, b: Array, product: Array) -> None:
        optimizer.apply([g])

    monkeypatch.setattr(np, "matmul", meddling)
    optimizer = fo.Muon()
    optimizer.build({"w": w})
    before = bits(optimizer, {"w": w})
    with pytest.raises(ValueError, match="of its own step"):
        optimizer.apply([g])
    assert bits(optimizer, {"w": w}) == before


def test_a_failing_product_among_several_optimizers(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(a: Array, b: Array, product: Array) -> None:
        raise NoProduct

    monkeypatch.setattr(np, "matmul", failing)
    optimizer = fo.MultiOptimizer(
        fo.OptimizerMap(fo.Adafactor(global_clipnorm=1.0, use_ema=True), {"body": fo.Muon()})
    )
    weights = {"head": random(3, 4), "body": random(4, 3)}
    optimizer.build(weights)
    before = bits(optimizer, weights)
    with pytest.raises(NoProduct):
        optimizer.apply({"head": random(3, 4), "body": random(4, 3)})
    assert bits(optimizer, weights) == before
    assert [part.global_norm for part in optimizer.optimizers] == [None, None]


# Both inside other optimizers.

MAKERS: dict[str, Callable[[], fo.Optimizer]] = {
    "Adafactor": lambda: fo.Adafactor(learning_rate=0.1, use_ema=True),
    "Muon": lambda: fo.Muon(learning_rate=0.1, global_clipnorm=5.0),
}


def make_weights(dtype: Any = np.float32) -> dict[str, Array]:
    shapes = {"wide": (4, 30), "tall": (30, 4), "bias": (30,), "gain": (), "empty": (0, 3)}
    return {name: random(*shape, dtype=dtype) for name, shape in shapes.items()}


def make_gradients(seed: int, dtype: Any = np.float32) -> dict[str, Array]:
    return {name: random(*w.shape, seed=seed, dtype=dtype) for name, w in make_weights().items()}


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("bad", [np.inf, np.nan])
@pytest.mark.parametrize("rule", MAKERS)
def test_an_overflow_is_skipped(rule: str, bad: float, dtype: Any) -> None:
    weights, copies = make_weights(dtype), make_weights(dtype)
    scaled = fo.LossScaleOptimizer(MAKERS[rule](), initial_scale=64.0)
    scaled.build(weights)
    plain = fo.LossScaleOptimizer(MAKERS[rule](), initial_scale=64.0)
    plain.build(copies)
    for step in range(4):
        gradients = make_gradients(step, dtype)
        plain.apply(gradients)
        if step == 2:
            before = bits(scaled.inner_optimizer, weights)
            broken = {name: g.copy() for name, g in gradients.items()}
            broken["tall"][7, 1] = bad
            scaled.apply(broken)
            assert bits(scaled.inner_optimizer, weights) == before
            assert scaled.dynamic_scale == 32.0
        if step >= 2:  # what the halved scale would give
            gradients = {name: g / dtype(2) for name, g in gradients.items()}
        scaled.apply(gradients)
    assert bits(scaled.inner_optimizer, weights) == bits(plain.inner_optimizer, copies)


def test_both_in_a_multi_optimizer() -> None:
    together, apart = make_weights(), make_weights()
    multi = fo.MultiOptimizer(
        fo.OptimizerMap(MAKERS["Adafactor"](), {"wide|bias": MAKERS["Muon"]()})
    )
    multi.build(together)
    parts = [
        (MAKERS["Muon"](), ["wide", "bias"]),
        (MAKERS["Adafactor"](), ["tall", "gain", "empty"]),
    ]
    for optimizer, names in parts:
        optimizer.build({name: apart[name] for name in names})
    for step in range(3):
        gradients = make_gradients(step)
        multi.apply(gradients)
        for optimizer, names in parts:
            optimizer.apply({name: gradients[name] for name in names})
    for name, w in together.items():
        np.testing.assert_array_equal(w, apart[name])


@pytest.mark.parametrize("how", ["set_weights", "own_variables", "file"])
@pytest.mark.parametrize("rule", MAKERS)
def test_state_goes_on_bit_for_bit(rule: str, how: str, tmp_path: Path) -> None:
    weights = make_weights()
    one, other = MAKERS[rule](), MAKERS[rule]()
    one.build(weights)
    for step in range(3):
        one.apply(make_gradients(step))
    copies = {name: w.copy() for name, w in weights.items()}
    other.build(copies)
    other.apply(make_gradients(9))
    for name, w in weights.items():
        copies[name][...] = w
    if how == "set_weights":
        other.set_weights([np.array(v) for v in one.variables])
    elif how == "own_variables":
        store: dict[str, Any] = {}
        one.save_own_variables(store)
        other.load_own_variables(store)
    else:
        one.save(tmp_path / "state")
        other.load(tmp_path / "state")
    assert bits(other, copies) == bits(one, weights)
    for step in range(3, 6):
        one.apply(make_gradients(step))
        other.apply(make_gradients(step))
    assert bits(other, copies) == bits(one, weights)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("rule", MAKERS)
def test_what_is_not_finite_shows_in_its_variable_alone(rule: str, bad: float) -> None:
    weights = make_weights()
    optimizer = MAKERS[rule]()
    if rule == "Muon":  # a global norm would spread it
        optimizer = fo.Muon(learning_rate=0.1)
    optimizer.build(weights)
    gradients = make_gradients(0)
    gradients["wide"][1, 7] = bad
    optimizer.apply(gradients)
    optimizer.apply(make_gradients(1))
    assert np.isnan(weights["wide"]).all()
    assert all(np.isfinite(w).all() for name, w in weights.items() if name != "wide")


def test_a_vector_of_adafactor_shows_it_too() -> None:
    for bad in (np.nan, np.inf):
        w = random(6)
        adafactor_after(w, [1, 2, bad, 4, 5, 6])
        assert np.isnan(w).all()


@pytest.mark.parametrize("rule", ["Adafactor", "Muon"])
def test_a_subclass(rule: str) -> None:
    class Slower(getattr(fo, rule)):  # type: ignore[misc]
        def __init__(self, slowness: float = 2.0, **arguments: Any) -> None:
            super().__init__(**{"learning_rate": 0.1 / slowness, **arguments})
            self.slowness = slowness

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "slowness": self.slowness}

    original = Slower(use_ema=True)
    copy = Slower.from_config(original.get_config())
    assert copy.get_config() == original.get_config()
    plain = getattr(fo, rule)(learning_rate=0.05, use_ema=True)
    results = []
    for optimizer in (original, copy, plain):
        weights = make_weights()
        optimizer.build(weights)
        optimizer.apply(make_gradients(0))
        results.append(bits(optimizer, weights))
    assert results[0] == results[1] == results[2]


# Adafactor's numbers where a mean is zero, or nearly.


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


# What Adafactor lists.


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


def test_a_stateless_step_knows_the_names() -> None:
    weights = {"kernel": random(3, 4), "embedding": random(3, 4), "head": random(4, 3)}
    optimizer = fo.Muon(exclude_layers=["head"])
    optimizer.build(weights)
    gradients = [random(*w.shape, seed=1) for w in weights.values()]
    optimizer.apply(gradients)
    before = bits(optimizer, weights)
    state = [np.array(v) for v in optimizer.variables]
    updated, new_state = optimizer.stateless_apply(state, gradients, list(weights.values()))
    assert bits(optimizer, weights) == before
    optimizer.apply(gradients)
    assert bits(optimizer, weights) == [a.tobytes() for a in [*updated, *new_state]]
