"""Every rule with every option, in Keras and in fusedopt's place in Keras: the same numbers and the same state."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import CASES, KERAS_RULES, ROWWISE, VARIANTS, Case
from golden import problem
from in_keras import (
    ON_TORCH,
    Array,
    fused,
    ignore_keras,
    keras,
    needs_multi,
    theirs,
    value,
    variables,
)

pytestmark = ignore_keras

STEPS = 7
# Keras's ScheduleFreeAdamW reads a slot on PyTorch after it has overwritten it, so its own backends differ.
RULES = [rule for rule in KERAS_RULES if not (ON_TORCH and rule == "ScheduleFreeAdamW")]
EVERY = [case for case in CASES if case.rule in RULES]
FEW = [case for case in EVERY if case in VARIANTS or case.label.startswith(f"{case.rule}()")]
REST = [case for case in EVERY if case not in FEW]


def beta_error(case: Case) -> float:
    """Keras has beta_2 and its powers in float32, which shows in 1 - beta_2."""
    names = ("beta_2", "adam_beta_2")
    defaults = inspect.signature(getattr(fo, case.rule)).parameters
    known = [case.arguments.get(n, defaults[n].default) for n in names if n in defaults]
    return 2.0**-24 / (1.0 - max(known)) if known else 0.0


def twins(case: Case) -> tuple[Any, Any, list[Any], list[Any]]:
    arguments = {"learning_rate": problem.LEARNING_RATE, **case.arguments}
    ours, others = variables(*problem.weights("float32")), variables(*problem.weights("float32"))
    return fused(case.rule, **arguments), theirs(case.rule, **arguments), ours, others


def compare(found: Any, expected: Any, tolerance: float, message: str) -> None:
    found, expected = value(found), value(expected)
    assert found.shape == expected.shape, message
    scale = max(1.0, float(np.max(np.abs(expected.astype("float64")), initial=0.0)))
    np.testing.assert_allclose(
        found, expected, rtol=tolerance, atol=tolerance * scale, err_msg=message
    )


def step(optimizer: Any, own: list[Any], gradients: list[Array | None]) -> None:
    scale = float(optimizer.scale_loss(1.0))
    scaled = [
        None if g is None else keras.ops.convert_to_tensor(g * np.float32(scale)) for g in gradients
    ]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Gradients do not exist")
        optimizer.apply(scaled, own)


def play(case: Case, missing: dict[int, tuple[int, ...]]) -> None:
    optimizer, reference, ours, others = twins(case)
    tolerance = float(np.finfo("float32").eps) * 8 + beta_error(case)
    if case.rule == "Muon":  # the products of its matrices are summed in other orders
        tolerance *= 20
    for number in range(1, STEPS + 1):
        gradients: list[Array | None] = [*problem.gradients(number, "float32")]
        for position in missing.get(number, ()):
            gradients[position] = None
        step(optimizer, ours, gradients)
        step(reference, others, gradients)
        for a, b in zip(ours, others, strict=True):
            compare(a, b, tolerance * number, f"{a.path} after step {number}")
        found, expected = optimizer.variables, reference.variables
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            compare(a, b, tolerance * number, f"{b.path} after step {number}")
        assert int(optimizer.iterations) == int(reference.iterations)


@pytest.mark.parametrize("case", FEW, ids=str)
def test_numbers_and_state_are_those_of_keras(case: Case) -> None:
    play(case, {})


@pytest.mark.maintainer
@pytest.mark.parametrize("case", REST, ids=str)
def test_every_variant_with_every_option(case: Case) -> None:
    play(case, {})


EXTRA: list[dict[str, Any]] = [
    {"weight_decay": 0.02, "use_ema": True, "ema_momentum": 0.9, "gradient_accumulation_steps": 3},
    {"weight_decay": 0.02, "global_clipnorm": 0.7},
]


@pytest.mark.parametrize("options", EXTRA, ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_missing_gradients(rule: str, options: dict[str, Any]) -> None:
    last = [case for case in VARIANTS if case.rule == rule and case not in ROWWISE][-1]
    case = Case(rule, {**last.arguments, **options}, rule)
    play(case, {2: (1,), 3: (0,), 4: (1, 2), 6: (2,)})


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "ScheduleFreeAdamW"])
def test_constraints_and_exclusions(rule: str) -> None:
    case = Case(rule, {"weight_decay": 0.3}, rule)
    optimizer, reference, ours, others = twins(case)
    for each, own in ((optimizer, ours), (reference, others)):
        each.exclude_from_weight_decay(var_list=[own[2]], var_names=["v.*1$"])
        own[0].constraint = keras.constraints.MaxNorm(0.5)
        own[1].constraint = keras.constraints.NonNeg()
        for number in range(1, 5):
            step(each, own, [*problem.gradients(number, "float32")])
    for a, b in zip(ours, others, strict=True):
        compare(a, b, 2e-5 + 8 * beta_error(case), a.path)


@pytest.mark.parametrize("rule", RULES)
def test_loss_scale(rule: str) -> None:
    arguments = {"initial_scale": 1024.0, "dynamic_growth_steps": 2}
    ours, others = variables(*problem.weights("float32")), variables(*problem.weights("float32"))
    optimizer = fused("LossScaleOptimizer", getattr(fo, rule)(0.05), **arguments)
    reference = theirs("LossScaleOptimizer", theirs(rule, 0.05), **arguments)
    for each, own in ((optimizer, ours), (reference, others)):
        each.build(own)
        for number in range(1, STEPS + 1):
            gradients: list[Array | None] = [*problem.gradients(number, "float32")]
            if number == 4:
                gradients[0] = np.full(own[0].shape, np.inf, "float32")
            step(each, own, gradients)
    case = Case(rule, {}, rule)
    assert float(optimizer.dynamic_scale.value) == float(reference.dynamic_scale.value) != 1024.0
    assert int(optimizer.step_counter.value) == int(reference.step_counter.value)
    assert int(optimizer.iterations.value) == int(reference.iterations.value) == STEPS - 1
    found, expected = optimizer.variables, reference.variables
    assert len(found) == len(expected)
    for a, b in zip([*ours, *found], [*others, *expected], strict=True):
        compare(a, b, 1e-4 if rule == "Muon" else 1e-5 + 8 * beta_error(case), b.path)


@needs_multi
def test_several_optimizers() -> None:
    ours, others = variables(*problem.weights("float32")), variables(*problem.weights("float32"))
    optimizer = fused("MultiOptimizer", fo.OptimizerMap(fo.Adam(0.05), {"v1": fo.SGD(0.1, 0.9)}))
    rules = keras.optimizers.OptimizerMap(theirs("Adam", 0.05), {"v1": theirs("SGD", 0.1, 0.9)})
    reference = theirs("MultiOptimizer", rules)
    for each, own in ((optimizer, ours), (reference, others)):
        for number in range(1, STEPS + 1):
            step(each, own, [*problem.gradients(number, "float32")])
    found, expected = optimizer.variables, reference.variables
    assert len(found) == len(expected)
    for a, b in zip([*ours, *found], [*others, *expected], strict=True):
        compare(a, b, 1e-5 + 3e-4 * ("velocity" in b.path), b.path)


@pytest.mark.skipif(not ON_TORCH, reason="Keras rounds float64 to float32 on NumPy")
@pytest.mark.parametrize("rule", ["SGD", "AdamW", "Nadam", "Lion"])
def test_float64(rule: str) -> None:
    ours, others = (
        variables(*problem.weights("float64"), dtype="float64"),
        variables(*problem.weights("float64"), dtype="float64"),
    )
    optimizer, reference = fused(rule, 0.0625), theirs(rule, 0.0625)
    for each, own in ((optimizer, ours), (reference, others)):
        for number in range(1, STEPS + 1):
            gradients = [
                keras.ops.convert_to_tensor(g) for g in problem.gradients(number, "float64")
            ]
            each.apply(gradients, own)
    for a, b in zip(ours, others, strict=True):
        assert value(a).dtype == np.float64
        compare(a, b, 1e-6, a.path)


def test_a_rule_that_keras_lacks_steps_as_it_does_on_arrays() -> None:
    (ours,), array = variables(np.ones((2, 3), "float32")), np.ones((2, 3), "float32")
    optimizer, alone = fused("Yogi", 0.1), fo.Yogi(0.1)
    alone.build([array])
    for number in range(1, 4):
        gradient = np.full((2, 3), 0.5 * number, "float32")
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [ours])
        alone.apply([gradient])
    np.testing.assert_array_equal(value(ours), array)
