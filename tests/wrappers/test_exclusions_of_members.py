"""What a `MultiOptimizer` and its members leave out of weight decay: passed on to all, and warned of if in vain."""

from __future__ import annotations

import warnings
from typing import Any

import fusedopt as fo
import numpy as np
import pytest

WRAPPERS = [lambda optimizer: optimizer, fo.LossScaleOptimizer]


def weights() -> dict[str, Any]:
    return {name: np.ones(2, np.float32) for name in ("a/kernel", "a/bias", "b/kernel", "b/bias")}


def members() -> tuple[Any, Any, Any]:
    first, second = fo.AdamW(0.1, weight_decay=0.5), fo.SGD(0.1, weight_decay=0.5)
    return first, second, fo.MultiOptimizer(fo.OptimizerMap(second, {"a/.*": first}))


def decayed(optimizer: Any, w: dict[str, Any]) -> list[str]:
    optimizer.build(w)
    optimizer.apply({name: np.zeros(2, np.float32) for name in w})
    return [name for name, array in w.items() if (array != 1).all()]


def messages(optimizer: Any, w: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer.build(w)
    return [str(each.message) for each in caught]


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_a_call_on_the_whole_is_passed_on(wrap: Any) -> None:
    _, _, several = members()
    optimizer, w = wrap(several), weights()
    optimizer.exclude_from_weight_decay(var_names=["bias$"])
    assert decayed(optimizer, w) == ["a/kernel", "b/kernel"]
    _, _, several = members()
    optimizer, w = wrap(several), weights()
    optimizer.exclude_from_weight_decay(iter([w["a/bias"], w["b/kernel"]]), ["a/kernel"])
    assert decayed(optimizer, w) == ["b/bias"]


def test_a_later_call_replaces_the_one_before() -> None:
    first, _, several = members()
    w = weights()
    first.exclude_from_weight_decay(var_names=["kernel"])
    several.exclude_from_weight_decay(var_names=["bias"])
    first.exclude_from_weight_decay(var_names=["a/bias", "a/kernel"])
    assert decayed(several, w) == ["b/kernel"]


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_in_vain(wrap: Any) -> None:
    _, _, several = members()
    several.exclude_from_weight_decay(var_names=["gamma", "a/kernel"])
    assert messages(wrap(several), weights()) == [
        "exclude_from_weight_decay: no variable's name matches 'gamma'"
    ]
    first, second, several = members()
    first.exclude_from_weight_decay(var_names=["^b/", "bias"])
    assert messages(wrap(several), weights()) == [
        "exclude_from_weight_decay: no variable's name matches '^b/'; 'b/kernel' belongs to another optimizer"
    ]
    first, second, several = members()
    w = weights()
    first.exclude_from_weight_decay([w["b/bias"], w["b/kernel"]])
    second.exclude_from_weight_decay([w["b/bias"], w["a/bias"]])
    (found,) = messages(wrap(several), w)
    assert found.startswith(
        "exclude_from_weight_decay: expected variables of the optimizer that it"
    )
    # A list that is given to all of them is in vain only if none has any of it.
    first, second, several = members()
    w = weights()
    for member in (first, second):
        member.exclude_from_weight_decay([w["b/bias"]])
    assert messages(wrap(several), w) == []


def test_without_names() -> None:
    _, _, several = members()
    several.exclude_from_weight_decay(var_names=["bias"])
    found = messages(several, list(weights().values()))
    assert found[1] == (
        "exclude_from_weight_decay: no variable's name matches 'bias'; build was given no names, so give it a "
        "dict of variables by name"
    )
    alone = fo.AdamW()
    alone.exclude_from_weight_decay(var_names=["bias"])
    assert messages(alone, [np.ones(2)]) == found[1:]


def test_all_or_nothing_after_build() -> None:
    first, second, several = members()
    w = weights()
    several.exclude_from_weight_decay(var_names=["bias"])
    several.build(w)
    new = np.ones(3, np.float32)
    for wrong in ([w["a/bias"]], [new, w["b/kernel"]], []):
        with pytest.raises(ValueError, match="expected before build"):
            several.exclude_from_weight_decay(wrong)
    with pytest.raises(ValueError, match="expected before build"):
        several.exclude_from_weight_decay(var_names=["kernel"])
    assert first._excluded_variables == second._excluded_variables == []
    several.exclude_from_weight_decay([new])
    more = {**w, "a/new": new, "b/new": np.ones(3, np.float32)}
    several.build(more)
    several.apply({name: np.zeros_like(array) for name, array in more.items()})
    assert (new == 1).all()
    assert (more["b/new"] < 1).all()


@pytest.mark.parametrize(
    "make", [fo.AdamW, lambda: fo.LossScaleOptimizer(fo.SGD()), lambda: members()[2]]
)
def test_names_in_the_place_of_variables_are_refused_at_once(make: Any) -> None:
    optimizer = make()
    for given in (["bias"], "bias", [np.ones(2), "bias"], iter(["bias"])):
        with pytest.raises(TypeError, match=r"^var_list: .*'bias'; give var_names=\['bias'\]$"):
            optimizer.exclude_from_weight_decay(given)
