"""An argument that does nothing without another one warns, and what Keras writes by default does not."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import fusedopt as fo
import pytest
from cases import RULES

CASES: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [
    (fo.SGD, {"nesterov": True}, {"momentum": 0.9}),
    (fo.AdamW, {"ema_momentum": 0.999}, {"use_ema": True}),
    (fo.AdamW, {"ema_momentum": 0.0}, {"use_ema": True}),
    (fo.Lamb, {"ema_overwrite_frequency": 10}, {"use_ema": True}),
    (
        lambda **own: fo.schedules.CosineDecay(0.1, 9, **own),
        {"warmup_steps": 5},
        {"warmup_target": 0.2},
    ),
]


@pytest.mark.parametrize(("make", "arguments", "others"), CASES)
def test_an_argument_without_effect_warns(make: Any, arguments: Any, others: Any) -> None:
    ((name, value),), ((needed, _),) = arguments.items(), others.items()
    with pytest.warns(UserWarning) as caught:
        made = make(**arguments)
    assert [str(each.message) for each in caught] == [
        f"{name}: no effect without {needed}, found {value!r}"
    ]
    assert caught[0].filename == __file__
    assert getattr(made, name) == value
    make(**arguments, **others)


@pytest.mark.parametrize("rule", RULES)
def test_the_arguments_of_a_default_configuration_do_not_warn(rule: str) -> None:
    config = getattr(fo, rule)().get_config()
    getattr(fo, rule).from_config(config)
    getattr(fo, rule)(ema_momentum=0.99, ema_overwrite_frequency=0)


def test_only_the_constructor_warns() -> None:
    with pytest.warns(UserWarning, match="nesterov: no effect"):
        optimizer = fo.SGD(nesterov=True)
    copy.deepcopy(optimizer)
    pickle.loads(pickle.dumps(optimizer))
    optimizer.momentum = 0.9
    optimizer.momentum = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="nesterov"):
            fo.deserialize(fo.serialize(optimizer))
