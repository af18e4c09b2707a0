"""The rules and options of the binding `_core`: each field takes a value of its type, and can be set between steps."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
import reference
from fusedopt import _core

GIVEN: dict[str, Any] = {
    "matrix_product": np.matmul,
    "product_dtype": "float32",
    "excludes": lambda _: False,
}
DEFAULTS = {
    rule: {name: GIVEN.get(name, value) for name, value in fields.items()}
    for rule, fields in _core.rule_defaults().items()
}
FIELDS = [(rule, name) for rule, fields in DEFAULTS.items() for name in fields]
OPTIONS: dict[str, Any] = {"learning_rate": 0.5, **reference.OPTIONS}


def wrong_value(rule: str, name: str) -> Any:
    """Return what no field of this one's type can be."""
    return 1 if isinstance(DEFAULTS[rule][name], bool) else "many"


def optimizer_of(rule: str, options: dict[str, Any] = OPTIONS, **values: Any) -> _core.Optimizer:
    return _core.Optimizer(
        _core.rule(rule, **DEFAULTS[rule] | values), _core.Options(**OPTIONS | options)
    )


def stepped(optimizer: _core.Optimizer, variable: np.ndarray[Any, Any]) -> list[float]:
    optimizer.apply([np.array([1.0, -2.0])], None)
    values: list[float] = variable.tolist()
    return values


def test_every_rule_of_the_package_is_there() -> None:
    classes = {name for name in fo.__all__ if isinstance(getattr(fo, name), type)}
    with_class = set(DEFAULTS) - reference.TORCH_RULES.keys()
    assert with_class <= classes
    assert {
        name for name in classes if issubclass(getattr(fo, name), fo.Optimizer)
    } - with_class == {
        "Optimizer",
        "MultiOptimizer",
        "LossScaleOptimizer",
        "Sharded",
    }


def test_rules_in_the_numbers_of_pytorch_have_no_class() -> None:
    assert reference.TORCH_RULES.keys() <= DEFAULTS.keys()
    assert not reference.TORCH_RULES.keys() & set(dir(fo))


@pytest.mark.parametrize("rule", reference.TORCH_RULES)
def test_defaults_are_those_of_the_formulas(rule: str) -> None:
    defaults = dict(reference.TORCH_RULES[rule].defaults)
    del defaults["learning_rate"]
    assert _core.rule_defaults()[rule] == defaults


@pytest.mark.parametrize("rule", [rule for rule in DEFAULTS if hasattr(fo, rule)])
def test_defaults_are_those_of_the_package(rule: str) -> None:
    given: dict[str, Any] = vars(getattr(fo, rule)())
    for name, value in _core.rule_defaults()[rule].items():
        assert name in GIVEN or given[name] == value


@pytest.mark.parametrize("rule", DEFAULTS)
def test_defaults_make_a_rule_that_steps(rule: str) -> None:
    variable = np.ones(2)
    optimizer = optimizer_of(rule)
    optimizer.build([variable], [])
    assert stepped(optimizer, variable) != [1.0, 1.0]


@pytest.mark.parametrize(("rule", "name"), FIELDS)
def test_a_field_that_is_missing_or_of_another_type_is_named(rule: str, name: str) -> None:
    values = dict(DEFAULTS[rule])
    with pytest.raises(TypeError, match=rf"^{name}: expected .*, found (1|'many')$"):
        _core.rule(rule, **values | {name: wrong_value(rule, name)})
    del values[name]
    with pytest.raises(TypeError, match=rf"^{name}: expected a value .* of {rule}, found none$"):
        _core.rule(rule, **values)


@pytest.mark.parametrize("rule", DEFAULTS)
def test_an_unknown_field_is_named(rule: str) -> None:
    with pytest.raises(
        TypeError, match=rf"^momenta: expected a hyperparameter of {rule} \(.*\), found momenta=3$"
    ):
        _core.rule(rule, momenta=3, **DEFAULTS[rule])


