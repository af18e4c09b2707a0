"""Gradients in memory that a step writes are refused. Gradients right next to it are welcome."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from reference import Array
from subject import NAMES, Subject


@pytest.mark.parametrize(
    ("target", "source", "make"),
    [
        (1, 1, lambda w: w),
        (1, 1, lambda w: w[::-1]),
        (1, 2, lambda w: np.broadcast_to(w, (2,))),
        (1, 0, lambda w: w.reshape(-1)[::5]),
        (1, 0, lambda w: w.reshape(-1)[:4].view(np.float64)),
        (1, 0, lambda w: w.reshape(-1).view(np.uint8)[3:19].view(np.float64)),
        (2, 0, lambda w: w.reshape(-1)[5:].reshape(())),
        (3, 0, lambda w: w[0]),
        (3, 0, lambda w: w[::-1, ::-1][0]),
        (3, 3, lambda w: w.view(np.uint16).view(np.float16)),
    ],
)
def test_gradient_over_a_variable(target: int, source: int, make: Callable[[Array], Array]) -> None:
    subject = Subject("accumulation")
    gradients = subject.gradients()
    gradients[target] = make(subject.variables[source])
    assert np.shares_memory(gradients[target], subject.variables[source])
    parts = (
        f"gradient of variable {target} ('{NAMES[target]}')",
        f"overlapping variable {source} ('{NAMES[source]}')",
    )
    with subject.refuses(ValueError, *parts):
        subject.optimizer.apply(gradients)


@pytest.mark.parametrize("offset", [-4, -1, 0, 1, 4])
def test_gradient_over_a_part_of_a_variable(offset: int) -> None:
    base = np.arange(30, dtype=np.float32)
    optimizer = fo.SGD()
    optimizer.build([base[10:15]])
    before = base.copy()
    with pytest.raises(ValueError, match=r"gradient of variable 0: .* overlapping variable 0"):
        optimizer.apply([base[10 + offset : 15 + offset]])
    assert np.array_equal(base, before)


@pytest.mark.parametrize("offset", [-5, 5])
def test_gradient_next_to_a_variable_is_welcome(offset: int) -> None:
    base = np.arange(15.0)
    optimizer = fo.SGD(learning_rate=1.0)
    optimizer.build([base[5:10]])
    optimizer.apply([base[5 + offset : 10 + offset]])
    assert base[5:10].tolist() == [-offset] * 5


@pytest.mark.parametrize("rows", [slice(None, None, 2), slice(None, None, -2)], ids=str)
def test_gradient_that_steps_over_variables_is_welcome(rows: slice) -> None:
    base = np.arange(20.0).reshape(5, 4)
    w = np.zeros((3, 4))
    optimizer = fo.SGD(learning_rate=1.0)
    optimizer.build([base[1], base[3], w])
    expected = -base[rows]
    optimizer.apply([base[rows]], [w])
    assert np.array_equal(w, expected)
    with pytest.raises(ValueError, match=r"gradient of variable 2: .* overlapping variable 0"):
        optimizer.apply([base[:3]], [w])


@pytest.mark.parametrize("name", ["momentum", "velocity", "average", "gradient_accumulator"])
@pytest.mark.parametrize("loss_scale", [False, True])
def test_gradient_over_the_state(name: str, loss_scale: bool) -> None:
    w = np.ones(8)
    optimizer: Any = fo.Adam(use_ema=True, gradient_accumulation_steps=2)
    if loss_scale:
        optimizer = fo.LossScaleOptimizer(optimizer)
    optimizer.build([w])
    optimizer.apply([np.ones(8)])
    state = [array for array in optimizer.variables if array.shape == (8,)]
    position = ["average", "gradient_accumulator", "momentum", "velocity"].index(name)
    reading = [state[position], state[position][::-1], np.broadcast_to(state[position][3:4], (8,))]
    before = [array.copy() for array in (w, *optimizer.variables)]
    for gradient in reading:
        with pytest.raises(ValueError, match=r"gradient of variable 0.*overlapping") as caught:
            optimizer.apply([gradient])
        assert "optimizer's state" in str(caught.value)
    for array, old in zip((w, *optimizer.variables), before, strict=True):
        assert np.array_equal(array, old)


def test_state_of_another_optimizer_is_a_gradient_like_any_other() -> None:
    w, x = np.zeros(2), np.zeros(2)
    first, second = fo.SGD(learning_rate=1.0, momentum=0.5), fo.SGD(learning_rate=1.0)
    first.build([w])
    second.build([x])
    first.apply([np.array([1.0, 2.0])])
    second.apply([first.variables[2]])
    assert x.tolist() == [1.0, 2.0]
