"""Options that Keras lacks: defaults, other values, slips, copies, wrappers, and when they can be assigned."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
from itertools import product
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import LAZY_ONLY, RULES

DEFAULTS: dict[str, Any] = {
    "row_updates": "lazy",
    "slot_dtype": "float32",
    "slot_dtypes": None,
    "seed": 0,
    "master": True,
}
OTHERS: dict[str, Any] = {
    "row_updates": "caught_up",
    "slot_dtype": "bfloat16",
    "slot_dtypes": {"kernel": "bfloat16", "bias": "float32"},
    "seed": 2**63 - 1,
    "master": False,
}
WORDS = {
    "row_updates": "'lazy' or 'caught_up'",
    "slot_dtype": "'float32', 'bfloat16' or 'float8'",
}
SLIPS = {
    "row_updates": {
        "catch_up": "caught_up",
        "caught-up": "caught_up",
        "caught up": "caught_up",
        "Caught_Up": "caught_up",
        "caughtup": "caught_up",
        "catchup": "caught_up",
        "Lazy": "lazy",
        "LAZY": "lazy",
        " lazy": "lazy",
        "lazily": "lazy",
    },
    "slot_dtype": {
        "bf16": "bfloat16",
        "BFLOAT16": "bfloat16",
        "bfloat-16": "bfloat16",
        "16-bit": "bfloat16",
        "fp8": "float8",
        "int8": "float8",
        "8bit": "float8",
        "float8_e4m3fn": "float8",
        "Float8": "float8",
        "fp32": "float32",
        "Float32": "float32",
        "float 32": "float32",
    },
}
SLIPS_OF_THE_NAME = {
    "row_updates": ["row_update", "rows_updates", "lazy", "caught_up"],
    "slot_dtype": ["optim_bits", "state_dtype", "slots_dtype"],
    "slot_dtypes": ["min_8bit_size"],
    "slot_dtype and master": ["stochastic_rounding"],
    "master": ["bf16_stochastic_round", "master_weights"],
    "seed": ["random_seed"],
}


def weights() -> dict[str, Any]:
    return {"kernel": np.ones((5, 3), np.float32), "bias": np.ones(4, np.float16)}


@pytest.mark.parametrize("rule", RULES)
def test_defaults(rule: str) -> None:
    cls = getattr(fo, rule)
    optimizer, parameters = cls(), inspect.signature(cls).parameters
    assert [name for name in parameters if name in DEFAULTS] == list(DEFAULTS)
    for name, default in DEFAULTS.items():
        assert getattr(optimizer, name) == default == parameters[name].default
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert name not in optimizer.get_config()
        assert f"{name}=" not in repr(optimizer)
    cls(**DEFAULTS)


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (rule, name)
        for rule, name in product(RULES, OTHERS)
        if name != "row_updates" or rule not in LAZY_ONLY
    ],
)
def test_other_values_are_in_configurations_and_copies(rule: str, name: str) -> None:
    cls, value = getattr(fo, rule), OTHERS[name]
    optimizer = cls(**{name: value})
    assert getattr(optimizer, name) == value
    assert f"{name}={value!r}" in repr(optimizer)
    config = json.loads(json.dumps(optimizer.get_config()))
    assert config[name] == value
    for made in (
        cls.from_config(config),
        fo.deserialize(fo.serialize(optimizer)),
        copy.copy(optimizer),
        copy.deepcopy(optimizer),
        pickle.loads(pickle.dumps(optimizer)),
    ):
        assert getattr(made, name) == value
        assert made.get_config() == optimizer.get_config()


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [(name, value, meant) for name, slips in SLIPS.items() for value, meant in slips.items()],
)
def test_slips(name: str, value: Any, meant: str) -> None:
    optimizer = fo.Adam()
    for call in (
        lambda: fo.Adam(**{name: value}),
        lambda: fo.Adam.from_config({name: value}),
        lambda: setattr(optimizer, name, value),
    ):
        with pytest.raises(ValueError, match=name) as caught:
            call()
        assert (
            str(caught.value)
            == f"{name}: expected {WORDS[name]}, found {value!r}; did you mean {meant!r}?"
        )
    assert getattr(optimizer, name) == DEFAULTS[name]


@pytest.mark.parametrize(("value", "meant"), SLIPS["slot_dtype"].items())
def test_slips_for_single_variables(value: Any, meant: str) -> None:
    with pytest.raises(ValueError, match="slot_dtypes") as caught:
        fo.Adam(slot_dtypes={"w": value})
    expected = f"expected {WORDS['slot_dtype']}, found {value!r}; did you mean {meant!r}?"
    assert str(caught.value) == f"slot_dtypes['w']: {expected}"


@pytest.mark.parametrize(
    ("name", "meant"),
    [(name, meant) for meant, names in SLIPS_OF_THE_NAME.items() for name in names],
)
def test_slips_of_the_name(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}: did you mean {meant}\?"):
        fo.Adam(**{name: 8})
    with pytest.raises(AttributeError, match=rf"did you mean {meant}\?"):
        setattr(fo.Adam(), name, 8)


@pytest.mark.parametrize("name", ["row_updates", "slot_dtype", "slot_dtypes", "master"])
def test_assigned_after_build(name: str) -> None:
    optimizer = fo.Adam()
    optimizer.build(weights())
    setattr(optimizer, name, DEFAULTS[name])
    with pytest.raises(AttributeError, match=f"{name}: expected before build"):
        setattr(optimizer, name, OTHERS[name])
    assert getattr(optimizer, name) == DEFAULTS[name]
    optimizer.apply({key: np.ones_like(w) for key, w in weights().items()})


@pytest.mark.parametrize(("name", "value"), OTHERS.items())
def test_on_a_wrapper_they_are_the_inner_optimizers(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected on the inner optimizer"):
        fo.LossScaleOptimizer(fo.Adam(), **{name: value})
    with pytest.raises(ValueError, match=f"{name}: expected on the optimizers of the map"):
        fo.MultiOptimizer(fo.OptimizerMap(fo.Adam()), **{name: value})
    made: Any = fo.deserialize(fo.serialize(fo.LossScaleOptimizer(fo.Adam(**{name: value}))))
    assert getattr(made.inner_optimizer, name) == value


@pytest.mark.parametrize(("name", "default"), DEFAULTS.items())
def test_copies_from_before_an_option(name: str, default: Any) -> None:
    state = fo.Adam().__getstate__()
    del state["attributes"][name]
    old = fo.Adam.__new__(fo.Adam)
    old.__setstate__(state)
    assert getattr(old, name) == default
    old.build([np.ones(2)])
    old.apply([np.ones(2)])
