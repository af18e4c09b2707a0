"""fusedopt against recordings of the real Keras: weights, state, loss scales, stores, signatures.

The recordings are in `golden/`; its README tells how they were made.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
import warnings
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import KERAS_RULES
from golden import problem
from golden.problem import Array, Recording, Run

RUNS = [
    pytest.param(run, dtype, id=f"{run.label}-{dtype}")
    for run in problem.all_runs()
    for dtype in problem.dtypes(run.rule)
]
CLASSES = [*KERAS_RULES, "LossScaleOptimizer"]
# Not of the variables' dtype: a dtype of ours or, where it does not matter, its kind.
SCALARS = {
    "iteration": "int64",
    "learning_rate": "float64",
    "step_counter": "i",
    "dynamic_scale": "f",
}


class Decay(fo.schedules.LearningRateSchedule):
    def __call__(self, step: Any) -> float:
        return problem.decayed_rate(int(step))

    def get_config(self) -> dict[str, Any]:
        return {}


_load = functools.cache(problem.load)


def _recording(run: Run, dtype: str) -> Recording:
    recording = _load(run.rule, dtype).get(run.label)
    if recording is None or recording.description != run.description():
        pytest.fail(f"no recording of {run.label} in {dtype}; record it: {problem.COMMAND}")
    return recording


@functools.cache
def _signatures() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(
        (problem.FOLDER / "signatures.json").read_text(encoding="utf-8")
    )["signatures"]
    return found


def _signature(name: str) -> dict[str, Any]:
    if name not in _signatures():
        pytest.fail(f"no recorded signature of {name}; record it: {problem.COMMAND}")
    return _signatures()[name]


def _slot(name: str) -> str:
    return name.partition("_")[2]


def _rounding(dtype: str, step: int) -> float:
    """The inputs agree to the bit, so only the order of roundings differs: one unit a step."""
    return float(np.finfo(dtype).eps) * (step + 2)


def _beta_error(run: Run, dtype: str) -> float:
    """Keras rounds beta_2 and its powers to float32, which shows in 1 - beta_2: 3e-5 at 0.999."""
    arguments = {**_signature(run.rule)["arguments"], **run.arguments}
    beta_2 = arguments.get("beta_2", arguments.get("adam_beta_2", 0.0))
    return 2.0**-25 / (1.0 - float(beta_2)) if dtype == "float32" else 0.0


def _weights_tolerance(run: Run, dtype: str, step: int) -> float:
    # The error of beta_2 is halved by the root and acts on updates, which are about a rate long.
    return _rounding(dtype, step) + _beta_error(run, dtype) / 2.0 * problem.LEARNING_RATE * step


def _slot_tolerance(run: Run, dtype: str, step: int) -> float:
    return _rounding(dtype, step) + _beta_error(run, dtype)


class Player:
    """One run on fusedopt, step by step, through every way to call it."""

    def __init__(self, run: Run, dtype: str, weights: list[Array]) -> None:
        self.run, self.dtype, self.weights = run, dtype, weights
        self.clock = problem.Clock()
        rates = {"number": problem.LEARNING_RATE, "schedule": Decay(), "callable": self.clock}
        inner = getattr(fo, run.rule)(**{"learning_rate": rates[run.rate], **run.arguments})
        if run.excluded or run.excluded_names:
            inner.exclude_from_weight_decay(
                var_list=[weights[i] for i in run.excluded], var_names=list(run.excluded_names)
            )
        self.optimizer: Any = inner
        if run.planted is not None:
            self.optimizer = fo.LossScaleOptimizer(
                inner,
                initial_scale=problem.INITIAL_SCALE,
                dynamic_growth_steps=problem.GROWTH_STEPS,
            )
        if run.excluded_names:
            self.optimizer.build(dict(zip(problem.SHAPES, weights, strict=True)))
        else:
            self.optimizer.build(weights)

    def step(self, step: int) -> None:
        self.clock.step = step
        scale = float(self.optimizer.scale_loss(1.0))
        pairs = problem.pairs(self.run, step, scale, self.dtype)
        gradients = [gradient for _, gradient in pairs]
        variables = [self.weights[position] for position, _ in pairs]
        with warnings.catch_warnings():
            if any(gradient is None for gradient in gradients):
                warnings.simplefilter("ignore")
            if step % 3 == 0:
                self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
            elif step % 3 == 1 or self.run.chosen:
                self.optimizer.apply(gradients, variables)
            else:
                self.optimizer.apply(gradients)
        if self.run.finalize and step == problem.STEPS:
            self.optimizer.finalize_variable_values(self.weights)


def _compare_weights(player: Player, recording: Recording, step: int) -> None:
    tolerance = _weights_tolerance(player.run, player.dtype, step)
    expected = recording.weights_at(step)
    for name, actual, wanted in zip(problem.SHAPES, player.weights, expected, strict=True):
        assert actual.dtype == wanted.dtype
        np.testing.assert_allclose(
            actual, wanted, rtol=tolerance, atol=tolerance, err_msg=f"{name} after step {step}"
        )


def _compare_scale(player: Player, recording: Recording, step: int) -> None:
    if player.run.planted is not None:
        scale, counter = recording.scales[step - 1]
        assert float(player.optimizer.dynamic_scale) == scale, f"after step {step}"
        assert int(player.optimizer.step_counter) == counter, f"after step {step}"


def _compare_state(player: Player, recording: Recording, step: int) -> None:
    expected = recording.store(step)
    store: dict[str, Any] = {}
    player.optimizer.save_own_variables(store)
    assert list(store) == list(expected)
    names = [name for name, _, _ in recording.layout]
    largest: dict[str, float] = {}
    for name, wanted in zip(names, expected.values(), strict=True):
        slot = _slot(name)
        largest[slot] = max(largest.get(slot, 0.0), float(np.max(np.abs(wanted))))
    for name, variable, key in zip(names, player.optimizer.variables, expected, strict=True):
        actual, wanted = np.asarray(store[key]), expected[key]
        message = f"variable {key} ({name}) after step {step}"
        np.testing.assert_array_equal(actual, variable, err_msg=message)
        assert actual.shape == wanted.shape, message
        if name in SCALARS:
            assert SCALARS[name] in (actual.dtype, actual.dtype.kind), message
            assert actual.astype(wanted.dtype) == wanted, message
        elif wanted.dtype.kind == "i":
            assert (actual.dtype.kind, actual) == ("i", wanted), message
        else:
            is_product = name == "variable"  # Keras names Nadam's so
            assert actual.dtype == (np.float64 if is_product else wanted.dtype), message
            is_average = _slot(name) == "average"
            tolerance = (_weights_tolerance if is_average else _slot_tolerance)(
                player.run, player.dtype, step
            )
            np.testing.assert_allclose(
                actual,
                wanted,
                rtol=tolerance,
                atol=tolerance * largest[_slot(name)],
                err_msg=message,
            )


@pytest.mark.parametrize(("run", "dtype"), RUNS)
def test_run_is_that_of_keras(run: Run, dtype: str) -> None:
    recording = _recording(run, dtype)
    player = Player(run, dtype, problem.weights(dtype))
    for step in range(1, problem.STEPS + 1):
        player.step(step)
        _compare_scale(player, recording, step)
        if step in problem.RECORDED:
            _compare_weights(player, recording, step)
        if step in (problem.HANDOVER, problem.STEPS):
            _compare_state(player, recording, step)


@pytest.mark.parametrize(("run", "dtype"), RUNS)
def test_store_of_keras_is_continued(run: Run, dtype: str) -> None:
    recording = _recording(run, dtype)
    player = Player(run, dtype, recording.weights_at(problem.HANDOVER))
    player.optimizer.load_own_variables(recording.store(problem.HANDOVER))
    _compare_state(player, recording, problem.HANDOVER)
    for step in range(problem.HANDOVER + 1, problem.STEPS + 1):
        player.step(step)
        _compare_scale(player, recording, step)
        if step in problem.RECORDED:
            _compare_weights(player, recording, step)
    _compare_state(player, recording, problem.STEPS)


def _default(name: str) -> Any:
    optimizer_class = getattr(fo, name)
    return optimizer_class(fo.Adam()) if name == "LossScaleOptimizer" else optimizer_class()


@pytest.mark.parametrize("name", CLASSES)
def test_arguments_and_defaults_are_those_of_keras(name: str) -> None:
    arguments = {
        p.name: problem.REQUIRED if p.default is p.empty else p.default
        for p in inspect.signature(getattr(fo, name)).parameters.values()
        if p.kind
        is p.POSITIONAL_OR_KEYWORD  # an argument that Keras does not have is given by keyword
    }
    assert list(arguments.items()) == list(_signature(name)["arguments"].items())


def _same_config(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(actual) == set(expected)
    for key, wanted in expected.items():
        found = actual[key]
        if key == "name":
            # A name that is not given may get a number to tell it from others.
            assert re.fullmatch(rf"{re.escape(wanted)}(_\d+)?", found)
        elif key == "inner_optimizer":
            assert found["class_name"] == wanted["class_name"]
            _same_config(found["config"], wanted["config"])
        elif key == "learning_rate":
            # Keras keeps it in float32.
            assert np.float32(found) == np.float32(wanted)
        else:
            assert found == wanted, key


@pytest.mark.parametrize("name", CLASSES)
def test_config_is_that_of_keras(name: str) -> None:
    _same_config(_default(name).get_config(), _signature(name)["config"])


@pytest.mark.parametrize("name", KERAS_RULES)
def test_config_of_keras_is_understood(name: str) -> None:
    config = _signature(name)["config"]
    assert getattr(fo, name).from_config(dict(config)).get_config() == config


@pytest.mark.parametrize("name", CLASSES)
def test_variables_are_those_of_keras(name: str) -> None:
    optimizer = _default(name)
    optimizer.build(problem.weights("float32"))
    assert [(np.asarray(v).dtype.kind, list(np.shape(v))) for v in optimizer.variables] == [
        (np.dtype(dtype).kind, shape) for _, shape, dtype in _signature(name)["variables"]
    ]
