"""An update of one array whose state the caller keeps."""

from __future__ import annotations

from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from fusedopt import _core
from reference import Array
from sample_arrays import numbers, same_bits

SLOTS = {"Adam": 2, "AdamW": 2, "SGD": 0, "Lion": 1, "Adamax": 2, "RMSprop": 1, "Yogi": 2}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", SLOTS)
def test_updates_have_the_bits_of_an_optimizer(rule: str, dtype: Any) -> None:
    start = 1e-6 if rule == "Yogi" else 0.0
    variable = numbers((7, 50), dtype)
    slots = [np.full_like(variable, start) for _ in range(SLOTS[rule])]
    average = np.zeros_like(variable)
    expected = variable.copy()
    optimizer = getattr(fo, rule)(learning_rate=0.1, clipnorm=3.0, use_ema=True, ema_momentum=0.5)
    optimizer.build([expected])
    for t in range(1, 5):
        gradient = numbers((7, 50), dtype, seed=t)
        settings = {"learning_rate": 0.1, "ema_momentum": 0.5 if t > 1 else 0.0}
        norm = _core.hosted_update(
            rule, variable, gradient, slots, settings, t, average=average, clipnorm=3.0
        )
        optimizer.apply([gradient])
        assert norm == pytest.approx(np.linalg.norm(gradient.astype(float)), rel=1e-12)
        assert same_bits(variable, expected)
    kept = dict(optimizer.named_variables())
    assert same_bits(average, kept.pop("average/0"))
    names = [name for name in kept if name.endswith("/0")]
    for found, name in zip(slots, names, strict=True):
        assert same_bits(found, kept[name])


def test_the_norm_is_measured_only_if_it_is_needed() -> None:
    assert _core.hosted_update("SGD", np.ones(2), np.ones(2), [], {"learning_rate": 0.1}, 1) is None


def good() -> dict[str, Any]:
    slots = [np.zeros(3, np.float32), np.zeros(3, np.float32)]
    return {
        "rule": "Adam",
        "variable": np.ones(3, np.float32),
        "gradient": np.ones(3, np.float32),
        "slots": slots,
        "settings": {"learning_rate": 0.1},
        "step": 1,
    }


def without_memory_of_its_own(call: dict[str, Any]) -> dict[str, Any]:
    return {"gradient": call["variable"]}


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "shape": (
        lambda c: {"gradient": np.ones(4)}, ValueError,
        r"^variable: gradient: expected shape \(3,\), found \(4,\)$"),
    "dtype": (lambda c: {"variable": np.ones(3, int)}, TypeError, "^variable: expected float16"),
    "read-only": (
        lambda c: {"variable": np.broadcast_to(np.float32(1), 3)}, ValueError,
        "^variable: expected writable memory"),
    "missing slot": (
        lambda c: {"slots": c["slots"][:1]}, ValueError, "^variable: velocity: expected an array, found none$"),
    "slot too many": (
        lambda c: {"slots": [*c["slots"], np.ones(3, np.float32)]}, ValueError,
        "^variable: expected 2 slots, found more$"),
    "many slots": (lambda c: {"slots": c["slots"] * 2}, ValueError, "^slots: expected at most 3, found 4$"),
    "overlap": (
        without_memory_of_its_own, ValueError,
        "^gradient: expected memory of its own, found it overlapping the variable$"),
    "setting": (lambda c: {"settings": {"learning_rate": -1}}, ValueError, "^learning_rate: expected"),
    "unknown setting": (
        lambda c: {"settings": {"learning_rate": 1, "b": 1}}, TypeError, "^settings: expected those of Adam"),
    "count": (lambda c: {"step": 0}, ValueError, "^variable: step: expected the number of an update, from 1"),
    "clipnorm": (lambda c: {"clipnorm": 0.0}, ValueError, "^clipnorm: expected a finite number > 0"),
    "rule with a number": (
        lambda c: {"rule": "Nadam"}, ValueError, "^rule: expected one without a number of its own, found Nadam"),
    "rule with more state": (
        lambda c: {"rule": "Lamb"}, ValueError, "^rule: expected one that is a formula for each element"),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_a_refused_update_changes_nothing(fault: str) -> None:
    spoil, error, message = REFUSED[fault]
    call = good()
    arrays: list[Array] = [call["variable"], *call["slots"]]
    before = [array.tobytes() for array in arrays]
    for _ in range(2):
        with pytest.raises(error, match=message):
            _core.hosted_update(**call | spoil(call))
    assert [array.tobytes() for array in arrays] == before
    _core.hosted_update(**call)
    assert arrays[0].tobytes() != before[0]
