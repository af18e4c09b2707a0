"""What a user of Keras expects of an optimizer: rates, counters, exclusions, state, configurations, scales."""

from __future__ import annotations

import doctest
import importlib
import importlib.metadata
import inspect
import json
import math
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import numpy.typing as npt
import pytest
from cases import CASES, OPTIONS, RULES, VARIANTS, Case
from fusedopt.runtime import Config

Array = npt.NDArray[Any]

every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
SHAPES = [(3, 4), (5,), ()]
WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda optimizer: optimizer,
    "loss_scale": lambda optimizer: fo.LossScaleOptimizer(
        optimizer, initial_scale=8.0, dynamic_growth_steps=2
    ),
}
wrapped_or_not = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


def make(case: Case, **arguments: Any) -> Any:
    return getattr(fo, case.rule)(**{"learning_rate": 0.05, **case.arguments, **arguments})


def new_variables(dtype: npt.DTypeLike = np.float64, seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(shape), dtype) for shape in SHAPES]


def gradients(step: int, scale: float = 1.0, dtype: npt.DTypeLike = np.float64) -> list[Any]:
    return [array * dtype_of(dtype).type(scale) for array in new_variables(dtype, 100 + step)]


def dtype_of(dtype: npt.DTypeLike) -> np.dtype[Any]:
    return np.dtype(dtype)


def bits(arrays: Iterable[Any]) -> list[bytes]:
    return [array.tobytes() for array in arrays]


def everything(optimizer: Any, variables: list[Array]) -> list[Any]:
    names = ("dynamic_scale", "step_counter", "consecutive_skipped_steps")
    numbers = [getattr(optimizer, name, None) for name in names]
    return [*bits(variables), *bits(optimizer.variables), optimizer.iterations, *numbers]


def take_steps(optimizer: Any, steps: range, dtype: npt.DTypeLike = np.float64) -> None:
    for step in steps:
        optimizer.apply(gradients(step, optimizer.scale_loss(1.0), dtype))


# Counters


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


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize(
    "call",
    [
        lambda o: o.apply([]),
        lambda o: o.apply(()),
        lambda o: o.apply([], []),
        lambda o: o.apply(iter([])),
        lambda o: o.apply_gradients([]),
        lambda o: o.apply_gradients(zip([], [], strict=True)),
    ],
)
@wrapped_or_not
def test_empty_list_of_gradients_changes_nothing(
    wrap: Callable[[Any], Any], call: Callable[[Any], Any], built: bool
) -> None:
    w = np.ones(2)
    optimizer = wrap(fo.Adam(use_ema=True))
    if built:
        optimizer.build([w])
        optimizer.apply([np.ones(2)])
    before = everything(optimizer, [w])
    assert call(optimizer) in (None, int(built))
    assert everything(optimizer, [w]) == before
    assert optimizer.built == built


# Learning rates


class Halving(fo.schedules.LearningRateSchedule):
    def __init__(self, start: float = 1.0) -> None:
        self.start = start
        self.seen: list[int] = []

    def __call__(self, step: int) -> float:
        self.seen.append(step)
        return self.start * 0.5**step

    def get_config(self) -> dict[str, Any]:
        return {"start": self.start}


@pytest.mark.parametrize("rate", [0.1, 1, 0, np.float32(0.1), np.float64(0.1), Fraction(1, 10)])
@wrapped_or_not
def test_learning_rate_is_any_real_number(wrap: Callable[[Any], Any], rate: Any) -> None:
    for optimizer in (wrap(fo.SGD(learning_rate=rate)), wrap(fo.SGD())):
        optimizer.learning_rate = rate
        assert optimizer.learning_rate == float(rate)
        assert type(optimizer.learning_rate) is float


@wrapped_or_not
def test_number_onto_a_number_is_assigned(wrap: Callable[[Any], Any]) -> None:
    w = np.zeros(1)
    optimizer = wrap(fo.SGD(learning_rate=0.5))
    optimizer.build([w])
    view = optimizer.variables[-1]
    assert float(view) == 0.5
    optimizer.learning_rate = 2
    assert float(view) == 2.0
    optimizer.apply([np.full(1, optimizer.scale_loss(1.0))])
    assert w.tolist() == [-2.0]


@pytest.mark.parametrize("rate", [Halving(), lambda: 0.25], ids=["schedule", "callable"])
@wrapped_or_not
def test_function_onto_a_number_leaves_the_variables(wrap: Callable[[Any], Any], rate: Any) -> None:
    w = np.zeros(1)
    optimizer = wrap(fo.SGD(learning_rate=0.5, momentum=0.5))
    optimizer.build([w])
    count = len(optimizer.variables)
    optimizer.learning_rate = rate
    assert len(optimizer.variables) == count - 1
    optimizer.apply([np.full(1, optimizer.scale_loss(1.0))])
    assert -w[0] == (1.0 if isinstance(rate, Halving) else 0.25)


@wrapped_or_not
def test_number_onto_a_schedule_is_refused(wrap: Callable[[Any], Any]) -> None:
    optimizer = wrap(fo.SGD(learning_rate=Halving(4.0)))
    with pytest.raises(TypeError, match="expected a schedule or callable in the place of a sched"):
        optimizer.learning_rate = 0.1
    assert optimizer.learning_rate == 4.0
    optimizer.learning_rate = Halving(8.0)
    assert optimizer.learning_rate == 8.0
    optimizer.learning_rate = lambda: 16.0
    assert optimizer.learning_rate == 16.0


