"""What can be set on an optimizer in Keras acts on the optimizer behind it, or is refused; configurations hold it."""

from __future__ import annotations

import json
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import RULES
from in_keras import Array, adapter, fused, ignore_keras, keras, theirs, value, variables

pytestmark = ignore_keras


def ones(*shape: int) -> Any:
    return keras.ops.convert_to_tensor(np.ones(shape, "float32"))


def test_it_is_an_optimizer_of_keras() -> None:
    optimizer = fused("SGD")
    assert isinstance(optimizer, keras.optimizers.Optimizer)
    assert keras.optimizers.get(optimizer) is optimizer


@pytest.mark.parametrize("rule", RULES)
def test_options_of_a_rule_are_those_of_the_optimizer(rule: str) -> None:
    optimizer = fused(rule)
    names = type(optimizer.fused)._hyperparameters.keys() - {"learning_rate"}
    assert {name: getattr(optimizer, name) for name in names} == {
        name: getattr(optimizer.fused, name) for name in names
    }
    optimizer.weight_decay = 0.5
    optimizer.clipnorm = 2.0
    optimizer.name = "mine"
    assert (optimizer.fused.weight_decay, optimizer.fused.clipnorm) == (0.5, 2.0)
    assert optimizer.fused.name == "mine"
    assert not names & vars(optimizer).keys()


def test_an_assigned_option_acts_from_the_next_step_on() -> None:
    (w,) = variables(np.ones(2, "float32"))
    optimizer = fused("SGD", 1.0)
    optimizer.apply([ones(2)], [w])
    optimizer.weight_decay = 0.5
    optimizer.clipvalue = 0.25
    optimizer.apply([ones(2)], [w])
    np.testing.assert_array_equal(value(w), np.full(2, -0.25, "float32"))
    w.assign([1.0, 1.0])
    optimizer.apply([ones(2)])
    np.testing.assert_array_equal(value(w), np.full(2, 0.25, "float32"))


@pytest.mark.parametrize(
    ("assign", "message"),
    [
        (lambda o: setattr(o, "weight_decay", -1.0), "weight_decay"),
        (lambda o: setattr(o, "lr", 0.1), "did you mean learning_rate"),
        (lambda o: setattr(o, "learning_rate", -1.0), "learning_rate: expected a finite number"),
        (lambda o: setattr(o, "learning_rate", float("nan")), "learning_rate"),
        (lambda o: o.no_such_thing, "no_such_thing"),
    ],
)
def test_what_has_no_meaning_is_refused(assign: Any, message: str) -> None:
    with pytest.raises((AttributeError, ValueError), match=message):
        assign(fused("AdamW"))


def test_state_shaping_options_are_refused_after_build() -> None:
    optimizer = fused("Adam")
    optimizer.build(variables(np.ones(2, "float32")))
    for name, given in (("use_ema", True), ("gradient_accumulation_steps", 2), ("amsgrad", True)):
        with pytest.raises(AttributeError, match=f"{name}: expected before build"):
            setattr(optimizer, name, given)


@pytest.mark.parametrize("name", ["weight_decay", "use_ema", "clipnorm"])
def test_a_wrapper_refuses_options_of_what_is_inside(name: str) -> None:
    for optimizer in (
        fused("LossScaleOptimizer", fo.SGD()),
        fused("MultiOptimizer", fo.OptimizerMap(fo.SGD())),
    ):
        with pytest.raises(AttributeError, match=f"{name}: expected on the optimizers inside"):
            setattr(optimizer, name, 1.0)
        assert not getattr(optimizer, name)


def test_the_scale_can_be_assigned() -> None:
    optimizer = fused("LossScaleOptimizer", fo.SGD())
    optimizer.dynamic_scale = 8.0
    assert optimizer.fused.dynamic_scale == float(optimizer.dynamic_scale.value) == 8.0
    optimizer.dynamic_growth_steps = 5
    assert optimizer.fused.dynamic_growth_steps == 5
    assert float(optimizer.scale_loss(2.0)) == 16.0


def test_a_wrapper_has_the_learning_rate_of_what_is_inside() -> None:
    optimizer = fused("LossScaleOptimizer", fo.SGD(0.5))
    assert float(optimizer.learning_rate.value) == 0.5
    optimizer.learning_rate = 0.25
    assert optimizer.fused.inner_optimizer.learning_rate == 0.25
    several = fused("MultiOptimizer", fo.OptimizerMap(fo.SGD(0.5)))
    assert not hasattr(several, "learning_rate")
    with pytest.raises(AttributeError, match="MultiOptimizer has no learning rate"):
        several.learning_rate = 0.1
    several.optimizers[0].learning_rate = 0.1
    assert several.fused.optimizers[0].learning_rate == 0.1


