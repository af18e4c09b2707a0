"""The option `row_updates`: its two values, what comes near them, and where it is told."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import LAZY_ONLY, RULES

BOTH = sorted(set(RULES) - LAZY_ONLY)


@pytest.mark.parametrize("rule", RULES)
def test_default(rule: str) -> None:
    optimizer = getattr(fo, rule)()
    assert optimizer.row_updates == "lazy"
    assert "row_updates" not in optimizer.get_config()
    assert "row_updates" not in repr(optimizer)
    parameter = inspect.signature(getattr(fo, rule)).parameters["row_updates"]
    assert parameter.kind is parameter.KEYWORD_ONLY
    assert 'row_updates : {"lazy", "caught_up"}\n' in (inspect.getdoc(getattr(fo, rule)) or "")
    getattr(fo, rule)(row_updates="lazy")


@pytest.mark.parametrize("rule", BOTH)
def test_caught_up(rule: str) -> None:
    optimizer = getattr(fo, rule)(row_updates="caught_up")
    assert optimizer.row_updates == "caught_up"
    assert "row_updates='caught_up'" in repr(optimizer)
    config = json.loads(json.dumps(optimizer.get_config()))
    assert config["row_updates"] == "caught_up"
    for made in (
        getattr(fo, rule).from_config(config),
        fo.deserialize(fo.serialize(optimizer)),
        copy.copy(optimizer),
        copy.deepcopy(optimizer),
        pickle.loads(pickle.dumps(optimizer)),
    ):
        assert made.row_updates == "caught_up"
        assert made.get_config() == optimizer.get_config()


@pytest.mark.parametrize("rule", sorted(LAZY_ONLY))
def test_rules_that_cannot_catch_up(rule: str) -> None:
    with pytest.raises(ValueError, match="row_updates"):
        getattr(fo, rule)(row_updates="caught_up")
    optimizer = getattr(fo, rule)()
    with pytest.raises(ValueError, match="row_updates"):
        optimizer.row_updates = "caught_up"
    assert optimizer.row_updates == "lazy"


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("catch_up", "caught_up"),
        ("caught-up", "caught_up"),
        ("caught up", "caught_up"),
        ("Caught_Up", "caught_up"),
        ("caughtup", "caught_up"),
        ("catchup", "caught_up"),
        ("Lazy", "lazy"),
        ("LAZY", "lazy"),
        (" lazy", "lazy"),
        ("lazily", "lazy"),
    ],
)
def test_slips(value: Any, meant: str) -> None:
    message = (
        f"row_updates: expected 'lazy' or 'caught_up', found {value!r}; did you mean {meant!r}?"
    )
    optimizer = fo.Adam()
    for call in (
        lambda: fo.Adam(row_updates=value),
        lambda: fo.Adam.from_config({"row_updates": value}),
        lambda: setattr(optimizer, "row_updates", value),
    ):
        with pytest.raises(ValueError, match="row_updates") as caught:
            call()
        assert str(caught.value) == message
    assert optimizer.row_updates == "lazy"


@pytest.mark.parametrize("value", ["", "dense", "all", "0"])
def test_other_words(value: Any) -> None:
    with pytest.raises(ValueError, match="row_updates") as caught:
        fo.Adam(row_updates=value)
    assert str(caught.value) == f"row_updates: expected 'lazy' or 'caught_up', found {value!r}"


@pytest.mark.parametrize("value", [None, True, False, 1, b"lazy", ["lazy"], {"lazy"}], ids=repr)
def test_other_types(value: Any) -> None:
    with pytest.raises(TypeError, match="row_updates: expected 'lazy' or 'caught_up', found"):
        fo.Adam(row_updates=value)


@pytest.mark.parametrize("name", ["row_update", "rows_updates", "lazy", "caught_up"])
def test_slips_of_the_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: did you mean row_updates"):
        fo.Adam(**{name: "lazy"})


def test_text_of_another_class() -> None:
    optimizer = fo.Adam(row_updates=np.str_("caught_up"))  # type: ignore[arg-type]
    assert type(optimizer.row_updates) is str
    json.dumps(optimizer.get_config())


def test_averages_refuse_it() -> None:
    with pytest.raises(ValueError, match=r"row_updates.*use_ema|use_ema.*row_updates"):
        fo.Adam(row_updates="caught_up", use_ema=True)
    optimizer = fo.Adam(use_ema=True)
    with pytest.raises(ValueError, match=r"row_updates.*use_ema|use_ema.*row_updates"):
        optimizer.row_updates = "caught_up"
    assert optimizer.row_updates == "lazy"
    fo.Adam(row_updates="lazy", use_ema=True)


def test_assigned_before_build_acts() -> None:
    table = np.zeros((2, 1))
    optimizer = fo.SGD(1.0, momentum=0.5)
    optimizer.row_updates = "caught_up"
    optimizer.build([table])
    for row in (0, 1):
        optimizer.apply([fo.RowGradient(np.ones((1, 1)), np.array([row]))])
    optimizer.catch_up()
    assert table.T.tolist() == [[-1.5, -1.0]]


def test_assigned_after_build_is_refused() -> None:
    optimizer = fo.SGD()
    optimizer.build([np.zeros((2, 1))])
    optimizer.row_updates = "lazy"
    with pytest.raises(AttributeError, match="row_updates: expected before build"):
        optimizer.row_updates = "caught_up"
    assert optimizer.row_updates == "lazy"


def test_on_a_wrapper_it_is_the_inner_optimizers() -> None:
    with pytest.raises(ValueError, match="row_updates: expected on the inner optimizer"):
        fo.LossScaleOptimizer(fo.Adam(), row_updates="caught_up")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="unknown argument"):
        fo.MultiOptimizer(fo.OptimizerMap(fo.Adam()), row_updates="caught_up")  # type: ignore[call-arg]
    outer = fo.LossScaleOptimizer(fo.Adam(row_updates="caught_up"))
    made: Any = fo.deserialize(fo.serialize(outer))
    assert made.inner_optimizer.row_updates == "caught_up"


def test_copies_from_before_the_option() -> None:
    optimizer = fo.Adam()
    state = optimizer.__getstate__()
    del state["attributes"]["row_updates"]
    old = fo.Adam.__new__(fo.Adam)
    old.__setstate__(state)
    assert old.row_updates == "lazy"
    old.build([np.ones(2)])
    old.apply([np.ones(2)])