@wrapped_or_not
def test_number_onto_a_callable_is_allowed(wrap: Callable[[Any], Any]) -> None:
    w = np.zeros(1)
    optimizer = wrap(fo.SGD(learning_rate=lambda: 1.0))
    optimizer.build([w])
    count = len(optimizer.variables)
    optimizer.apply([np.full(1, optimizer.scale_loss(1.0))])
    optimizer.learning_rate = 0.5
    assert len(optimizer.variables) == count + 1
    optimizer.apply([np.full(1, optimizer.scale_loss(1.0))])
    assert w.tolist() == [-1.5]


@pytest.mark.parametrize(
    ("options", "updates"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6]),
        ({"weight_decay": 0.1, "use_ema": True, "clipnorm": 1.0}, [0, 1, 2, 3, 4, 5, 6]),
        ({"gradient_accumulation_steps": 2}, [1, 3, 5]),
        ({"gradient_accumulation_steps": 3, "weight_decay": 0.1, "use_ema": True}, [2, 5]),
    ],
    ids=str,
)
@pytest.mark.parametrize("rule", RULES)
@wrapped_or_not
def test_functions_are_called_once_in_each_update(
    wrap: Callable[[Any], Any], rule: str, options: dict[str, Any], updates: list[int]
) -> None:
    schedule = Halving(0.1)
    calls: list[str] = []

    def beta(name: str) -> Callable[[], float]:
        def function() -> float:
            calls.append(name)
            return 0.5

        return function

    parameters = inspect.signature(getattr(fo, rule)).parameters
    arguments = {name: beta(name) for name in ("beta_1", "beta_2") if name in parameters}
    optimizer = wrap(getattr(fo, rule)(learning_rate=schedule, **arguments, **options))
    optimizer.build(new_variables())
    assert schedule.seen == []
    for step in range(7):
        optimizer.apply(gradients(step))
    assert schedule.seen == updates
    assert sorted(calls) == sorted([*arguments] * len(updates))


def test_schedule_is_not_called_in_a_skipped_step() -> None:
    schedule = Halving()
    optimizer = fo.LossScaleOptimizer(fo.SGD(learning_rate=schedule))
    optimizer.build([np.zeros(1)])
    for gradient in (1.0, math.inf, math.nan, 1.0):
        optimizer.apply([np.array([gradient])])
    assert schedule.seen == [0, 1]


def test_schedule_decides_each_step() -> None:
    w = np.zeros(1)
    optimizer = fo.SGD(learning_rate=Halving())
    optimizer.build([w])
    for _ in range(4):
        optimizer.apply([np.ones(1)])
    assert w.tolist() == [-(1 + 0.5 + 0.25 + 0.125)]
    assert optimizer.learning_rate == 0.5**4


@pytest.mark.parametrize("cls", [fo.Adam, fo.AdamW])
def test_betas_that_are_functions(cls: Any) -> None:
    one, two = np.ones(3), np.ones(3)
    number = cls(beta_1=0.8, beta_2=0.95)
    function = cls(beta_1=lambda: 0.8, beta_2=lambda: 0.95)
    number.build([one])
    function.build([two])
    for step in range(3):
        for optimizer in (number, function):
            optimizer.apply([np.full(3, 1.0 + step)])
    assert one.tobytes() == two.tobytes()


# Losses and exclusions


@pytest.mark.parametrize("loss", [3, 3.0, np.float32(3), np.array([3.0, 3.0])], ids=repr)
def test_scale_loss(loss: Any) -> None:
    assert np.array_equal(fo.SGD().scale_loss(loss), loss)
    assert np.array_equal(fo.SGD(loss_scale_factor=4.0).scale_loss(loss), loss * 4.0)
    optimizer = fo.LossScaleOptimizer(fo.SGD(), initial_scale=16.0)
    assert np.array_equal(optimizer.scale_loss(loss), loss * 16.0)
    optimizer.build([np.zeros(1)])
    optimizer.apply([np.array([math.inf])])
    assert np.array_equal(optimizer.scale_loss(loss), loss * 8.0)


def test_loss_scale_factor_divides_the_gradients() -> None:
    w = np.zeros(1)
    optimizer = fo.SGD(learning_rate=1.0, loss_scale_factor=1000.0)
    optimizer.build([w])
    optimizer.apply([np.array([optimizer.scale_loss(2.0)])])
    assert w[0] == pytest.approx(-2.0, rel=1e-15)


def decayed(optimizer: Any, build: Callable[[Any, dict[str, Array]], Any]) -> list[str]:
    """The names of the variables that decay."""
    variables = {
        name: np.ones(2) for name in ("dense/kernel", "dense/bias", "norm/gamma", "bias_like")
    }
    build(optimizer, variables)
    optimizer.apply([np.zeros(2)] * 4)
    return [name for name, w in variables.items() if w[0] != 1.0]


