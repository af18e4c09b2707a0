"""Evaluations: inside the block the variables hold the weights to evaluate with, and afterwards they are back."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from named import NAMES, OPTIMIZERS, bits, each, multi, step, trained


def expected_weights(optimizer: Any, variables: dict[str, Any]) -> dict[str, Any]:
    """Return the averages, or the paper's x computed from what is listed by name."""
    if isinstance(optimizer, fo.LossScaleOptimizer):
        return expected_weights(optimizer.inner_optimizer, variables)
    if isinstance(optimizer, fo.MultiOptimizer):
        found: dict[str, Any] = dict(variables)
        for member in optimizer.optimizers:
            own = {name: variables[name] for name in member._core.names}
            found |= expected_weights(member, own)
        return found
    if optimizer.averages:
        return dict(optimizer.averages)
    if not isinstance(optimizer, fo.ScheduleFreeAdamW):
        return variables
    state = dict(optimizer._core.state())
    beta = optimizer.get_config()["beta_1"]
    found = {}
    for name, variable in variables.items():
        y = state.get(f"master/{name}", variable).astype(np.float64)
        found[name] = (y - (1 - beta) * state[f"momentum/{name}"]) / beta
    return found


@each
def test_variables_hold_the_weights_of_an_evaluation(make: Any) -> None:
    optimizer, variables = trained(make())
    before = bits(optimizer, variables)
    expected = expected_weights(optimizer, {name: w.copy() for name, w in variables.items()})
    changed = 0
    with optimizer.evaluation_weights() as lent:
        assert list(lent) == list(variables)
        for name, w in variables.items():
            assert lent[name] is w
            changed += not np.array_equal(w.tobytes(), before[-4 + NAMES.index(name)])
            tolerance = {2: 1e-2, 4: 1e-5, 8: 1e-12}[w.itemsize]
            np.testing.assert_allclose(
                w.astype(float), expected[name].astype(float), tolerance, tolerance
            )
            w[...] = 99
    assert changed >= 2
    assert bits(optimizer, variables) == before


@each
def test_training_goes_on_as_if_nothing_had_happened(make: Any) -> None:
    (first, mine), (second, others) = trained(make()), trained(make())
    for number in range(10, 20):
        with first.evaluation_weights():
            pass
        step(first, mine, number)
        step(second, others, number)
    assert bits(first, mine) == bits(second, others)


def test_averages_are_those_that_finalize_writes() -> None:
    optimizer, variables = trained(fo.Adam(0.1, use_ema=True))
    with optimizer.evaluation_weights():
        lent = [w.tobytes() for w in variables.values()]
    optimizer.finalize_variable_values(variables)
    assert [w.tobytes() for w in variables.values()] == lent


def test_schedule_free_weights_are_the_x_of_its_paper() -> None:
    w = np.array([1.0, -2.0])
    optimizer = fo.ScheduleFreeAdamW(0.1, beta_1=0.9, beta_2=0.99, epsilon=1e-8)
    optimizer.build([w])
    x, z, v = w.copy(), w.copy(), np.zeros(2)
    for t in range(1, 8):
        gradient = np.sin(np.array([t, 2.0 * t]))
        v = 0.99 * v + 0.01 * gradient**2
        z = z - 0.1 * gradient / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
        x = (1 - 1 / t) * x + z / t
        optimizer.apply([gradient])
        with optimizer.evaluation_weights():
            np.testing.assert_allclose(w, x, rtol=1e-12)


def test_a_beta_of_a_schedule_free_rule_may_be_a_function() -> None:
    beta = [0.5]
    optimizer = fo.ScheduleFreeAdamW(0.1, beta_1=lambda: beta[0])
    w = np.ones(2)
    optimizer.build([w])
    optimizer.apply([np.array([1.0, -1.0])])
    before = w.copy()
    z = optimizer.named_variables()["momentum/0"].copy()
    beta[0] = 0.25
    with optimizer.evaluation_weights():
        np.testing.assert_allclose(w, z + (before - z) / 0.25)
    beta[0] = 2.0
    with (
        pytest.raises(ValueError, match="beta_1: expected a number in"),
        optimizer.evaluation_weights(),
    ):
        pass
    assert (w == before).all()
    beta[0] = 0.5
    optimizer.apply([np.ones(2)])


@each
def test_before_the_first_step_variables_stay(make: Any) -> None:
    optimizer, variables = trained(make(), 0)
    before = bits(optimizer, variables)
    with optimizer.evaluation_weights():
        assert bits(optimizer, variables) == before


def test_what_was_written_into_16_bit_variables_counts() -> None:
    for make in (OPTIMIZERS["schedule-free"], OPTIMIZERS["average"]):
        first, mine = trained(make())
        second, others = copy.deepcopy((first, mine))
        for w in (*mine.values(), *others.values()):
            w[...] = 0.3
        before = bits(first, mine)
        with first.evaluation_weights():
            assert not (mine["b/kernel"] == others["b/kernel"]).all()
        assert bits(first, mine) == before
        step(first, mine, 9)
        step(second, others, 9)
        assert bits(first, mine) == bits(second, others)