def test_an_unknown_rule_is_named() -> None:
    with pytest.raises(ValueError, match=r"^name: expected a rule \(SGD, .*\), found 'sgd'$"):
        _core.rule("sgd", momentum=0.0, nesterov=False)


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_that_is_missing_or_of_another_type_is_named(name: str) -> None:
    wrong = 1 if isinstance(OPTIONS[name], bool) else "many"
    with pytest.raises(TypeError, match=rf"^{name}: expected .*, found {wrong!r}$"):
        _core.Options(**OPTIONS | {name: wrong})
    with pytest.raises(TypeError, match=rf"^{name}: expected a value .* of Options, found none$"):
        _core.Options(**{key: value for key, value in OPTIONS.items() if key != name})
    with pytest.raises(TypeError, match="^momenta: expected a hyperparameter of Options"):
        _core.Options(momenta=3, **OPTIONS)


@pytest.mark.parametrize("warmup_steps", [1 << 63, -(1 << 63) - 1, 2.0, None])
def test_integers_are_of_64_bits(warmup_steps: object) -> None:
    with pytest.raises(TypeError, match="^warmup_steps: expected an integer of 64 bits, found"):
        _core.rule(
            "ScheduleFreeAdamW",
            **DEFAULTS["ScheduleFreeAdamW"] | {"warmup_steps": warmup_steps},
        )


def test_numbers_of_numpy_are_numbers() -> None:
    variable, other = np.ones(2), np.ones(2)
    mine = optimizer_of("ScheduleFreeAdamW", warmup_steps=np.int32(3), beta_1=np.float32(0.5))
    same = optimizer_of("ScheduleFreeAdamW", warmup_steps=3, beta_1=0.5)
    mine.build([variable], [])
    same.build([other], [])
    assert stepped(mine, variable) == stepped(same, other)


def test_what_is_set_acts_from_the_next_step_on() -> None:
    variable = np.zeros(2)
    optimizer = optimizer_of("SGD", momentum=0.5)
    optimizer.build([variable], [])
    assert stepped(optimizer, variable) == [-0.5, 1.0]  # m = -0.5, 1
    optimizer.set_rule(_core.rule("SGD", momentum=0.0, nesterov=False))
    assert stepped(optimizer, variable) == [-1.0, 2.0]
    optimizer.set_rule(_core.rule("SGD", momentum=0.25, nesterov=False))
    assert stepped(optimizer, variable) == [-1.625, 3.25]  # m = -0.625, 1.25
    optimizer.set_options(_core.Options(**OPTIONS | {"learning_rate": None, "clipvalue": 1.0}))
    optimizer.set_rule(_core.rule("SGD", momentum=0.0, nesterov=False))
    assert stepped(optimizer, variable) == [-2.125, 3.75]
    assert [name for name, _ in optimizer.variables()] == [
        "iteration",
        "learning_rate",
        "momentum/0",
    ]


def test_what_needs_other_state_is_a_built_error() -> None:
    assert issubclass(_core.BuiltError, ValueError)
    optimizer = optimizer_of("Adam")
    optimizer.set_rule(_core.rule("Adam", **DEFAULTS["Adam"] | {"amsgrad": True}))
    optimizer.set_rule(_core.rule("Adam", **DEFAULTS["Adam"]))
    optimizer.build([np.ones(2)], [])
    with pytest.raises(_core.BuiltError, match="^amsgrad: expected no change after build"):
        optimizer.set_rule(_core.rule("Adam", **DEFAULTS["Adam"] | {"amsgrad": True}))
    with pytest.raises(_core.BuiltError, match="^use_ema: expected no change after build"):
        optimizer.set_options(_core.Options(**OPTIONS | {"use_ema": True}))
    for refused in (
        lambda: optimizer.set_rule(_core.rule("Adam", **DEFAULTS["Adam"] | {"epsilon": 0.0})),
        lambda: optimizer.set_rule(_core.rule("Lamb", **DEFAULTS["Lamb"])),
        lambda: optimizer.set_options(_core.Options(**OPTIONS | {"clipnorm": 0.0})),
    ):
        with pytest.raises(ValueError, match="expected") as caught:
            refused()
        assert not isinstance(caught.value, _core.BuiltError)


def test_functions_that_are_replaced_are_given_up() -> None:
    class Decay:
        def __call__(self, step: int) -> float:
            return 0.5 / (1 + step)

    decay: Any = Decay()
    watched = weakref.ref(decay)
    optimizer = optimizer_of("Adam", beta_1=decay)
    optimizer.build([np.ones(2)], [])
    del decay
    gc.collect()
    assert watched() is not None
    optimizer.set_rule(_core.rule("Adam", **DEFAULTS["Adam"]))
    gc.collect()
    assert watched() is None