def by_name(optimizer: Any, variables: dict[str, Array]) -> None:
    optimizer.build(variables)


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ([], ["dense/kernel", "dense/bias", "norm/gamma", "bias_like"]),
        (["bias"], ["dense/kernel", "norm/gamma"]),
        (["bias$"], ["dense/kernel", "norm/gamma", "bias_like"]),
        (["^dense", "gamma"], ["bias_like"]),
        (("a", "e"), []),
        (("norm",), ["dense/kernel", "dense/bias", "bias_like"]),
    ],
    ids=str,
)
@wrapped_or_not
def test_exclusion_by_name(wrap: Callable[[Any], Any], patterns: Any, names: list[str]) -> None:
    optimizer = wrap(fo.AdamW())
    optimizer.exclude_from_weight_decay(var_names=iter(patterns))
    assert decayed(optimizer, by_name) == names


@wrapped_or_not
def test_exclusion_by_variable(wrap: Callable[[Any], Any]) -> None:
    def build(optimizer: Any, variables: dict[str, Array]) -> None:
        optimizer.exclude_from_weight_decay([variables["dense/bias"][:], variables["bias_like"]])
        optimizer.build(list(variables.values()))

    assert decayed(wrap(fo.AdamW()), build) == ["dense/kernel", "norm/gamma"]


def test_exclusion_by_both() -> None:
    def build(optimizer: Any, variables: dict[str, Array]) -> None:
        optimizer.exclude_from_weight_decay([variables["dense/bias"]], ["bias", "gamma"])
        optimizer.build(variables)

    assert decayed(fo.AdamW(), build) == ["dense/kernel"]


def test_second_exclusion_replaces_the_first() -> None:
    def build(optimizer: Any, variables: dict[str, Array]) -> None:
        optimizer.exclude_from_weight_decay([variables["dense/bias"]], ["dense"])
        optimizer.exclude_from_weight_decay(var_names=["gamma"])
        optimizer.build(variables)

    assert decayed(fo.AdamW(), build) == ["dense/kernel", "dense/bias", "bias_like"]


def test_empty_exclusion_replaces_the_first() -> None:
    optimizer = fo.AdamW()
    optimizer.exclude_from_weight_decay(var_names=["dense"])
    optimizer.exclude_from_weight_decay()
    assert len(decayed(optimizer, by_name)) == 4


# Which variables a step takes


def test_build_twice_with_the_same_variables_does_nothing() -> None:
    variables = new_variables()
    optimizer = fo.Adam()
    optimizer.build(variables)
    take_steps(optimizer, range(2))
    before = everything(optimizer, variables)
    optimizer.build([w[...] for w in variables])
    assert everything(optimizer, variables) == before


@pytest.mark.parametrize(
    "pairs",
    [list, tuple, iter, lambda pairs: (pair for pair in pairs), lambda pairs: map(list, pairs)],
    ids=["list", "tuple", "iterator", "generator", "lists"],
)
@wrapped_or_not
def test_apply_gradients(wrap: Callable[[Any], Any], pairs: Callable[[Any], Any]) -> None:
    variables, expected = new_variables(), new_variables()
    optimizer, reference = wrap(fo.Adam()), wrap(fo.Adam())
    reference.build(expected)
    for step in range(3):
        found = zip(gradients(step), variables, strict=True)
        assert optimizer.apply_gradients(pairs(found)) == step + 1
        reference.apply(gradients(step))
        assert everything(optimizer, variables) == everything(reference, expected)


@pytest.mark.parametrize("order", [[2, 0, 1], [1], [2, 1], [0, 2]], ids=str)
def test_some_variables_in_any_order(order: list[int]) -> None:
    variables, expected = new_variables(), new_variables()
    optimizer, reference = fo.Adam(weight_decay=0.1), fo.Adam(weight_decay=0.1)
    optimizer.build(variables)
    reference.build(expected)
    for step in range(3):
        some = gradients(step)
        optimizer.apply([some[i] for i in order], [variables[i] for i in order])
        chosen = [some[i] if i in order else None for i in range(3)]
        if any(gradient is None for gradient in chosen):
            with pytest.warns(UserWarning, match="No gradient for"):
                reference.apply(chosen)
        else:
            reference.apply(chosen)
        assert everything(optimizer, variables) == everything(reference, expected)


def test_first_step_builds_on_all_its_variables() -> None:
    variables = new_variables()
    optimizer = fo.Adam()
    some = gradients(0)
    with pytest.warns(UserWarning, match="No gradient for variable at position 1"):
        optimizer.apply([some[0], None, some[2]], variables)
    assert optimizer.built
    assert len(optimizer.variables) == 2 + 2 * 3
    assert variables[1].tobytes() == new_variables()[1].tobytes()
    optimizer.apply([some[1]], [variables[1]])
    assert variables[1].tobytes() != new_variables()[1].tobytes()


NAMES = ["kernel", "bias", "gain"]


@pytest.mark.parametrize(
    "order", [[0, 1, 2], [2, 0, 1], [1], [2, 1]], ids=["all", "shuffled", "one", "two"]
)
@wrapped_or_not
def test_gradients_by_name(wrap: Callable[[Any], Any], order: list[int]) -> None:
    variables, expected = new_variables(), new_variables()
    optimizer, reference = wrap(fo.Adam()), wrap(fo.Adam())
    optimizer.build(dict(zip(NAMES, variables, strict=True)))
    reference.build(expected)
    for step in range(3):
        some = gradients(step)
        optimizer.apply({NAMES[i]: some[i] for i in order})
        reference.apply([some[i] for i in order], [expected[i] for i in order])
        assert everything(optimizer, variables) == everything(reference, expected)


