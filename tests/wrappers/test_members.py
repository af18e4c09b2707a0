"""Members of a `MultiOptimizer`: members without variables, exclusions from weight decay, keys that match nothing."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import OPTIONS, RULES, VARIANTS, Case

ADDED = ["plain", "ema", "accumulation", "everything"]


def make(case: Case, options: str, **more: Any) -> fo.Optimizer:
    return getattr(fo, case.rule)(**{**case.arguments, **OPTIONS[options], **more})


def kinds(optimizer: fo.Optimizer) -> list[tuple[str, tuple[int, ...]]]:
    return [(np.asarray(v).dtype.kind, np.shape(v)) for v in optimizer.variables]


# Keras does not build a member without variables, so it lists what is made with the object.
COUNTER, RATE = ("i", ()), ("f", ())


@pytest.mark.filterwarnings("ignore:optimizer_map")
@pytest.mark.parametrize("options", ADDED)
@pytest.mark.parametrize("case", VARIANTS, ids=str)
def test_a_member_without_variables_lists_what_keras_lists(
    case: Case, options: str, tmp_path: Path
) -> None:
    pytest.importorskip("safetensors")
    schedule = fo.schedules.ExponentialDecay(0.1, 10, 0.9)
    for rate, own in [(0.1, [COUNTER, RATE]), (schedule, [COUNTER])]:
        for keys in ({"none": make(case, options, learning_rate=rate)}, {"w": fo.SGD(0.5)}):
            default = fo.SGD(0.5) if "none" in keys else make(case, options, learning_rate=rate)
            optimizer = fo.MultiOptimizer(fo.OptimizerMap(default, keys))
            w = np.ones(2)
            optimizer.build({"w": w})
            empty = optimizer.optimizers[0 if "none" in keys else 1]
            parts = [own, [COUNTER, RATE]] if "none" in keys else [[COUNTER, RATE], own]
            assert kinds(empty) == own
            assert kinds(optimizer) == [COUNTER, RATE, *parts[0], *parts[1]]
            optimizer.set_weights([np.array(v) for v in optimizer.variables])
            optimizer.apply([np.ones(2)])
            optimizer.save(tmp_path / "state")
            optimizer.load(tmp_path / "state")
            optimizer.finalize_variable_values([w])
            new, state = optimizer.stateless_apply(optimizer.variables, [np.ones(2)], [w])
            assert (new[0].tolist(), len(state)) == ([0.0, 0.0], len(optimizer.variables))
            assert w.tolist() == [0.5, 0.5]
            assert int(empty.variables[0]) == 0
            scaled = fo.LossScaleOptimizer(optimizer)
            assert kinds(scaled)[4:] == kinds(optimizer)


@pytest.mark.parametrize("rule", RULES)
def test_an_optimizer_built_on_nothing_lists_what_keras_lists(rule: str) -> None:
    optimizer = getattr(fo, rule)(use_ema=True, gradient_accumulation_steps=2)
    assert kinds(optimizer) == [COUNTER, RATE]
    optimizer.build([])
    assert kinds(optimizer) == [COUNTER, RATE, *([RATE] if rule == "Nadam" else [])]


# Weight decay


def decayed(optimizer: fo.Optimizer, weights: dict[str, Any]) -> dict[str, bool]:
    """Return which variables a step with gradients of zero changes."""
    before = {name: w.copy() for name, w in weights.items()}
    optimizer.build(weights)
    optimizer.apply([np.zeros_like(w) for w in weights.values()])
    return {name: not np.array_equal(before[name], w) for name, w in weights.items()}


def make_weights() -> dict[str, Any]:
    return {name: np.ones(3) for name in ("a/kernel", "a/bias", "b/kernel", "b/bias")}


@pytest.mark.parametrize("wrap", [lambda o: o, fo.LossScaleOptimizer])
def test_exclusions_may_name_variables_of_another_member(wrap: Any) -> None:
    weights = make_weights()
    first, second = fo.SGD(0.1, weight_decay=0.5), fo.SGD(0.1, weight_decay=0.5)
    first.exclude_from_weight_decay([weights["a/bias"], weights["b/bias"]])
    second.exclude_from_weight_decay([weights["a/kernel"]], ["^a/"])
    optimizer = wrap(fo.MultiOptimizer(fo.OptimizerMap(second, {"a/.*": first})))
    with pytest.warns(UserWarning) as caught:
        found = decayed(optimizer, weights)
    assert [str(each.message).partition(": ")[2] for each in caught] == [
        "no variable's name matches '^a/'; 'a/kernel' belongs to another optimizer",
        (
            "expected variables of the optimizer that it was called on, found only those of others; call it on the "
            "MultiOptimizer, or on the one that updates them"
        ),
    ]
    # Each member's exclusions are about its own variables.
    assert found == {"a/kernel": True, "a/bias": False, "b/kernel": True, "b/bias": True}
    new, _ = optimizer.stateless_apply(
        optimizer.variables, [np.zeros(3)] * 4, list(weights.values())
    )
    assert [not np.array_equal(a, w) for a, w in zip(new, weights.values(), strict=True)] == [
        True,
        False,
        True,
        True,
    ]


def test_an_exclusion_of_no_member_is_refused_and_a_pattern_warns() -> None:
    weights = make_weights()
    first, second = fo.SGD(weight_decay=0.5), fo.SGD(weight_decay=0.5)
    first.exclude_from_weight_decay([np.ones(3)])
    optimizer = fo.MultiOptimizer(fo.OptimizerMap(second, {"a/.*": first}))
    with pytest.raises(ValueError, match="exclude_from_weight_decay: expected variables given to"):
        optimizer.build(weights)
    assert not any(each.built for each in (optimizer, first, second))
    first.exclude_from_weight_decay(var_names=["scale"])
    with pytest.warns(UserWarning, match="no variable's name matches 'scale'"):
        optimizer.build(weights)
    alone = fo.SGD(weight_decay=0.5)
    alone.exclude_from_weight_decay([np.ones(3)])
    with pytest.raises(ValueError, match="not among them"):
        alone.build(weights)


# Keys


def warned(build: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        build()
    assert all(each.category is UserWarning for each in caught)
    return [str(each.message) for each in caught]


@pytest.mark.parametrize("wrap", [lambda o: o, fo.LossScaleOptimizer])
def test_a_key_that_matches_no_variable_warns(wrap: Any) -> None:
    keys = ["a/.*", "b/kernel", "encoder/.*", "b", "A/kernel"]
    optimizer = wrap(fo.MultiOptimizer(fo.OptimizerMap(fo.SGD(), {key: fo.Adam() for key in keys})))
    weights = make_weights()
    assert warned(lambda: optimizer.build(weights)) == [
        f"optimizer_map: no variable's name matches {key!r}" for key in keys[2:]
    ]
    gradients = [np.ones(3)] * 4
    assert warned(lambda: optimizer.build(weights)) == []
    assert warned(lambda: optimizer.apply(gradients)) == []
    arguments = optimizer.variables, gradients, list(weights.values())
    assert warned(lambda: optimizer.stateless_apply(*arguments)) == []


def test_a_key_is_a_name_first() -> None:
    names = {"layer(1)": np.ones(1), "x.y": np.ones(1), "z": np.ones(1)}
    keys = {"layer(1)": fo.Adam(), "x.y": fo.Adam(), "[xz].*": fo.Lion()}
    optimizer = fo.MultiOptimizer(fo.OptimizerMap(fo.SGD(), keys))
    assert warned(lambda: optimizer.build(names)) == []


@pytest.mark.parametrize("wrap", [lambda o: o, fo.LossScaleOptimizer])
@pytest.mark.parametrize("by", ["build", "apply"])
def test_variables_without_names_match_no_key(wrap: Any, by: str) -> None:
    optimizer = wrap(
        fo.MultiOptimizer(fo.OptimizerMap(fo.SGD(1.0), {"w": fo.Adam(), ".*": fo.Lion()}))
    )
    w = np.ones(2)
    call = {"build": lambda: optimizer.build([w]), "apply": lambda: optimizer.apply([w * 0], [w])}
    messages = warned(call[by])
    assert [message.split("'")[-2] for message in messages] == ["w", ".*"]
    assert all("no names" in message for message in messages)


def test_a_warning_that_is_an_error_builds_nothing() -> None:
    optimizer = fo.MultiOptimizer(fo.OptimizerMap(fo.SGD(), {"x": fo.Adam()}))
    with pytest.raises(UserWarning, match="'x'"):
        optimizer.build({"w": np.ones(2)})
    assert not any(each.built for each in (optimizer, *optimizer.optimizers))
