"""Counters count updates up to 2**53. A double does not hold every integer beyond it, so a step and a load refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import RULES
from training import wrapped_or_not

LARGEST = 2**53
BEYOND = [-1, LARGEST + 1, 2**63 - 1, -(2**63)]


def built(kind: str) -> fo.Optimizer:
    optimizer: fo.Optimizer
    if kind == "LossScale":
        optimizer = fo.LossScaleOptimizer(fo.Adam())
    elif kind == "Multi":
        optimizer = fo.MultiOptimizer(fo.OptimizerMap(fo.Adam()))
    elif kind == "LossScale(Multi)":
        optimizer = fo.LossScaleOptimizer(fo.MultiOptimizer(fo.OptimizerMap(fo.Adam())))
    else:
        optimizer = getattr(fo, kind)()
    optimizer.build({"w": np.ones((2, 3), np.float32)})
    return optimizer


def snapshot(optimizer: fo.Optimizer) -> list[bytes]:
    return [array.tobytes() for _, array in optimizer._core.state()]


KINDS = [*RULES, "LossScale", "Multi", "LossScale(Multi)"]


def counters(optimizer: fo.Optimizer) -> list[tuple[int, str]]:
    """Positions and last names of all counters that mean something."""
    names = [name for name, _ in optimizer._core.state()]
    known = ("iteration", "step_counter", "consecutive_skipped_steps")
    return [
        (position, name.rsplit("/", 1)[-1])
        for position, name in enumerate(names)
        if name.endswith(known) and name != "loss_scale/iteration"
    ]


@pytest.mark.parametrize("value", BEYOND)
@pytest.mark.parametrize("kind", KINDS)
def test_set_weights_refuses(kind: str, value: int) -> None:
    optimizer = built(kind)
    names = list(optimizer.named_variables())
    for position, name in enumerate(names):
        last = name.rsplit("/", 1)[-1]
        if last not in ("iteration", "step_counter") or name == "loss_scale/iteration":
            continue
        weights = [np.array(v) for v in optimizer.variables]
        weights[position] = np.array(value)
        before = snapshot(optimizer)
        with pytest.raises(
            ValueError, match=rf"{last}: expected a count from 0 to {LARGEST}, found {value}"
        ):
            optimizer.set_weights(weights)
        assert snapshot(optimizer) == before


@pytest.mark.parametrize("value", BEYOND)
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_refuses_what_was_written_into_a_view(kind: str, value: int) -> None:
    optimizer = built(kind)
    for position, name in counters(optimizer):
        view = optimizer._core.state()[position][1]
        view[...] = value
        before = snapshot(optimizer)
        with pytest.raises(
            ValueError, match=f"apply: {name}: expected a count .*, found {value}; "
        ):
            optimizer.apply([np.ones((2, 3), np.float32)])
        assert snapshot(optimizer) == before
        view[...] = 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_step(kind: str) -> None:
    optimizer = built(kind)
    gradient = np.ones((2, 3), np.float32)
    for position, name in counters(optimizer):
        view = optimizer._core.state()[position][1]
        view[...] = LARGEST - 1
        optimizer.apply([gradient])
        if name == "iteration":
            assert view == LARGEST
        view[...] = LARGEST
        with pytest.raises(ValueError, match=f"{name}: expected a count from 0 to {LARGEST - 1}"):
            optimizer.apply([gradient])
        view[...] = 0
    assert all(np.isfinite(array).all() for _, array in optimizer._core.state())


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_refused(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    path = tmp_path / "state.safetensors"
    optimizer = built(kind)
    for position, name in counters(optimizer):
        view = optimizer._core.state()[position][1]
        view[...] = LARGEST + 1
        optimizer.save(path)
        view[...] = 0
        before = snapshot(optimizer)
        with pytest.raises(ValueError, match=f"{name}: expected a count"):
            optimizer.load(path)
        assert snapshot(optimizer) == before


def test_unsigned_integers_do_not_wrap() -> None:
    optimizer = built("Adam")
    weights: list[Any] = [np.array(v) for v in optimizer.variables]
    weights[0] = np.array(2**63 + 5, np.uint64)
    with pytest.raises(
        ValueError,
        match=r"iteration: expected a number that int64 can hold, found 9223372036854775813",
    ):
        optimizer.set_weights(weights)
    weights[0] = np.array(5, np.uint64)
    optimizer.set_weights(weights)
    assert optimizer.iterations == 5


def test_a_refused_integer_is_printed_exactly() -> None:
    with pytest.raises(ValueError, match="found -9007199254740993$"):
        fo.LossScaleOptimizer(fo.SGD(), dynamic_growth_steps=-(2**53) - 1)


@pytest.mark.parametrize("every", [None, 2, 3])
@wrapped_or_not
def test_iterations(wrap: Callable[[Any], Any], every: int | None) -> None:
    optimizer = wrap(fo.SGD(gradient_accumulation_steps=every))
    assert optimizer.iterations == 0
    w = np.zeros(2)
    optimizer.build([w])
    for call in range(1, 8):
        assert optimizer.apply_gradients([(np.ones(2), w)]) == call
        assert optimizer.iterations == call // (every or 1)
        assert type(optimizer.iterations) is int