def test_gradient_by_name_that_is_none() -> None:
    variables = new_variables()
    optimizer = fo.SGD()
    optimizer.build(dict(zip(NAMES, variables, strict=True)))
    with pytest.warns(UserWarning, match="bias"):
        optimizer.apply({"kernel": np.ones((3, 4)), "bias": None, "gain": np.ones(())})
    assert variables[1].tobytes() == new_variables()[1].tobytes()
    assert variables[2].tobytes() != new_variables()[2].tobytes()


# A step without side effects


def check_stateless(optimizer: Any, variables: list[Array], dtype: npt.DTypeLike) -> None:
    some = gradients(7, optimizer.scale_loss(1.0), dtype)
    before = everything(optimizer, variables)
    new, state = optimizer.stateless_apply(optimizer.variables, some, variables)
    assert everything(optimizer, variables) == before
    assert not any(np.shares_memory(a, b) for a in [*new, *state] for b in variables)
    optimizer.apply(some)
    assert bits(new) == bits(variables)
    assert bits(state) == bits(optimizer.variables)


@every_dtype
@every_case
def test_stateless_apply(case: Case, dtype: str) -> None:
    variables = new_variables(dtype)
    optimizer = make(case)
    optimizer.build(variables)
    for step in range(3):
        take_steps(optimizer, range(step, step + 1), dtype)
        check_stateless(optimizer, variables, dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("option", OPTIONS)
@wrapped_or_not
def test_stateless_apply_from_the_start(
    wrap: Callable[[Any], Any], option: str, dtype: str
) -> None:
    variables = new_variables(dtype)
    optimizer = wrap(fo.AdamW(**{"weight_decay": 0.1, **OPTIONS[option]}))
    optimizer.exclude_from_weight_decay([variables[1]], ["gain"])
    optimizer.build(dict(zip(NAMES, variables, strict=True)))
    check_stateless(optimizer, variables, dtype)


@wrapped_or_not
def test_stateless_apply_from_other_values(wrap: Callable[[Any], Any]) -> None:
    optimizer, source = (wrap(fo.Adam(learning_rate=Halving(), use_ema=True)) for _ in range(2))
    optimizer.build(new_variables())
    variables = new_variables()
    source.build(variables)
    take_steps(source, range(3))
    values = [np.array(variable) for variable in source.variables]
    new, state = optimizer.stateless_apply(values, gradients(3, source.scale_loss(1.0)), variables)
    take_steps(source, range(3, 4))
    assert bits(new) == bits(variables)
    assert bits(state) == bits(source.variables)
    assert optimizer.iterations == 0


def test_stateless_apply_of_a_skipped_step() -> None:
    w = np.ones(3)
    optimizer = fo.LossScaleOptimizer(fo.Adam(), initial_scale=8.0)
    optimizer.build([w])
    new, state = optimizer.stateless_apply(optimizer.variables, [np.full(3, math.inf)], [w])
    assert optimizer.dynamic_scale == 8.0
    assert new[0].tolist() == [1.0] * 3
    assert float(state[3]) == 4.0


def test_stateless_apply_may_read_and_write_read_only_values() -> None:
    w = np.ones(3)
    optimizer = fo.SGD(learning_rate=1.0, momentum=0.5)
    optimizer.build([w])
    values = [np.array(variable) for variable in optimizer.variables]
    for value in [*values, w]:
        value.flags.writeable = False
    new, _ = optimizer.stateless_apply(values, [np.ones(3)], [w])
    assert new[0].tolist() == [0.0] * 3


# Configurations

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
    "matrix_product": np.matmul,
}
OWN_ARGUMENTS = [
    (rule, name)
    for rule in RULES
    for name, parameter in inspect.signature(getattr(fo, rule)).parameters.items()
    if parameter.kind is not parameter.VAR_KEYWORD
]


@pytest.mark.parametrize(("rule", "name"), OWN_ARGUMENTS)
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
    arguments = {name for found, name in OWN_ARGUMENTS if found == rule}
    made = getattr(fo, rule)(skip_nonfinite=True)
    assert set(made.get_config()) == arguments - {"matrix_product"}
    not_keras = {"matrix_product", "skip_nonfinite"}
    assert set(getattr(fo, rule)().get_config()) == arguments - not_keras  # for Keras


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


# State


@every_dtype
@every_case
@wrapped_or_not
def test_saved_state_is_continued(wrap: Callable[[Any], Any], case: Case, dtype: str) -> None:
    variables = new_variables(dtype)
    optimizer = wrap(make(case))
    optimizer.build(variables)
    take_steps(optimizer, range(5), dtype)
    store: dict[str, Any] = {}
    optimizer.save_own_variables(store)
    assert list(store) == [str(position) for position in range(len(optimizer.variables))]
    saved = bits(list(store.values()))

    others = [w.copy() for w in variables]
    first, second = wrap(make(case)), wrap(make(case))
    first.build(others)
    first.load_own_variables(store)
    second.build([w.copy() for w in variables])
    second.set_weights([np.array(variable) for variable in optimizer.variables])
    assert bits(first.variables) == bits(second.variables) == bits(optimizer.variables)
    for step in range(5, 9):
        for one in (optimizer, first):
            take_steps(one, range(step, step + 1), dtype)
        assert everything(first, others) == everything(optimizer, variables), f"step {step}"
    assert bits(list(store.values())) == saved, "the store holds copies"


