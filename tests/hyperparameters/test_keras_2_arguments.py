"""Arguments of Keras 2 get what Keras 3 gives them, or an error that says what to write instead."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import fusedopt as fo
import pytest
from cases import RULES


def from_config(rule: str, **arguments: Any) -> fo.Optimizer:
    optimizer: fo.Optimizer = getattr(fo, rule).from_config(arguments)
    return optimizer


def deserialized(rule: str, **arguments: Any) -> fo.Optimizer:
    return fo.deserialize({"class_name": rule, "config": arguments})


def got(rule: str, **arguments: Any) -> fo.Optimizer:
    return fo.get({"class_name": rule, "config": arguments})


def constructed(rule: str, **arguments: Any) -> fo.Optimizer:
    optimizer: fo.Optimizer = getattr(fo, rule)(**arguments)
    return optimizer


every_way = pytest.mark.parametrize("make", [constructed, from_config, deserialized, got])
every_rule = pytest.mark.parametrize("rule", RULES)
Make = Callable[..., fo.Optimizer]


@every_way
@every_rule
def test_decay(rule: str, make: Make) -> None:
    with pytest.warns(UserWarning, match=r"^decay: no longer supported.*InverseTimeDecay"):
        make(rule, decay=0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(rule, decay=None)
        make(rule, decay=0.0)


@every_way
@every_rule
@pytest.mark.parametrize(
    ("name", "value", "way_out"),
    [
        ("lr", 0.1, r"lr: did you mean learning_rate\?"),
        ("jit_compile", True, "leave jit_compile out"),
        ("is_legacy_optimizer", False, "leave is_legacy_optimizer out"),
    ],
)
def test_arguments_that_are_gone(
    rule: str, make: Make, name: str, value: object, way_out: str
) -> None:
    with pytest.raises(ValueError, match=rf"^unknown argument\(s\): {name}; {way_out}"):
        make(rule, **{name: value})


@every_way
def test_several(make: Make) -> None:
    with pytest.raises(
        ValueError, match=r"^unknown argument\(s\): jit_compile, lr, other; leave .*; lr: did "
    ):
        make("Adam", lr=0.1, jit_compile=True, other=1)


@every_way
@pytest.mark.parametrize("rule", [rule for rule in RULES if hasattr(getattr(fo, rule), "epsilon")])
def test_epsilon_none(rule: str, make: Make) -> None:
    with pytest.raises(
        TypeError, match="^epsilon: expected a real number, found None; leave the argument out"
    ):
        make(rule, epsilon=None)


INNER = {"class_name": "SGD", "config": {}}


def test_loss_scale() -> None:
    optimizer = fo.LossScaleOptimizer(fo.SGD(), dynamic=True)
    assert "dynamic" not in optimizer.get_config()
    with pytest.raises(
        ValueError, match=r"^dynamic: expected True.*loss_scale_factor on the optimizer itself"
    ):
        fo.LossScaleOptimizer(fo.SGD(), dynamic=False)
    with pytest.raises(TypeError, match="^dynamic: expected True or False"):
        fo.LossScaleOptimizer(fo.SGD(), dynamic="yes")
    own = {"inner_optimizer": INNER, "dynamic": True}
    assert isinstance(deserialized("LossScaleOptimizer", **own), fo.LossScaleOptimizer)
    for name, way_out in [
        ("decay", "give the inner optimizer a schedule"),
        ("lr", "did you mean learning_rate"),
        ("jit_compile", "leave jit_compile out"),
        ("is_legacy_optimizer", "leave is_legacy_optimizer out"),
    ]:
        for make in (deserialized, got, from_config):
            with pytest.raises(ValueError, match=rf"^unknown argument\(s\): {name}; .*{way_out}"):
                make("LossScaleOptimizer", inner_optimizer=INNER, **{name: 0.1})
