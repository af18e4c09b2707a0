"""Configurations: `get_config`, `serialize` and `get` lead to an equal optimizer. Anything else is refused."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import LAZY_ONLY, RULES, Case
from training import (
    Halving,
    Schedule,
    bits,
    classes,
    every_case,
    everything,
    make,
    new_variables,
    take_steps,
    wrapped_or_not,
)

OTHER_VALUES: dict[str, Any] = {
    "learning_rate": 0.25,
    "momentum": 0.5,
    "nesterov": True,
    "rho": 0.75,
    "epsilon": 1e-2,
    "centered": True,
    "beta_1": 0.5,
    "beta_2": 0.75,
    "amsgrad": True,
    "weight_decay": 0.125,
    "clipnorm": 2.0,
    "clipvalue": 3.0,
    "global_clipnorm": 4.0,
    "use_ema": True,
    "ema_momentum": 0.5,
    "ema_overwrite_frequency": 3,
    "loss_scale_factor": 5.0,
    "gradient_accumulation_steps": 6,
    "name": "mine",
    "initial_accumulator_value": 0.5,
    "learning_rate_power": -0.25,
    "l1_regularization_strength": 0.25,
    "l2_regularization_strength": 0.125,
    "l2_shrinkage_regularization_strength": 0.0625,
    "beta": 0.5,
    "warmup_steps": 7,
    "beta_2_decay": -0.5,
    "epsilon_1": 1e-20,
    "epsilon_2": 0.25,
    "clip_threshold": 2.0,
    "relative_step": False,
    "adam_beta_1": 0.5,
    "adam_beta_2": 0.75,
    "adam_weight_decay": 0.25,
    "adam_lr_ratio": 0.5,
    "exclude_layers": ["head"],
    "exclude_embeddings": False,
    "muon_a": 3.0,
    "muon_b": -4.0,
    "muon_c": 2.0,
    "ns_steps": 3,
    "rms_rate": 0.5,
    "skip_nonfinite": True,
    "row_updates": "caught_up",
    "slot_dtype": "bfloat16",
    "slot_dtypes": {"w": "bfloat16", "b": "float32"},
    "seed": 7,
    "master": False,
    "rowwise": True,
    "matrix_product": np.matmul,
}
OWN_ARGUMENTS = [
    (rule, name)
    for rule in RULES
    for name, parameter in inspect.signature(getattr(fo, rule)).parameters.items()
    if parameter.kind is not parameter.VAR_KEYWORD
]
OTHER_THAN_DEFAULT = [
    (rule, name)
    for rule, name in OWN_ARGUMENTS
    if not (name == "row_updates" and rule in LAZY_ONLY)
]


@pytest.mark.filterwarnings("ignore:.*no effect without")
@pytest.mark.parametrize(("rule", "name"), OTHER_THAN_DEFAULT)
def test_argument_in_the_configuration(rule: str, name: str) -> None:
    cls = getattr(fo, rule)
    assert name in OTHER_VALUES, f"no other value is listed for {name}"
    default = cls().get_config()
    value = not default[name] if isinstance(default.get(name), bool) else OTHER_VALUES[name]
    config = cls(**{name: value}).get_config()
    assert config == {**default, name: value} != default
    assert cls.from_config(config).get_config() == config
    assert getattr(cls(**{name: value}), name) == value


@pytest.mark.parametrize("rule", RULES)
def test_configuration_has_every_argument(rule: str) -> None:
    parameters = inspect.signature(getattr(fo, rule)).parameters
    not_keras = {name for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY}
    given = {name: True for name in ("skip_nonfinite", "rowwise") if name in parameters}
    made = getattr(fo, rule)(**given)
    assert set(made.get_config()) == set(parameters) - not_keras | given.keys()
    assert set(getattr(fo, rule)().get_config()) == set(parameters) - not_keras  # for Keras


@pytest.mark.parametrize("function", ["get_config", "serialize"])
@wrapped_or_not
@every_case
def test_configuration_makes_an_equal_optimizer(
    case: Case, wrap: Callable[[Any], Any], function: str
) -> None:
    optimizer = wrap(make(case, name="mine"))
    if function == "serialize":
        copy: Any = fo.deserialize(json.loads(json.dumps(fo.serialize(optimizer))))
    else:
        copy = type(optimizer).from_config(json.loads(json.dumps(optimizer.get_config())))
    assert type(copy) is type(optimizer)
    assert copy is not optimizer
    assert copy.get_config() == optimizer.get_config()
    variables, others = new_variables(), new_variables()
    optimizer.build(variables)
    copy.build(others)
    for one in (optimizer, copy):
        take_steps(one, range(4))
    assert everything(copy, others) == everything(optimizer, variables)


def test_configuration_is_a_copy() -> None:
    optimizer = fo.LossScaleOptimizer(fo.Adam())
    config = optimizer.get_config()
    before = json.dumps(config)
    fo.LossScaleOptimizer.from_config(config)
    assert json.dumps(config) == before
    config["inner_optimizer"]["config"]["epsilon"] = 5.0
    assert json.dumps(optimizer.get_config()) == before


def test_configuration_follows_the_learning_rate() -> None:
    optimizer = fo.SGD(learning_rate=0.5)
    optimizer.learning_rate = 0.25
    assert optimizer.get_config()["learning_rate"] == 0.25
    optimizer.variables[1][...] = 0.125
    assert optimizer.get_config()["learning_rate"] == 0.125


@wrapped_or_not
@pytest.mark.parametrize("rule", RULES)
def test_configuration_with_a_schedule_of_the_user(wrap: Callable[[Any], Any], rule: str) -> None:
    optimizer = wrap(getattr(fo, rule)(learning_rate=Halving(0.5)))
    config = json.loads(json.dumps(fo.serialize(optimizer)))
    with pytest.raises(ValueError, match="'Halving'"):
        fo.deserialize(config)
    copy: Any = fo.deserialize(config, custom_objects={"Halving": Halving})
    assert fo.serialize(copy) == config
    for one in (optimizer, copy):
        variables = new_variables()
        one.build(variables)
        take_steps(one, range(2))
        assert one.learning_rate == 0.125
    assert bits(copy.variables) == bits(optimizer.variables)
    own = type(optimizer).from_config(optimizer.get_config(), custom_objects={"Halving": Halving})
    assert own.get_config() == optimizer.get_config()


def test_functions_stay_in_a_configuration() -> None:
    def rate() -> float:
        return 0.5

    config = fo.Adam(learning_rate=rate, beta_1=rate).get_config()
    assert config["learning_rate"] is config["beta_1"] is rate
    assert fo.Adam.from_config(config).learning_rate == 0.5


@pytest.mark.parametrize("rule", RULES)
def test_serialized_form_is_that_of_keras(rule: str) -> None:
    optimizer = getattr(fo, rule)(learning_rate=Halving(0.5))
    found = fo.serialize(optimizer)
    assert found == {
        "module": "keras.optimizers",
        "class_name": rule,
        "config": optimizer.get_config(),
        "registered_name": None,
    }
    assert found["config"]["learning_rate"] == {
        "module": None,
        "class_name": "Halving",
        "config": {"start": 0.5},
        "registered_name": "Halving",
    }


class Own(fo.SGD):
    """An optimizer of the user's own."""

    def __init__(self, learning_rate: Any = 0.5, **options: Any) -> None:
        super().__init__(learning_rate=learning_rate, **options)


