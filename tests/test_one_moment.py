"""What is read beside the steps of another thread is all of one moment."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest

safetensors_numpy = pytest.importorskip("safetensors.numpy")

SIZE = 50_000
STEPS = 40


def make(kind: str) -> tuple[fo.Optimizer, dict[str, Any]]:
    weights = {"w": np.ones(SIZE, np.float32), "v": np.ones(SIZE, np.float16)}
    several = "several" in kind
    optimizer: fo.Optimizer = fo.Adam(0.01, use_ema=True)
    if several:
        optimizer = fo.MultiOptimizer(fo.OptimizerMap(optimizer, {"v": fo.SGD(0.01, momentum=0.9)}))
    if "scaled" in kind:
        optimizer = fo.LossScaleOptimizer(optimizer, initial_scale=4.0, dynamic_growth_steps=7)
    optimizer.build(weights)
    return optimizer, weights


def gradients() -> list[Any]:
    return [np.full(SIZE, 0.5, np.float32), np.full(SIZE, -0.25, np.float32)]


def digest(arrays: Iterable[Any]) -> str:
    return hashlib.sha1(b"".join(np.asarray(array).tobytes() for array in arrays)).hexdigest()


def saved(optimizer: fo.Optimizer, weights: dict[str, Any], folder: Path) -> list[Any]:
    optimizer.save(folder / "state")
    tensors = safetensors_numpy.load_file(folder / "state")
    return [tensors[name] for name in sorted(tensors)]


def saved_with_variables(
    optimizer: fo.Optimizer, weights: dict[str, Any], folder: Path
) -> list[Any]:
    optimizer.save(folder / "state", variables=True)
    tensors = safetensors_numpy.load_file(folder / "state")
    return [tensors[name] for name in sorted(tensors)]


def own_variables(optimizer: fo.Optimizer, weights: dict[str, Any], folder: Path) -> list[Any]:
    store: dict[str, Any] = {}
    optimizer.save_own_variables(store)
    return [store[str(k)] for k in range(len(store))]


def stateless(optimizer: fo.Optimizer, weights: dict[str, Any], folder: Path) -> list[Any]:
    variables, own = optimizer.stateless_apply(
        optimizer.variables, gradients(), list(weights.values())
    )
    return [*variables, *own]


@pytest.mark.parametrize("kind", ["alone", "scaled", "several", "several, scaled"])
@pytest.mark.parametrize("read", [saved, saved_with_variables, own_variables, stateless])
def test_what_is_read_is_that_of_one_step(
    read: Callable[..., list[Any]], kind: str, tmp_path: Path
) -> None:
    optimizer, weights = make(kind)
    recorded = [digest(read(optimizer, weights, tmp_path))]
    for _ in range(STEPS):
        optimizer.apply(gradients())
        recorded.append(digest(read(optimizer, weights, tmp_path)))
    assert len(set(recorded)) == STEPS + 1

    optimizer, weights = make(kind)
    begun = threading.Event()

    def step() -> None:
        for _ in range(STEPS):
            optimizer.apply(gradients())
            begun.set()

    thread = threading.Thread(target=step)
    thread.start()
    begun.wait(60)
    found = []
    while thread.is_alive():
        found.append(digest(read(optimizer, weights, tmp_path)))
    thread.join()
    positions = [recorded.index(one) if one in recorded else None for one in found]
    assert None not in positions
    assert positions == sorted(positions)
    assert digest(read(optimizer, weights, tmp_path)) == recorded[-1]


def test_weights_given_as_live_views_are_set_at_one_moment() -> None:
    def build() -> fo.Optimizer:
        optimizer = fo.Adam(0.01)
        optimizer.build([np.ones(SIZE, np.float32)])
        return optimizer

    expected, optimizer = build(), build()
    begun = threading.Event()

    def step() -> None:
        for _ in range(STEPS):
            optimizer.apply(gradients()[:1])
            begun.set()

    thread = threading.Thread(target=step)
    thread.start()
    begun.wait(60)
    while thread.is_alive():
        optimizer.set_weights(optimizer.variables)
    thread.join()
    for _ in range(STEPS):
        expected.apply(gradients()[:1])
    assert digest(optimizer.variables) == digest(expected.variables)


def test_a_learning_rate_function_may_save_its_own_step(tmp_path: Path) -> None:
    w = np.zeros(3)
    optimizer = fo.SGD(lambda: optimizer.save(tmp_path / "state", variables=True) or 0.1)
    optimizer.build({"w": w})
    for step in range(3):
        before = w.copy()
        optimizer.apply({"w": np.ones(3)})
        tensors = safetensors_numpy.load_file(tmp_path / "state")
        assert tensors["iteration"] == step
        np.testing.assert_array_equal(tensors["variable/w"], before)


def test_what_a_function_raises_between_steps_comes_out() -> None:
    optimizer = fo.SGD()
    optimizer.build([np.zeros(3)])
    with pytest.raises(ZeroDivisionError):
        optimizer._core.between_steps(lambda: 1 // 0)
    assert optimizer._core.between_steps(lambda: 5) == 5
    optimizer.apply([np.ones(3)])
