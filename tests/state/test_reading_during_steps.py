"""State that is read while another thread steps is that of one step."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from fusedopt import _core

safetensors_numpy = pytest.importorskip("safetensors.numpy")

SIZE = 500
STEPS = 30


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


@pytest.fixture
def copying(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when the fifth array has been copied; a copy of more then leaves time for steps between them."""
    begun, left = threading.Event(), iter(range(3, -1, -1))
    copies, array = _core.copies, np.array

    is_slow = threading.Event()

    def after_pause(copied: Any) -> Any:
        if is_slow.is_set():
            if next(left, 0) == 0:
                begun.set()
            time.sleep(0.005)
        return copied

    def slow_copies(arrays: list[Any]) -> list[Any]:
        return [after_pause(copies([one])[0]) for one in arrays]

    def slow_array(*arguments: Any, **options: Any) -> Any:
        return after_pause(array(*arguments, **options))

    monkeypatch.setattr(_core, "copies", slow_copies)
    monkeypatch.setattr(np, "array", slow_array)
    begun.slow_down = is_slow.set  # type: ignore[attr-defined]
    return begun


def beside_steps(optimizer: fo.Optimizer, gradients: list[Any], copying: Any, read: Any) -> None:
    """Read while another thread takes all steps, which begin in the middle of the first reading."""

    def step() -> None:
        copying.wait(60)
        for _ in range(STEPS):
            optimizer.apply(gradients)

    copying.slow_down()
    thread = threading.Thread(target=step)
    thread.start()
    read()
    while thread.is_alive():
        read()
    thread.join()


@pytest.mark.parametrize("kind", ["alone", "scaled", "several", "several, scaled"])
@pytest.mark.parametrize("read", [saved, saved_with_variables, own_variables, stateless])
def test_what_is_read_is_that_of_one_step(
    read: Callable[..., list[Any]], kind: str, tmp_path: Path, copying: Any
) -> None:
    optimizer, weights = make(kind)
    recorded = [digest(read(optimizer, weights, tmp_path))]
    for _ in range(STEPS):
        optimizer.apply(gradients())
        recorded.append(digest(read(optimizer, weights, tmp_path)))
    assert len(set(recorded)) == STEPS + 1

    optimizer, weights = make(kind)
    found: list[str] = []
    beside_steps(
        optimizer,
        gradients(),
        copying,
        lambda: found.append(digest(read(optimizer, weights, tmp_path))),
    )
    positions = [recorded.index(one) if one in recorded else None for one in found]
    assert None not in positions
    assert positions == sorted(positions)
    assert digest(read(optimizer, weights, tmp_path)) == recorded[-1]


def test_weights_given_as_live_views_are_set_at_one_moment(copying: Any) -> None:
    def build() -> fo.Optimizer:
        optimizer = fo.Adam(0.01)
        optimizer.build([np.ones(SIZE, np.float32)])
        return optimizer

    expected, optimizer = build(), build()
    for _ in range(STEPS):
        expected.apply(gradients()[:1])
    beside_steps(
        optimizer,
        gradients()[:1],
        copying,
        lambda: optimizer.set_weights(optimizer.variables),
    )
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