@wrapped_or_not
def test_optimizer_of_the_user(wrap: Callable[[Any], Any]) -> None:
    optimizer = wrap(Own(clipnorm=2.0))
    config = fo.serialize(optimizer)
    with pytest.raises(ValueError, match="'Own'"):
        fo.deserialize(config)
    copy = fo.deserialize(config, custom_objects={"Own": Own})
    assert fo.serialize(copy) == config


@pytest.mark.parametrize("name", RULES)
def test_get(name: str) -> None:
    cls = getattr(fo, name)
    for identifier in (name, name.lower(), name.upper(), fo.serialize(cls())):
        found = fo.get(identifier)
        assert type(found).__name__ == name
        assert found.get_config() == cls().get_config()
    optimizer = cls()
    assert fo.get(optimizer) is optimizer


# Refused


NO_CONFIGS: list[tuple[Any, type[Exception], str]] = [
    (None, TypeError, "None"),
    (5, TypeError, "5"),
    ([], TypeError, "[]"),
    ({}, TypeError, "{}"),
    ({"class_name": "SGD"}, TypeError, "class_name and config"),
    ({"config": {}}, TypeError, "class_name and config"),
    ({"class_name": 5, "config": {}}, TypeError, "5"),
    ({"class_name": "SGD", "config": 5}, TypeError, "5"),
    ({"class_name": "SGD", "config": None}, TypeError, "None"),
    ({"class_name": "Sgdd", "config": {}}, ValueError, "'Sgdd'"),
    ({"class_name": "Optimizer", "config": {}}, ValueError, "'Optimizer'"),
    ({"class_name": "", "config": {}}, ValueError, "''"),
    ({"class_name": "SGD", "config": {"rho": 0.9}}, ValueError, "rho"),
    ({"class_name": "SGD", "config": {"momentum": 2.0}}, ValueError, "momentum"),
    ({"class_name": "SGD", "config": {"momentum": "0.9"}}, TypeError, "momentum"),
    ({"class_name": "SGD", "config": {5: 0.9}}, TypeError, "5"),
    ({"class_name": "SGD", "config": {"learning_rate": {}}}, TypeError, "{}"),
    (
        {"class_name": "SGD", "config": {"learning_rate": {"class_name": "Warm", "config": {}}}},
        ValueError,
        "'Warm'",
    ),
    ({"class_name": "LossScaleOptimizer", "config": {}}, TypeError, "inner_optimizer"),
    (
        {"class_name": "LossScaleOptimizer", "config": {"inner_optimizer": {"class_name": "SGD"}}},
        TypeError,
        "class_name and config",
    ),
    (
        fo.serialize(fo.LossScaleOptimizer(fo.Adam()))
        | {"config": {"inner_optimizer": fo.serialize(fo.LossScaleOptimizer(fo.Adam()))}},
        TypeError,
        "LossScaleOptimizer",
    ),
]


