"""Adafactor and Muon in loss scales, groups, files and subclasses, and with values that are not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from adafactor_and_muon import MAKERS, bits, make_gradients, make_weights


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("bad", [np.inf, np.nan])
@pytest.mark.parametrize("rule", MAKERS)
def test_an_overflow_is_skipped(rule: str, bad: float, dtype: Any) -> None:
    weights, copies = make_weights(dtype), make_weights(dtype)
    scaled = fo.LossScaleOptimizer(MAKERS[rule](), initial_scale=64.0)
    scaled.build(weights)
    plain = fo.LossScaleOptimizer(MAKERS[rule](), initial_scale=64.0)
    plain.build(copies)
    for step in range(4):
        gradients = make_gradients(step, dtype)
        plain.apply(gradients)
        if step == 2:
            before = bits(scaled.inner_optimizer, weights)
            broken = {name: g.copy() for name, g in gradients.items()}
            broken["tall"][7, 1] = bad
            scaled.apply(broken)
            assert bits(scaled.inner_optimizer, weights) == before
            assert scaled.dynamic_scale == 32.0
        if step >= 2:  # what the halved scale would give
            gradients = {name: g / dtype(2) for name, g in gradients.items()}
        scaled.apply(gradients)
    assert bits(scaled.inner_optimizer, weights) == bits(plain.inner_optimizer, copies)


def test_both_in_a_multi_optimizer() -> None:
    together, apart = make_weights(), make_weights()
    multi = fo.MultiOptimizer(
        fo.OptimizerMap(MAKERS["Adafactor"](), {"wide|bias": MAKERS["Muon"]()})
    )
    multi.build(together)
    parts = [
        (MAKERS["Muon"](), ["wide", "bias"]),
        (MAKERS["Adafactor"](), ["tall", "gain", "empty"]),
    ]
    for optimizer, names in parts:
        optimizer.build({name: apart[name] for name in names})
    for step in range(3):
        gradients = make_gradients(step)
        multi.apply(gradients)
        for optimizer, names in parts:
            optimizer.apply({name: gradients[name] for name in names})
    for name, w in together.items():
        np.testing.assert_array_equal(w, apart[name])


@pytest.mark.parametrize("how", ["set_weights", "own_variables", "file"])
@pytest.mark.parametrize("rule", MAKERS)
def test_state_goes_on_bit_for_bit(rule: str, how: str, tmp_path: Path) -> None:
    weights = make_weights()
    one, other = MAKERS[rule](), MAKERS[rule]()
    one.build(weights)
    for step in range(3):
        one.apply(make_gradients(step))
    copies = {name: w.copy() for name, w in weights.items()}
    other.build(copies)
    other.apply(make_gradients(9))
    for name, w in weights.items():
        copies[name][...] = w
    if how == "set_weights":
        other.set_weights([np.array(v) for v in one.variables])
    elif how == "own_variables":
        store: dict[str, Any] = {}
        one.save_own_variables(store)
        other.load_own_variables(store)
    else:
        one.save(tmp_path / "state")
        other.load(tmp_path / "state")
    assert bits(other, copies) == bits(one, weights)
    for step in range(3, 6):
        one.apply(make_gradients(step))
        other.apply(make_gradients(step))
    assert bits(other, copies) == bits(one, weights)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("rule", MAKERS)
def test_what_is_not_finite_shows_in_its_variable_alone(rule: str, bad: float) -> None:
    weights = make_weights()
    optimizer = MAKERS[rule]()
    if rule == "Muon":  # a global norm would spread it
        optimizer = fo.Muon(learning_rate=0.1)
    optimizer.build(weights)
    gradients = make_gradients(0)
    gradients["wide"][1, 7] = bad
    optimizer.apply(gradients)
    optimizer.apply(make_gradients(1))
    assert np.isnan(weights["wide"]).all()
    assert all(np.isfinite(w).all() for name, w in weights.items() if name != "wide")


@pytest.mark.parametrize("rule", ["Adafactor", "Muon"])
def test_a_subclass(rule: str) -> None:
    class Slower(getattr(fo, rule)):  # type: ignore[misc]
        def __init__(self, slowness: float = 2.0, **arguments: Any) -> None:
            super().__init__(**{"learning_rate": 0.1 / slowness, **arguments})
            self.slowness = slowness

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "slowness": self.slowness}

    original = Slower(use_ema=True)
    copy = Slower.from_config(original.get_config())
    assert copy.get_config() == original.get_config()
    plain = getattr(fo, rule)(learning_rate=0.05, use_ema=True)
    results = []
    for optimizer in (original, copy, plain):
        weights = make_weights()
        optimizer.build(weights)
        optimizer.apply(make_gradients(0))
        results.append(bits(optimizer, weights))
    assert results[0] == results[1] == results[2]
