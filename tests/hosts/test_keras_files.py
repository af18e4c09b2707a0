"""Models and weights in files: they go both ways between Keras's optimizers and fusedopt's, and nothing is lost."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from in_keras import (
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
    variables,
)

pytestmark = [ignore_keras, needs_fit]

EVERYTHING = {"weight_decay": 0.02, "use_ema": True, "gradient_accumulation_steps": 4}
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "SGD": lambda: fused("SGD", 0.01, 0.9),
    "everything": lambda: fused("AdamW", 0.01, amsgrad=True, **EVERYTHING),
    "Adafactor": lambda: fused("Adafactor", 0.01),
    "Nadam": lambda: fused("Nadam", 0.01),
    "schedule": lambda: fused("RMSprop", fo.schedules.CosineDecay(0.01, 20)),
    "scale": lambda: fused("LossScaleOptimizer", fo.Nadam(0.01), dynamic_growth_steps=4),
    "several": lambda: fused(
        "MultiOptimizer", fo.OptimizerMap(fo.AdamW(0.01), {".*bias": fo.SGD(0.02, 0.9)})
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_saved_model_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    first = fitted(model(OPTIMIZERS[name]()), epochs=1)
    first.fit(np.ones((16, 3)), np.ones((16, 2)), verbose=0)  # in the middle of an accumulation
    first.save(tmp_path / "model.keras")
    second = keras.models.load_model(tmp_path / "model.keras")
    assert type(second.optimizer) is type(first.optimizer)
    assert second.optimizer.get_config() == first.optimizer.get_config()
    assert same_bits(first.optimizer.variables, second.optimizer.variables)
    fitted(first)
    fitted(second)
    assert same_bits(first.weights, second.weights)
    assert same_bits(first.optimizer.variables, second.optimizer.variables)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_of_16_bits_go_on_bit_for_bit(dtype: str, tmp_path: Path) -> None:
    first = fitted(model(fused("SGD", 1e-3), dtype=dtype))
    first.save(tmp_path / "model.keras")
    second = keras.models.load_model(tmp_path / "model.keras")
    fitted(first, epochs=6)
    fitted(second, epochs=6)
    assert same_bits(first.weights, second.weights)


def test_copies_of_a_model_go_on_bit_for_bit() -> None:
    first = fitted(model(fused("AdamW", 0.01)))
    others = [copy.deepcopy(first), pickle.loads(pickle.dumps(first))]
    for each in (first, *others):
        fitted(each)
    for each in others:
        assert same_bits(first.weights, each.weights)


BOTH: dict[str, Callable[[Any, Any], Any]] = {
    **{
        name: lambda of, _, name=name: of(name, 0.01)
        for name in ["SGD", "AdamW", "Adamax", "Adagrad", "Adadelta", "Ftrl", "Nadam", "Lion"]
    },
    "Muon": lambda of, _: of("Muon", 0.01),
    "Adafactor": lambda of, _: of("Adafactor", 0.01),
    "RMSprop": lambda of, _: of("RMSprop", 0.01, momentum=0.9, centered=True),
    "everything": lambda of, _: of("Adam", 0.01, amsgrad=True, **EVERYTHING),
    "scale": lambda of, rules: of("LossScaleOptimizer", rules.AdamW(0.01)),
    "several": lambda of, rules: of(
        "MultiOptimizer", rules.OptimizerMap(rules.Adam(0.01), {".*bias": rules.SGD(0.01, 0.9)})
    ),
}


@pytest.mark.parametrize("to_ours", [True, False], ids=["to fusedopt", "to Keras"])
@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=needs_multi if each == "several" else ()) for each in BOTH]
)
def test_weights_go_both_ways(name: str, to_ours: bool, tmp_path: Path) -> None:
    makers = [(theirs, keras.optimizers), (fused, fo)]
    here, there = makers if to_ours else makers[::-1]
    first = fitted(model(BOTH[name](*here)))
    first.save_weights(tmp_path / "model.weights.h5")
    second = model(BOTH[name](*there))
    second.optimizer.build(second.trainable_variables)
    with warnings.catch_warnings():
        if name == "several" and not to_ours:
            # Keras writes and looks for the members' state a second time, beside that of the whole.
            warnings.filterwarnings("ignore", "Skipping variable loading for optimizer '(adam|sgd)")
        second.load_weights(tmp_path / "model.weights.h5")
    pairs = zip(first.optimizer.variables, second.optimizer.variables, strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(value(a), value(b), rtol=1e-6)
    fitted(first)
    fitted(second)
    assert distance(first, second) < 1e-5


def test_a_model_of_keras_goes_on_with_its_optimizers_twin(tmp_path: Path) -> None:
    first = fitted(model(theirs("AdamW", 0.01, weight_decay=0.1)))
    first.save(tmp_path / "model.keras")
    second = keras.models.load_model(tmp_path / "model.keras")
    old = second.optimizer
    new = adapter.Optimizer(fo.deserialize(keras.optimizers.serialize(old)))
    new.build(second.trainable_variables)
    new.set_weights(old.variables)
    second.compile(new, loss=second.loss)
    fitted(first)
    fitted(second)
    assert distance(first, second) < 1e-6


# What does not fit


def saved(folder: Path, optimizer: Any) -> Path:
    path = folder / "model.weights.h5"
    fitted(model(optimizer)).save_weights(path)
    return path


def test_a_wrong_number_of_values_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path, theirs("Adam", 0.01))
    other = fitted(model(fused("SGD", 0.01, 0.9)))
    before = [value(v) for v in other.optimizer.variables]
    with pytest.raises(ValueError, match="expected 6 values for the optimizer 'sgd', found 10"):
        other.load_weights(path)
    assert all(
        np.array_equal(a, value(b)) for a, b in zip(before, other.optimizer.variables, strict=True)
    )


def test_an_optimizer_that_is_not_built_is_an_error(tmp_path: Path) -> None:
    path = saved(tmp_path, fused("Adam", 0.01))
    with pytest.raises(ValueError, match=r"not built; call optimizer.build\(model.trainable"):
        model(fused("Adam", 0.01)).load_weights(path)


def test_a_wrong_shape_is_an_error_and_changes_nothing() -> None:
    made = fitted(model(fused("Adam", 0.01)))
    store: dict[str, Any] = {}
    made.optimizer.save_own_variables(store)
    for change in ({"4": np.ones(3)}, {"11": np.ones(1)}, {"x": np.ones(1)}):
        with pytest.raises(ValueError, match="load_own_variables|set_weights"):
            made.optimizer.load_own_variables({**store, "0": np.array(99), **change})
    with pytest.raises(ValueError, match="expected 10 values for the optimizer 'adam', found 3"):
        made.optimizer.set_weights(made.optimizer.variables[:3])
    assert int(made.optimizer.iterations.value) == 6


@pytest.mark.parametrize("bad", [np.ones(1, "float32"), np.ones((3, 5), "int64")], ids=str)
def test_master_copies_that_do_not_fit_are_an_error_and_change_nothing(bad: Any) -> None:
    made = fitted(model(fused("SGD", 0.01, 0.9), dtype="bfloat16"))
    store: dict[str, Any] = {}
    made.optimizer.save_own_variables(store)
    fitted(made)
    before = [value(v) for v in (*made.weights, *made.optimizer.variables)]
    with pytest.raises(ValueError, match="load_own_variables: .*master_0"):
        made.optimizer.load_own_variables({**store, "master_0": bad})
    after = [value(v) for v in (*made.weights, *made.optimizer.variables)]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_accumulators_of_overwritten_variables_are_checked_too() -> None:
    (w, scale) = variables(np.ones(2, "float32"), np.ones(3, "float32"))
    scale.overwrite_with_gradient = True
    optimizer = fused("SGD", 1.0, gradient_accumulation_steps=2)
    optimizer.apply([keras.ops.ones(2), keras.ops.ones(3)], [w, scale])
    store: dict[str, Any] = {}
    optimizer.save_own_variables(store)
    (position,) = [k for k, v in enumerate(optimizer.variables) if v.shape == (3,)]
    before = [value(v) for v in optimizer.variables]
    with pytest.raises(ValueError, match=r"load_own_variables: expected shape \(3,\) for"):
        optimizer.load_own_variables({**store, "0": np.array(9), str(position): np.ones(4)})
    assert all(
        np.array_equal(a, value(b)) for a, b in zip(before, optimizer.variables, strict=True)
    )


def test_weights_without_an_optimizer_leave_it_and_say_so(tmp_path: Path) -> None:
    model().save_weights(tmp_path / "plain.weights.h5")
    made = fitted(model(fused("Adam", 0.01)))
    with pytest.warns(UserWarning, match="no state of the optimizer 'adam', which stays as it is"):
        made.load_weights(tmp_path / "plain.weights.h5")
    assert int(made.optimizer.iterations.value) == 6


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_model_that_has_not_been_trained_is_loaded(name: str, tmp_path: Path) -> None:
    first = model(OPTIMIZERS[name]())
    first.save(tmp_path / "model.keras")
    second = keras.models.load_model(tmp_path / "model.keras")
    fitted(first)
    fitted(second)
    assert same_bits(first.weights, second.weights)


def test_values_of_before_the_build_do_not_replace_a_state() -> None:
    made = fitted(model(fused("Adam", 0.01)))
    store: dict[str, Any] = {}
    fused("Adam", 0.25).save_own_variables(store)
    with pytest.raises(ValueError, match="found 2"):
        made.optimizer.load_own_variables(store)


def test_another_process_loads_it_after_importing_the_module(tmp_path: Path) -> None:
    made = fitted(model(fused("LossScaleOptimizer", fo.AdamW(0.01))))
    made.save(tmp_path / "model.keras")
    code = (
        "import json, sys, keras, fusedopt.keras\n"
        "optimizer = keras.models.load_model(sys.argv[1]).optimizer\n"
        "print(json.dumps([type(optimizer).__name__, int(optimizer.iterations.value)]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "model.keras")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "KERAS_BACKEND": "torch"},
    )
    assert json.loads(done.stdout.splitlines()[-1]) == ["LossScaleOptimizer", 6]