def test_errors_of_an_exclusion_come_out() -> None:
    def excludes(name: str) -> bool:
        raise KeyError(name)

    optimizer = optimizer_of("Muon")
    optimizer.build([np.ones((2, 2))], ["kernel"])
    with pytest.raises(KeyError, match="kernel"):
        optimizer.set_rule(_core.rule("Muon", **DEFAULTS["Muon"] | {"excludes": excludes}))


def test_a_loss_scale_can_be_set() -> None:
    inner = optimizer_of("SGD")
    scaled = _core.LossScale(inner, 8.0, 100)
    scaled.dynamic_scale = 16.0
    scaled.dynamic_growth_steps = 1
    assert (scaled.dynamic_scale, scaled.dynamic_growth_steps) == (16.0, 1)
    for scale in (0.0, -1.0, float("nan"), 2.0**128):
        with pytest.raises(ValueError, match=r"^dynamic_scale: expected a number from 2\^-126"):
            scaled.dynamic_scale = scale
    with pytest.raises(ValueError, match="^dynamic_growth_steps: expected an integer >= 1"):
        scaled.dynamic_growth_steps = 0
    with pytest.raises(ValueError, match="inside a LossScaleOptimizer"):
        inner.set_options(_core.Options(**OPTIONS | {"loss_scale_factor": 2.0}))
    variable = np.zeros(2)
    inner.build([variable], [])
    scaled.apply([np.array([16.0, -32.0])], None)
    assert variable.tolist() == [-0.5, 1.0]
    assert (scaled.dynamic_scale, scaled.dynamic_growth_steps) == (32.0, 1)


def test_options_of_several_optimizers_can_be_set() -> None:
    variables = [np.zeros(2), np.zeros(2)]
    members = [optimizer_of("SGD"), optimizer_of("SGD")]
    multi = _core.MultiOptimizer(members, None, None, False)
    multi.build(variables, [], [0, 1])
    multi.set_options(loss_scale_factor=2.0, global_clipnorm=2.5, skip_nonfinite=True)
    assert [each.loss_scale_factor for each in (multi, *members)] == [2.0, 2.0, 2.0]
    assert not multi.apply([np.array([np.nan, 0.0]), np.zeros(2)], None)
    assert multi.apply([np.array([6.0, 0.0]), np.array([0.0, 8.0])], None)  # of norm 5
    assert (multi.global_norm, multi.skipped_steps) == (5.0, 1)
    assert [variable.tolist() for variable in variables] == [[-0.75, 0.0], [0.0, -1.0]]
    with pytest.raises(ValueError, match="clip by themselves, found clipnorm on one of them"):
        members[0].set_options(
            _core.Options(**OPTIONS | {"loss_scale_factor": 2.0, "clipnorm": 1.0})
        )
    with pytest.raises(ValueError, match="inside a MultiOptimizer"):
        members[0].set_options(_core.Options(**OPTIONS))


def test_setting_waits_for_a_step_of_another_thread_without_the_gil() -> None:
    """A schedule holds the optimizer's lock while it waits for the GIL, so a setter must not hold the GIL."""
    is_in_step, may_go_on = threading.Event(), threading.Event()

    def rate(step: int) -> float:
        is_in_step.set()
        assert may_go_on.wait(30)
        return 0.5

    variable = np.zeros(2)
    optimizer = optimizer_of("SGD", {"learning_rate": rate})
    optimizer.build([variable], [])
    stepping = threading.Thread(target=lambda: stepped(optimizer, variable))
    stepping.start()
    assert is_in_step.wait(30)
    setters = [
        threading.Thread(
            target=optimizer.set_rule, args=[_core.rule("SGD", momentum=0.0, nesterov=True)]
        ),
        threading.Thread(target=optimizer.set_options, args=[_core.Options(**OPTIONS)]),
    ]
    for setter in setters:
        setter.start()
    may_go_on.set()
    for thread in (stepping, *setters):
        thread.join(30)
        assert not thread.is_alive()
    assert variable.tolist() == [-0.5, 1.0]
    assert stepped(optimizer, variable) == [-1.0, 2.0]
