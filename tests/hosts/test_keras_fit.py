"""Models that Keras compiles and fits, with its callbacks, policies and constraints, on PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from in_keras import (
    X,
    Y,
    adapter,
    distance,
    fitted,
    fused,
    ignore_keras,
    keras,
    model,
    needs_fit,
    needs_multi,
    same_bits,
    theirs,
    value,
)

pytestmark = [ignore_keras, needs_fit]

NAMES = ["SGD", "RMSprop", "AdamW", "Nadam", "Lion", "Adafactor"]


@pytest.fixture
def policy() -> Iterator[Any]:
    yield keras.mixed_precision.set_global_policy
    keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize("name", NAMES)
def test_a_fitted_model_is_that_of_keras(name: str) -> None:
    ours, others = fitted(model(fused(name, 0.01))), fitted(model(theirs(name, 0.01)))
    assert distance(ours, others) < 1e-5
    assert distance(ours, model()) > 1e-3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("inside", [True, False], ids=["inside", "around"])
def test_mixed_float16(name: str, inside: bool, policy: Any) -> None:
    policy("mixed_float16")
    inner = getattr(fo, name)(0.01)
    ours = fitted(model(adapter.Optimizer(fo.LossScaleOptimizer(inner) if inside else inner)))
    others = fitted(model(theirs(name, 0.01)))
    assert isinstance(ours.optimizer, keras.optimizers.LossScaleOptimizer)
    assert isinstance(ours.optimizer, adapter.LossScaleOptimizer) is inside
    assert distance(ours, others) < 1e-4
    if inside or name not in {"Nadam", "Adafactor"}:  # of which Keras leaves state out there
        assert len(ours.optimizer.variables) == len(others.optimizer.variables)
    assert int(ours.optimizer.step_counter.value) == int(others.optimizer.step_counter.value) > 0


def test_a_gradient_that_is_not_finite_skips_the_step(policy: Any) -> None:
    policy("mixed_float16")
    made = model(fused("LossScaleOptimizer", fo.AdamW(0.01), initial_scale=2.0**60))
    before = [value(w) for w in made.weights]
    fitted(made, epochs=1)
    assert float(made.optimizer.dynamic_scale.value) == 2.0**57
    assert int(made.optimizer.iterations.value) == 0
    assert all(np.array_equal(a, value(b)) for a, b in zip(before, made.weights, strict=True))


def test_mixed_bfloat16(policy: Any) -> None:
    policy("mixed_bfloat16")
    ours, others = fitted(model(fused("AdamW", 0.01))), fitted(model(theirs("AdamW", 0.01)))
    assert distance(ours, others) < 1e-5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_of_16_bits(dtype: str, policy: Any) -> None:
    policy(dtype)
    ours = fitted(model(fused("SGD", 0.01)))
    assert {w.dtype for w in ours.weights} == {dtype}
    policy("float32")
    exact = fitted(model(theirs("SGD", 0.01)))
    assert distance(ours, exact) < 0.02
    assert distance(ours, model()) > 0.01


# Callbacks


def test_scheduler() -> None:
    callback = keras.callbacks.LearningRateScheduler
    histories = []
    for optimizer in (fused("SGD", 0.01), theirs("SGD", 0.01)):
        made = model(optimizer)
        how = {"epochs": 4, "verbose": 0, "shuffle": False}
        history = made.fit(X, Y, callbacks=[callback(lambda _, rate: rate * 0.5)], **how)
        histories.append((made, history.history["learning_rate"]))
    np.testing.assert_allclose(histories[0][1], histories[1][1], rtol=1e-6)
    assert float(histories[0][0].optimizer.fused.learning_rate) == 0.01 / 16
    assert distance(histories[0][0], histories[1][0]) < 1e-6


def several() -> Any:
    return fused("MultiOptimizer", fo.OptimizerMap(fo.SGD(0.01), {".*bias": fo.SGD(0.02)}))


@pytest.mark.parametrize("wrap", ["none", "scale", pytest.param("several", marks=needs_multi)])
def test_plateau(wrap: str) -> None:
    made = {
        "none": lambda: fused("SGD", 0.01),
        "scale": lambda: fused("LossScaleOptimizer", fo.SGD(0.01)),
        "several": several,
    }[wrap]()
    callback = keras.callbacks.ReduceLROnPlateau("loss", patience=0, min_delta=100.0, factor=0.5)
    fitted(model(made), epochs=3, callbacks=[callback])
    fused_ = made.fused if wrap == "none" else made.fused._parts()[0]
    assert fused_.learning_rate < 0.01


@pytest.mark.parametrize("wrap", [False, True], ids=["none", "scale"])
def test_averages_are_swapped_in_for_evaluation(wrap: bool) -> None:
    losses = []
    arguments = {"use_ema": True, "ema_momentum": 0.5}
    for of, rules in ((fused, fo), (theirs, keras.optimizers)):
        optimizer = of("Adam", 0.01, **arguments)
        if wrap:
            inner = rules.Adam(0.01, **arguments)
            optimizer = of("LossScaleOptimizer", inner)
        made = model(optimizer)
        callback = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
        how = {"callbacks": [callback], "validation_data": (X, Y), "verbose": 0, "shuffle": False}
        losses.append((made.fit(X, Y, epochs=3, **how).history["val_loss"], made))
    np.testing.assert_allclose(losses[0][0], losses[1][0], rtol=1e-5)
    assert distance(losses[0][1], losses[1][1]) < 1e-5


def test_averages_are_the_weights_after_fit() -> None:
    made = fitted(model(fused("SGD", 0.1, use_ema=True, ema_momentum=0.5)))
    averages = made.optimizer._model_variables_moving_average
    assert same_bits(made.trainable_variables, averages)


@pytest.mark.parametrize("kind", ["keras", "fusedopt", "own", "function"])
def test_schedules_of_either_library(kind: str) -> None:
    class Own(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step: Any) -> Any:
            return 0.1 * 0.5 ** keras.ops.cast(step, "float32")

        def get_config(self) -> dict[str, Any]:
            return {}

    decay = {"initial_learning_rate": 0.1, "decay_steps": 1, "decay_rate": 0.5}
    in_keras = keras.optimizers.schedules.ExponentialDecay(**decay)
    count = iter(range(100))
    optimizer = fused("SGD", 0.1)
    optimizer.learning_rate = {
        "keras": in_keras,
        "fusedopt": fo.schedules.ExponentialDecay(**decay),
        "own": Own(),
        "function": lambda: 0.1 * 0.5 ** next(count),
    }[kind]
    if kind != "function":
        assert float(optimizer.learning_rate) == pytest.approx(0.1)
    ours, others = fitted(model(optimizer)), fitted(model(theirs("SGD", in_keras)))
    assert distance(ours, others) < 1e-6
    assert len(optimizer.variables) == len(others.optimizer.variables) == 1


# What else a model may have


def test_frozen_layers() -> None:
    made = []
    for optimizer in (fused("AdamW", 0.01), theirs("AdamW", 0.01)):
        each = model()
        each.get_layer("hidden").trainable = False
        each.compile(optimizer, loss="mse")
        made.append(fitted(each))
    assert distance(*made) < 1e-6
    assert same_bits(made[0].get_layer("hidden").weights, model().get_layer("hidden").weights)


def test_layers_that_are_unfrozen_join_on_building_again() -> None:
    made = model()
    made.get_layer("hidden").trainable = False
    made.compile(fused("Adam", 0.01), loss="mse")
    fitted(made)
    momentum = value(made.optimizer.variables[2])
    made.get_layer("hidden").trainable = True
    made.optimizer.build(made.trainable_variables)
    assert np.array_equal(value(made.optimizer.variables[6]), momentum)
    made.compile(made.optimizer, loss="mse")
    fitted(made)
    assert int(made.optimizer.iterations.value) == 12
    assert not same_bits(made.get_layer("hidden").weights, model().get_layer("hidden").weights)


def test_constraints_hold() -> None:
    made = [
        fitted(model(optimizer, kernel_constraint=keras.constraints.MaxNorm(0.5)))
        for optimizer in (fused("SGD", 0.1), theirs("SGD", 0.1))
    ]
    assert distance(*made) < 1e-6
    norms = np.linalg.norm(value(made[0].get_layer("out").kernel), axis=0)
    assert norms.max() < 0.5001


def test_a_model_without_trainable_variables_is_compiled() -> None:
    made = model()
    made.trainable = False
    made.compile(fused("Adam"), loss="mse")
    made.optimizer.build(made.trainable_variables)
    assert len(made.optimizer.variables) == 2


def test_what_is_compiled_leaves_the_step_out() -> None:
    import torch

    made = model(fused("AdamW", 0.01))
    gradients = [torch.ones_like(w.value) for w in made.trainable_variables]
    made.optimizer.build(made.trainable_variables)

    @torch.compile(backend="eager")  # type: ignore[untyped-decorator]
    def step(x: Any) -> Any:
        y = x + 1
        with torch.no_grad():
            made.optimizer.apply(gradients, made.trainable_variables)
        return y * 2

    for _ in range(3):
        step(torch.ones(2))
    assert int(made.optimizer.iterations.value) == 3


def test_autograd_notices_a_step_between_forward_and_backward() -> None:
    import torch

    made = model(fused("SGD", 0.1))
    made.optimizer.build(made.trainable_variables)
    loss = made(torch.ones(2, 3)).square().sum()
    with torch.no_grad():
        made.optimizer.apply([torch.ones_like(w.value) for w in made.trainable_variables])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