@each
def test_a_block_that_raises_ends_the_evaluation(make: Any) -> None:
    optimizer, variables = trained(make())
    before = bits(optimizer, variables)
    with pytest.raises(KeyError), optimizer.evaluation_weights():
        raise KeyError("mine")
    assert bits(optimizer, variables) == before
    step(optimizer, variables, 10)


@each
def test_what_needs_the_weights_in_training_is_refused_inside(make: Any, tmp_path: Any) -> None:
    optimizer, variables = trained(make())
    optimizer.save(tmp_path / "file")
    values = [array.copy() for array in optimizer.variables]
    before = bits(optimizer, variables)
    gradients = [np.ones(w.shape) for w in variables.values()]
    arrays = list(variables.values())
    calls: dict[str, Callable[[], Any]] = {
        "apply": lambda: step(optimizer, variables, 1),
        "stateless_apply": lambda: optimizer.stateless_apply(values, gradients, arrays),
        "save": lambda: optimizer.save(tmp_path / "other"),
        "load": lambda: optimizer.load(tmp_path / "file"),
        "set_weights": lambda: optimizer.set_weights(values),
        "save_own_variables": lambda: optimizer.save_own_variables({}),
        "finalize_variable_values": lambda: optimizer.finalize_variable_values(arrays),
        "copy": lambda: copy.copy(optimizer),
        "copy: ": lambda: copy.deepcopy(optimizer),
        "copy:": lambda: pickle.dumps(optimizer),
        "evaluation_weights": lambda: optimizer.evaluation_weights().__enter__(),
    }
    errors: list[str] = []

    def try_all() -> None:
        for who, call in calls.items():
            with pytest.raises(ValueError, match="found the variables lent to an evaluation") as e:
                call()
            assert str(e.value).startswith(who)
            errors.append(who)

    with optimizer.evaluation_weights():
        try_all()
        thread = threading.Thread(target=try_all)
        thread.start()
        thread.join()
        inside = bits(optimizer, variables)
    assert errors == [*calls, *calls]
    assert inside[: -len(variables)] == before[: -len(variables)]
    assert bits(optimizer, variables) == before


def test_parts_and_wrappers_know_of_each_other_s_evaluations() -> None:
    optimizer, variables = trained(multi())
    member = optimizer.optimizer_map["a/kernel"]
    with optimizer.evaluation_weights(), pytest.raises(ValueError, match="apply: .* lent"):
        member.apply([np.ones((3, 5)), np.ones((0, 2))])
    with member.evaluation_weights():
        for call in (
            lambda: step(optimizer, variables, 1),
            lambda: optimizer.set_weights(optimizer.variables),
            lambda: copy.copy(optimizer),
            lambda: optimizer.evaluation_weights().__enter__(),
        ):
            with pytest.raises(ValueError, match="lent to an evaluation"):
                call()
    step(optimizer, variables, 1)


def test_without_averages_there_is_nothing_to_evaluate_with() -> None:
    plain = fo.MultiOptimizer(fo.OptimizerMap(fo.Adam(), {"a/.*": fo.SGD()}))
    for optimizer in (fo.Adam(), fo.LossScaleOptimizer(fo.Adam()), plain):
        with (
            pytest.raises(ValueError, match="evaluation_weights: the optimizer is not built"),
            optimizer.evaluation_weights(),
        ):
            pass
        _, variables = trained(optimizer)
        with (
            pytest.raises(ValueError, match="evaluation_weights: expected moving averages"),
            optimizer.evaluation_weights(),
        ):
            pass
        step(optimizer, variables, 9)


def test_variables_that_have_changed_are_refused() -> None:
    optimizer, variables = trained(fo.Adam(use_ema=True))
    variables["a/kernel"].flags.writeable = False
    before = bits(optimizer, variables)
    with pytest.raises(ValueError, match="made read-only"), optimizer.evaluation_weights():
        pass
    assert bits(optimizer, variables) == before


def test_variables_that_change_inside_get_their_weights_back_if_they_lie_where_they_did() -> None:
    optimizer, variables = trained(fo.Adam(use_ema=True))
    before = bits(optimizer, variables)
    with optimizer.evaluation_weights():
        variables["a/kernel"].flags.writeable = False
    assert bits(optimizer, variables) == before
    lending = optimizer.evaluation_weights()
    with pytest.raises(ValueError, match="made read-only"):
        lending.__enter__()
    variables["a/kernel"].flags.writeable = True
    step(optimizer, variables, 9)
    w = variables["a/kernel"]
    with (
        pytest.raises(ValueError, match="evaluation_weights: .* found it moved"),
        optimizer.evaluation_weights(),
    ):
        w.__setstate__((1, (1 << 20,), w.dtype, False, bytes(w.itemsize << 20)))


def test_use_ema_goes_before_a_schedule_free_rule() -> None:
    optimizer, variables = trained(fo.ScheduleFreeAdamW(0.1, use_ema=True, ema_momentum=0.5))
    with optimizer.evaluation_weights():
        assert (variables["a/kernel"] == optimizer.averages["a/kernel"]).all()