def test_state_is_cast_from_other_widths() -> None:
    w = np.ones(3, np.float32)
    optimizer = fo.LossScaleOptimizer(fo.SGD(momentum=0.5))
    optimizer.build([w])
    values = [
        *(np.int32(0), np.float32(0), np.int16(3), np.float64(4.0)),
        *(np.int32(7), np.float32(0.5), np.array([1.0, 2.0, 3.0], np.float16)),
    ]
    optimizer.set_weights(values)
    assert optimizer.iterations == 7
    assert optimizer.learning_rate == 0.5
    assert optimizer.step_counter == 3
    assert optimizer.dynamic_scale == 4.0
    assert optimizer.variables[-1].tolist() == [1.0, 2.0, 3.0]
    assert optimizer.variables[-1].dtype == np.float32


def test_weights_may_be_the_live_views_themselves() -> None:
    optimizer = fo.Adam()
    variables = new_variables()
    optimizer.build(variables)
    take_steps(optimizer, range(3))
    before = everything(optimizer, variables)
    optimizer.set_weights(optimizer.variables)
    assert everything(optimizer, variables) == before


# Averages


def test_average_and_overwriting() -> None:
    w = np.zeros(1)
    optimizer = fo.SGD(learning_rate=1.0, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3)
    optimizer.build([w])
    average = optimizer.variables[2]
    values, averages = [], []
    for _ in range(6):
        optimizer.apply([np.ones(1)])
        values.append(float(w[0]))
        averages.append(float(average[0]))
    # The first average is the first value; every third update takes the average over.
    assert averages == [-1.0, -1.5, -2.25, -2.75, -3.5, -4.375]
    assert values == [-1.0, -2.0, -2.25, -3.25, -4.25, -4.375]


@pytest.mark.parametrize("frequency", [None, 0])
def test_average_without_overwriting(frequency: int | None) -> None:
    w = np.zeros(1)
    optimizer = fo.SGD(learning_rate=1.0, use_ema=True, ema_overwrite_frequency=frequency)
    optimizer.build([w])
    for _ in range(4):
        optimizer.apply([np.ones(1)])
    assert w.tolist() == [-4.0]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@wrapped_or_not
def test_finalize_takes_the_averages(wrap: Callable[[Any], Any], dtype: str) -> None:
    variables = new_variables(dtype)
    optimizer = wrap(fo.SGD(learning_rate=1.0, use_ema=True, ema_momentum=0.5))
    optimizer.build(variables)
    take_steps(optimizer, range(3), dtype)
    state = bits(optimizer.variables)
    averages = [v.copy() for v in optimizer.variables[-3:]]
    optimizer.finalize_variable_values([w[...] for w in variables])
    assert bits(variables) == bits([a.astype(dtype) for a in averages])
    assert bits(optimizer.variables) == state


def test_finalize_without_averages_does_nothing() -> None:
    variables = new_variables()
    optimizer = fo.SGD()
    optimizer.build(variables)
    take_steps(optimizer, range(2))
    before = everything(optimizer, variables)
    optimizer.finalize_variable_values(variables)
    assert everything(optimizer, variables) == before


def test_average_moves_where_there_is_no_gradient() -> None:
    w, x = np.zeros(1), np.zeros(1)
    optimizer = fo.SGD(learning_rate=1.0, use_ema=True, ema_momentum=0.5)
    optimizer.build([w, x])
    optimizer.apply([np.ones(1), np.ones(1)])
    x[...] = 3.0
    optimizer.apply([np.ones(1)], [w])
    assert x.tolist() == [3.0]
    assert [float(v[0]) for v in optimizer.variables[2:]] == [-1.5, 1.0]


# Norms