@pytest.mark.parametrize(("config", "error", "part"), NO_CONFIGS)
@pytest.mark.parametrize("function", [fo.deserialize, fo.get])
def test_bad_configuration(
    function: Callable[[Any], Any], config: Any, error: type[Exception], part: str
) -> None:
    with pytest.raises(error) as caught:
        function(config)
    assert type(caught.value) is error
    assert part in str(caught.value)


@pytest.mark.parametrize("cls", classes())
@pytest.mark.parametrize("config", [None, 5, [], "text", [("name", "x")]], ids=repr)
def test_from_config_of_no_dict(cls: Any, config: Any) -> None:
    with pytest.raises(TypeError, match="config: expected a dict") as caught:
        cls.from_config(config)
    assert repr(config) in str(caught.value)


@pytest.mark.parametrize("custom", [{"Own": int}, {"Own": 5}, {"Own": Schedule}], ids=str)
def test_custom_object_of_another_kind(custom: Any) -> None:
    with pytest.raises(TypeError, match="Own: expected a subclass of Optimizer"):
        fo.deserialize({"class_name": "Own", "config": {}}, custom_objects=custom)


@pytest.mark.parametrize(
    ("identifier", "error", "part"),
    [
        ("nope", ValueError, "'nope'"),
        ("", ValueError, "''"),
        ("optimizer", ValueError, "'optimizer'"),
        (None, TypeError, "None"),
        (5, TypeError, "5"),
        (fo.SGD, TypeError, "SGD"),
        (["sgd"], TypeError, "['sgd']"),
    ],
    ids=str,
)
def test_get_of_nothing_known(identifier: Any, error: type[Exception], part: str) -> None:
    with pytest.raises(error, match="expected") as caught:
        fo.get(identifier)
    assert part in str(caught.value)


@pytest.mark.parametrize("value", [None, "sgd", {}, fo.SGD], ids=str)
def test_serialize_of_no_optimizer(value: Any) -> None:
    with pytest.raises(TypeError, match="optimizer: expected an Optimizer, found") as caught:
        fo.serialize(value)
    assert repr(value) in str(caught.value)


def test_schedule_without_a_configuration() -> None:
    optimizer = fo.SGD(learning_rate=Schedule())
    for function in (fo.serialize, fo.SGD.get_config):
        with pytest.raises(TypeError, match="Schedule: expected a get_config method"):
            function(optimizer)