# Construction


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: adapter.Optimizer("adam"),
            TypeError,
            "expected a fusedopt.Optimizer, found 'adam'",
        ),
        (lambda: adapter.Optimizer(theirs("SGD")), TypeError, "expected a fusedopt.Optimizer"),
        (lambda: adapter.Optimizer(fo.SGD(), clipnorm=1.0), TypeError, "found clipnorm here"),
        (lambda: adapter.LossScaleOptimizer(fo.SGD()), TypeError, "a fusedopt.LossScaleOptimizer"),
        (lambda: adapter.MultiOptimizer(fo.SGD()), TypeError, "a fusedopt.MultiOptimizer"),
    ],
)
def test_what_cannot_be_wrapped_is_refused(make: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_built_optimizers_and_parts_are_refused() -> None:
    built = fo.SGD()
    built.build([np.ones(2)])
    with pytest.raises(ValueError, match="expected an optimizer that is not built"):
        adapter.Optimizer(built)
    part = fo.SGD()
    whole = fo.LossScaleOptimizer(part)
    with pytest.raises(ValueError, match="found a part of a LossScaleOptimizer"):
        adapter.Optimizer(part)
    assert adapter.Optimizer(whole).inner_optimizer.fused is part


@pytest.mark.parametrize("name", ["build", "apply", "stateless_apply"])
def test_a_part_takes_no_steps(name: str) -> None:
    whole = fused("LossScaleOptimizer", fo.SGD())
    arguments = ([], [], []) if name == "stateless_apply" else ([],)
    with pytest.raises(ValueError, match=f"{name}: expected a whole optimizer, found 'sgd'"):
        getattr(whole.inner_optimizer, name)(*arguments)


def test_a_class_of_ones_own() -> None:
    class Mine(adapter.Optimizer):  # type: ignore[misc]
        pass

    assert type(Mine(fo.SGD())) is Mine
    with pytest.raises(TypeError, match="Mine"):
        Mine(3)


# Learning rates


@pytest.mark.parametrize("given", [1, np.float32(0.5), keras.Variable(0.25), "tensor"])
def test_numbers_of_every_kind_are_learning_rates(given: Any) -> None:
    optimizer = fused("SGD")
    given = keras.ops.convert_to_tensor(0.125) if isinstance(given, str) else given
    optimizer.learning_rate = given
    assert optimizer.fused.learning_rate == float(given if np.isscalar(given) else value(given))
    assert float(optimizer.learning_rate.value) == optimizer.fused.learning_rate


def test_the_learning_rates_variable_is_the_learning_rate() -> None:
    (w,) = variables(np.zeros(1, "float32"))
    optimizer = fused("SGD", 0.5)
    optimizer.build([w])
    optimizer.learning_rate.assign(2.0)
    optimizer.apply([ones(1)])
    assert value(w) == -2.0
    assert optimizer.get_config()["optimizer"]["config"]["learning_rate"] == 2.0
    optimizer.learning_rate.assign(-2.0)
    with pytest.raises(ValueError, match="learning_rate: expected a finite number >= 0, found -2"):
        optimizer.apply([ones(1)])
    assert value(w) == -2.0


def test_a_number_cannot_take_the_place_of_a_schedule() -> None:
    optimizer = fused("SGD", fo.schedules.CosineDecay(0.5, 10))
    with pytest.raises(TypeError, match="learning_rate"):
        optimizer.learning_rate = 0.1
    optimizer.learning_rate = lambda: 0.25
    optimizer.learning_rate = 0.125
    assert float(optimizer.learning_rate.value) == 0.125
    assert len(optimizer.variables) == 2


# Weight decay


def decayed(optimizer: Any, own: list[Any]) -> list[bool]:
    optimizer.apply([keras.ops.zeros_like(keras.ops.convert_to_tensor(w)) for w in own], own)
    return [bool(np.any(value(w) != 1.0)) for w in own]


@pytest.mark.parametrize("wrap", [False, True], ids=["none", "scale"])
def test_excluded_variables(wrap: bool) -> None:
    own = variables(*[np.ones(2, "float32")] * 3)
    optimizer = fused("LossScaleOptimizer", fo.AdamW(0.1)) if wrap else fused("AdamW", 0.1)
    optimizer.exclude_from_weight_decay(var_list=own[:1])
    optimizer.exclude_from_weight_decay(var_list=own[1:2], var_names=["^v2$"])
    assert decayed(optimizer, own) == [True, False, False]
    with pytest.raises(ValueError, match="expected before build"):
        optimizer.exclude_from_weight_decay(var_names=["v0"])


def test_exclusions_that_mean_nothing() -> None:
    own, other = variables(np.ones(2, "float32")), variables(np.ones(2, "float32"))
    optimizer = fused("AdamW", 0.1)
    optimizer.exclude_from_weight_decay(var_list=other)
    with pytest.raises(ValueError, match="expected variables that build is given, found v0"):
        optimizer.build(own)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    with pytest.warns(UserWarning, match="no variable's name matches 'bias'"):
        optimizer.build(own)


def test_exclusions_of_the_wrapped_optimizer_stay() -> None:
    inner = fo.AdamW(0.1)
    inner.exclude_from_weight_decay(var_names=["v1"])
    own = variables(np.ones(2, "float32"), np.ones(2, "float32"))
    assert decayed(adapter.Optimizer(inner), own) == [True, False]


def test_members_exclude_their_own() -> None:
    own = variables(*[np.ones(2, "float32")] * 3)
    several = fused("MultiOptimizer", fo.OptimizerMap(fo.AdamW(0.1), {"v2": fo.AdamW(0.1)}))
    several.optimizers[1].exclude_from_weight_decay(var_names=["v0"])
    assert decayed(several, own) == [False, True, True]


def test_the_whole_excludes_for_its_members() -> None:
    def make() -> Any:
        return fused("MultiOptimizer", fo.OptimizerMap(fo.AdamW(0.1), {"v2": fo.AdamW(0.1)}))

    own = variables(*[np.ones(2, "float32")] * 3)
    several = make()
    several.optimizers[0].exclude_from_weight_decay(var_names=["v2"])
    several.exclude_from_weight_decay(var_names=["v0", "v2"])  # replaces the call before
    assert decayed(several, own) == [False, True, False]
    own, several = variables(*[np.ones(2, "float32")] * 3), make()
    several.exclude_from_weight_decay(var_list=own[:1])
    several.optimizers[0].exclude_from_weight_decay(var_names=["v2"])  # and so does a later one
    assert decayed(several, own) == [False, True, False]
    with pytest.raises(TypeError, match="give var_names"):
        make().exclude_from_weight_decay(["v0"])


# Configurations


def configurations() -> list[Any]:
    schedule = fo.schedules.CosineDecay(0.5, 10)
    return [
        *(fused(rule) for rule in RULES),
        fused("AdamW", schedule, use_ema=True, ema_overwrite_frequency=3, clipnorm=2.0),
        fused("SGD", 0.5, skip_nonfinite=True, name="mine"),
        fused("LossScaleOptimizer", fo.Adam(schedule), initial_scale=4.0, name="outer"),
        fused("MultiOptimizer", fo.OptimizerMap(fo.SGD(), {"a": fo.Adam(schedule)})),
    ]


@pytest.mark.parametrize("optimizer", configurations(), ids=lambda o: o.name)
def test_configurations(optimizer: Any) -> None:
    config = keras.optimizers.serialize(optimizer)
    again = keras.optimizers.deserialize(json.loads(json.dumps(config)))
    assert type(again) is type(optimizer)
    assert type(again.fused) is type(optimizer.fused)
    assert again.get_config() == optimizer.get_config()
    assert keras.optimizers.get(config).get_config() == config["config"]


class Halved(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    def __init__(self, start: float) -> None:
        self.start = start

    def __call__(self, step: Any) -> Any:
        return self.start / 2

    def get_config(self) -> dict[str, Any]:
        return {"start": self.start}


def test_schedules_of_ones_own_in_configurations() -> None:
    optimizer = fused("SGD")
    optimizer.learning_rate = Halved(0.5)
    config = json.loads(json.dumps(keras.optimizers.serialize(optimizer)))
    again = keras.optimizers.deserialize(config, custom_objects={"Halved": Halved})
    assert float(again.learning_rate) == again.fused.learning_rate == 0.25
    assert again.get_config() == optimizer.get_config()


def test_a_configuration_without_an_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match="expected the key 'optimizer', found name"):
        adapter.Optimizer.from_config({"name": "adam"})


def test_optimizers_of_ones_own_are_found() -> None:
    class Mine(fo.SGD):
        pass

    config = adapter.Optimizer(Mine(0.5)).get_config()
    again = adapter.Optimizer.from_config(config, custom_objects={"Mine": Mine})
    assert type(again.fused) is Mine


def test_every_name_of_keras_wrapper_is_replaced_or_works() -> None:
    public = {n for n in vars(keras.optimizers.LossScaleOptimizer) if not n.startswith("_")}
    own = {name for cls in adapter.LossScaleOptimizer.__mro__[:4] for name in vars(cls)}
    assert public - own == {"check_finite", "iterations"}


def test_an_array_is_no_list_of_gradients() -> None:
    own: list[Array] = variables(np.ones(2, "float32"))
    with pytest.raises(ValueError, match="expected 1 gradients, one for each variable, found 2"):
        fused("SGD").apply([ones(2), ones(2)], own)