@pytest.mark.parametrize("limit", [0.5, 100.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@wrapped_or_not
def test_global_norm(wrap: Callable[[Any], Any], dtype: str, limit: float) -> None:
    variables = new_variables(dtype)
    optimizer = wrap(fo.SGD(learning_rate=1.0, global_clipnorm=limit))
    optimizer.build(variables)
    assert optimizer.global_norm is None
    some = gradients(0, 1.0, dtype)
    norm = math.sqrt(sum(float(np.sum(np.square(g, dtype=np.float64))) for g in some))
    expected = [w - g * min(1.0, limit / norm) for w, g in zip(variables, some, strict=True)]
    optimizer.apply(gradients(0, optimizer.scale_loss(1.0), dtype))
    assert optimizer.global_norm == pytest.approx(norm, rel=1e-14)
    for w, wanted in zip(variables, expected, strict=True):
        np.testing.assert_allclose(w, wanted, rtol=1e-6)
    optimizer.apply([some[1] * optimizer.scale_loss(1.0)], [variables[1]])
    assert optimizer.global_norm == pytest.approx(float(np.linalg.norm(some[1])), rel=1e-6)


def test_global_norm_of_accumulated_gradients() -> None:
    w = np.zeros(2)
    optimizer = fo.SGD(global_clipnorm=1.0, gradient_accumulation_steps=2)
    optimizer.build([w])
    optimizer.apply([np.array([6.0, 0.0])])
    assert optimizer.global_norm is None
    optimizer.apply([np.array([0.0, 8.0])])
    assert optimizer.global_norm == 5.0
    optimizer.apply([np.array([600.0, 0.0])])
    assert optimizer.global_norm == 5.0


def test_global_norm_of_a_skipped_step_is_not_kept() -> None:
    optimizer = fo.LossScaleOptimizer(fo.SGD(global_clipnorm=1.0), initial_scale=1.0)
    optimizer.build([np.zeros(2)])
    optimizer.apply([np.array([3.0, 4.0])])
    optimizer.apply([np.array([math.inf, 4.0])])
    assert optimizer.global_norm == 5.0


@pytest.mark.parametrize("option", ["clipnorm", "clipvalue"])
def test_no_global_norm_without_its_option(option: str) -> None:
    limit: dict[str, Any] = {option: 1.0}
    optimizer = fo.SGD(**limit)
    optimizer.build([np.zeros(2)])
    optimizer.apply([np.array([3.0, 4.0])])
    assert optimizer.global_norm is None


# Loss scales


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("size", [1, 70_001])
def test_step_that_overflows_is_skipped(
    options: dict[str, Any], dtype: str, bad: float, size: int
) -> None:
    variables = [np.ones(4), np.ones(size, np.float32)]
    optimizer = fo.LossScaleOptimizer(
        fo.Adam(**options), initial_scale=1024.0, dynamic_growth_steps=5
    )
    optimizer.build(variables)
    good = [np.ones(4, dtype), np.ones(size, dtype)]
    optimizer.apply(good)
    assert (optimizer.step_counter, optimizer.consecutive_skipped_steps) == (1, 0)
    before = [*bits(variables), *bits(optimizer.variables[4:])]
    norm = optimizer.global_norm
    for number, position in enumerate((0, size // 2, size - 1), start=1):
        overflow = [good[0], good[1].copy()]
        overflow[1][position] = bad
        optimizer.apply(overflow)
        assert [*bits(variables), *bits(optimizer.variables[4:])] == before
        assert optimizer.global_norm == norm
        assert optimizer.dynamic_scale == 1024.0 * 0.5**number
        assert (optimizer.step_counter, optimizer.consecutive_skipped_steps) == (0, number)
    optimizer.apply(good)
    assert (optimizer.step_counter, optimizer.consecutive_skipped_steps) == (1, 0)
    assert bits(variables) != before[:2] or "gradient_accumulation_steps" in options


def test_scale_grows_after_good_steps() -> None:
    w = np.zeros(1)
    optimizer = fo.LossScaleOptimizer(
        fo.SGD(learning_rate=1.0), initial_scale=2.0, dynamic_growth_steps=3
    )
    optimizer.build([w])
    seen = []
    for gradient in [1.0] * 4 + [math.inf] + [1.0] * 4:
        optimizer.apply([np.array([gradient])])
        seen.append((optimizer.dynamic_scale, optimizer.step_counter))
    assert seen == [
        *((2.0, 1), (2.0, 2), (4.0, 0), (4.0, 1)),
        *((2.0, 0), (2.0, 1), (2.0, 2), (4.0, 0), (4.0, 1)),
    ]
    # The step that completes the three still divides by the old scale.
    assert w.tolist() == [-(3 / 2 + 1 / 4 + 3 / 2 + 1 / 4)]
    assert [float(v) for v in optimizer.variables[:4]] == [0.0, 0.0, 1.0, 4.0]


def test_scale_grows_in_every_step() -> None:
    optimizer = fo.LossScaleOptimizer(fo.SGD(), initial_scale=1.0, dynamic_growth_steps=1)
    optimizer.build([np.zeros(1)])
    for step in range(1, 5):
        optimizer.apply([np.ones(1)])
        assert (optimizer.dynamic_scale, optimizer.step_counter) == (2.0**step, 0)


@pytest.mark.parametrize("clip", [{}, {"global_clipnorm": 1.0}, {"gradient_accumulation_steps": 2}])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_float64_gradient_that_float32_cannot_hold(dtype: str, clip: dict[str, Any]) -> None:
    w = np.ones(3, dtype)
    optimizer = fo.LossScaleOptimizer(fo.SGD(learning_rate=1e-38, **clip), initial_scale=1024.0)
    optimizer.build([w])
    optimizer.apply([np.array([1e40, 0.0, 1.0])])  # 1e37 unscaled
    assert optimizer.dynamic_scale == 1024.0
    optimizer.apply([np.array([1e150, 0.0, 1.0])])
    assert np.isfinite(w).all()
    assert optimizer.dynamic_scale == (1024.0 if dtype == "float64" else 512.0)
    assert optimizer.inner_optimizer.variables[0] == (2 if dtype == "float64" else 1)


@pytest.mark.parametrize(
    ("bound", "gradient"),
    [(2.0**127, 2.0**100), (2.0**-126, math.inf), (2.0**-126, math.nan)],
    ids=["largest", "smallest", "nan"],
)
def test_scale_stays_in_its_bounds(bound: float, gradient: float) -> None:
    start = 2.0**125 if bound > 1 else 2.0**-124
    optimizer = fo.LossScaleOptimizer(fo.SGD(), initial_scale=start, dynamic_growth_steps=1)
    optimizer.build([np.zeros(4, np.float32)])
    seen = []
    for _ in range(6):
        optimizer.apply([np.full(4, gradient)])
        seen.append(optimizer.dynamic_scale)
        assert optimizer.step_counter == 0
    assert seen == [(start * bound) ** 0.5] + [bound] * 5


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_accumulation_steps": 2},
        {"clipnorm": 1e30},
        {"clipnorm": 0.125},
        {"global_clipnorm": 0.125},
        {"global_clipnorm": 0.125, "gradient_accumulation_steps": 2},
        {"clipvalue": 1.25},
    ],
    ids=str,
)
@pytest.mark.parametrize("gradient_dtype", ["float32", "float64"])
@every_dtype
@pytest.mark.parametrize("scale", [2.0**127, 2.0**-126], ids=["largest", "smallest"])
def test_gradients_at_the_bounds_of_the_scale(
    scale: float, dtype: str, gradient_dtype: str, options: dict[str, Any]
) -> None:
    w = np.zeros(40, dtype)
    optimizer = fo.LossScaleOptimizer(fo.SGD(learning_rate=1.0, **options), initial_scale=scale)
    optimizer.build([w])
    truth = np.linspace(1.0, 1.5, 40, dtype=np.float32).astype(np.float64)
    scaled = (truth * scale).astype(gradient_dtype)
    assert np.array_equal(scaled / np.float64(scale), truth)
    for _ in range(options.get("gradient_accumulation_steps", 1)):
        optimizer.apply([scaled])
    assert optimizer.iterations == 1
    limit = options.get("clipnorm", options.get("global_clipnorm", math.inf))
    expected = truth * min(1.0, limit / np.linalg.norm(truth))
    expected = np.minimum(expected, options.get("clipvalue", math.inf))
    np.testing.assert_allclose(w, -expected, rtol=3e-7 if dtype == "float32" else 1e-14)


@pytest.mark.parametrize("steps", [None, 2])
@pytest.mark.parametrize("exponent", [-126, -125, 0, 126, 127])
def test_unscaling_is_exact_at_both_ends(exponent: int, steps: int | None) -> None:
    w = np.zeros(3, np.float32)
    scale = 2.0**exponent
    inner = fo.SGD(learning_rate=1.0, gradient_accumulation_steps=steps)
    optimizer = fo.LossScaleOptimizer(inner, initial_scale=scale)
    optimizer.build([w])
    for _ in range(steps or 1):
        optimizer.apply([np.array([1.0, 1.5, -1.0], np.float32) * np.float32(scale)])
    assert w.tolist() == [-1.0, -1.5, 1.0]


def test_unscaled_gradient_may_be_the_smallest_normal_number() -> None:
    w = np.zeros(3, np.float32)
    optimizer = fo.LossScaleOptimizer(fo.SGD(learning_rate=1.0), initial_scale=2.0**127)
    optimizer.build([w])
    optimizer.apply([np.array([2.0, -3.0, 2.0**24], np.float32)])
    assert w.tolist() == [-(2.0**-126), 1.5 * 2.0**-126, -(2.0**-103)]


def test_loss_scale_takes_over_the_factor() -> None:
    w = np.zeros(1)
    inner = fo.SGD(learning_rate=1.0, loss_scale_factor=100.0)
    optimizer = fo.LossScaleOptimizer(inner, initial_scale=4.0)
    assert inner.loss_scale_factor is None
    assert inner.get_config()["loss_scale_factor"] is None
    assert inner.scale_loss(3.0) == 3.0
    optimizer.build([w])
    optimizer.apply([np.array([8.0])])
    assert w.tolist() == [-2.0]


def test_wrapper_and_inner_optimizer_are_one() -> None:
    w = np.zeros(2)
    inner = fo.Adam(global_clipnorm=1.0)
    optimizer = fo.LossScaleOptimizer(inner, initial_scale=2.0)
    assert optimizer.inner_optimizer is inner
    optimizer.build({"w": w})
    assert inner.built
    optimizer.apply({"w": np.array([6.0, 8.0])})
    assert inner.iterations == optimizer.iterations == 1
    assert inner.global_norm == optimizer.global_norm == 5.0
    optimizer.learning_rate = 0.5
    assert inner.learning_rate == 0.5
    assert bits(optimizer.variables[4:]) == bits(inner.variables)


def test_wrapper_around_a_built_optimizer() -> None:
    w = np.zeros(1)
    inner = fo.SGD(learning_rate=1.0)
    inner.build([w])
    inner.apply([np.ones(1)])
    optimizer = fo.LossScaleOptimizer(inner, initial_scale=4.0)
    assert optimizer.built
    optimizer.apply([np.full(1, 4.0)])
    assert w.tolist() == [-2.0]
    assert optimizer.iterations == 2


def test_scale_counts_micro_steps() -> None:
    w = np.zeros(1)
    inner = fo.SGD(learning_rate=1.0, gradient_accumulation_steps=2)
    optimizer = fo.LossScaleOptimizer(inner, initial_scale=2.0, dynamic_growth_steps=3)
    optimizer.build([w])
    for gradient in (2.0, math.inf, 2.0):  # the skipped one stretches the cycle
        assert w.tolist() == [0.0]
        optimizer.apply([np.array([gradient])])
    assert w.tolist() == [-(2 / 2 + 2 / 1) / 2]
    assert optimizer.step_counter == 1


def test_missing_gradients_count_as_finite() -> None:
    w, x = np.zeros(1), np.zeros(1)
    optimizer = fo.LossScaleOptimizer(fo.SGD(learning_rate=1.0), initial_scale=2.0)
    optimizer.build([w, x])
    with pytest.warns(UserWarning, match="variable 0"):
        optimizer.apply([None, np.full(1, 2.0)])
    assert (optimizer.step_counter, w.tolist(), x.tolist()) == (1, [0.0], [-1.0])


# What it says of itself


def test_repr() -> None:
    optimizer = fo.AdamW(name="mine")
    assert repr(optimizer) == "<AdamW(name='mine'), not built>"
    optimizer.build([np.zeros(1)])
    optimizer.apply([np.zeros(1)])
    optimizer.beta_1 = 0.5
    assert repr(optimizer) == "<AdamW(beta_1=0.5, name='mine'), 1 iterations>"
    wrapped = fo.LossScaleOptimizer(fo.SGD(fo.schedules.CosineDecay(0.1, 10)), initial_scale=2.0)
    assert repr(wrapped).startswith("<LossScaleOptimizer(inner_optimizer=<SGD(learning_rate=")
    assert "initial_scale=2.0" in repr(wrapped)


def test_repr_calls_no_function() -> None:
    def fail() -> float:
        raise AssertionError("nobody asked for the learning rate")

    optimizer = fo.SGD(learning_rate=fail)
    optimizer.build([np.zeros(1)])
    assert "SGD" in repr(optimizer)
    assert len(optimizer.variables) == 1


def test_show_config() -> None:
    config = fo.show_config()
    assert set(config) == set(Config.__annotations__)
    assert json.loads(json.dumps(config)) == config
    assert config["version"] == fo.__version__
    assert config["compiler"]
    assert config["level"] in config["levels_supported"]
    assert set(config["levels_supported"]) <= set(config["levels_compiled"])
    assert 1 <= config["threads"] == fo.get_num_threads()
    assert config["threads_from"]
    assert type(config["openmp"]) is bool


@pytest.mark.parametrize("level", fo.show_config()["levels_supported"])
def test_level_is_chosen_by_the_environment(level: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import fusedopt; print(fusedopt.show_config()['level'])"],
        env={**os.environ, "FUSEDOPT_ISA": level},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == level


def installed_version() -> str:
    try:
        return importlib.metadata.version("fusedopt")
    except importlib.metadata.PackageNotFoundError:
        return fo.__version__


def test_version() -> None:
    project = (Path(__file__).parents[1] / "CMakeLists.txt").read_text(encoding="utf-8")
    found = re.search(r"project\(\s*fusedopt\s+VERSION\s+([0-9.]+)", project)
    assert found is not None
    assert fo.__version__ == found[1] == installed_version()


# Documentation


def modules() -> Iterator[str]:
    yield "fusedopt"
    paths = [(fo.__path__, "fusedopt."), (fo.rules.__path__, "fusedopt.rules.")]
    for module in (each for path in paths for each in pkgutil.iter_modules(*path)):
        needs_torch = module.name == "fusedopt.torch_products"
        if module.name != "fusedopt._core" and (not needs_torch or find_spec("torch")):
            yield module.name


@pytest.mark.parametrize("name", [*modules()])
def test_examples_of_the_docstrings(name: str) -> None:
    module = importlib.import_module(name)
    result = doctest.testmod(module, raise_on_error=False)
    assert result.failed == 0
    assert module.__doc__


def test_doctest_finds_the_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [
        test.name
        for name in modules()
        for test in finder.find(importlib.import_module(name))
        if test.examples
    ]
    assert "fusedopt" in found
    homes = {rule: getattr(fo, rule).__module__ for rule in RULES}
    assert {f"{home}.{rule}" for rule, home in homes.items()} <= set(found)


PUBLIC = [
    (name, getattr(fo, name))
    for name in fo.__all__
    if inspect.isclass(getattr(fo, name)) or inspect.isroutine(getattr(fo, name))
]
PUBLIC += [
    (name, value)
    for name in fo.schedules.__all__
    if inspect.isclass(value := getattr(fo.schedules, name))
]


@pytest.mark.parametrize(("name", "value"), PUBLIC, ids=[name for name, _ in PUBLIC])
def test_docstring_of_every_public_name(name: str, value: Any) -> None:
    text = inspect.getdoc(value) or ""
    assert re.search(r"^Examples\n-{8}\n(.|\n)*>>> ", text, re.MULTILINE), f"{name} has no example"
    assert text.splitlines()[0].endswith(".")
    if inspect.isclass(value):
        for method, function in inspect.getmembers(value, inspect.isroutine):
            if not method.startswith("_"):
                assert inspect.getdoc(function), f"{name}.{method}"


@pytest.mark.parametrize("cls", [getattr(fo, rule) for rule in RULES])
def test_docstring_names_every_argument(cls: Any) -> None:
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind is not parameter.VAR_KEYWORD:
            assert re.search(rf"\b{name}\b", inspect.getdoc(cls) or ""), name


def test_every_rule_of_the_table_is_public() -> None:
    assert {case.rule for case in VARIANTS} == set(RULES) <= set(fo.__all__)
    others = set(fo.__all__) - set(RULES)
    classes = {name for name in others if inspect.isclass(getattr(fo, name))}
    assert classes == {"LossScaleOptimizer", "MultiOptimizer", "Optimizer", "OptimizerMap"}


def test_all_lists_every_public_name() -> None:
    assert sorted(fo.__all__) == sorted(set(fo.__all__))
    own = {
        name
        for name, value in vars(fo).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert own == set(fo.__all__) - {"__version__", "schedules"}
