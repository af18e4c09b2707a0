"""Names of the state (`named_variables`) and of the averages."""

from __future__ import annotations

import copy
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import VARIANTS
from named import NAMES, multi, trained, weights


@pytest.mark.parametrize("case", VARIANTS, ids=str)
def test_every_entry_of_variables_has_a_name(case: Any) -> None:
    plain = getattr(fo, case.rule)(**case.arguments, use_ema=True, gradient_accumulation_steps=2)
    scaled = fo.LossScaleOptimizer(copy.deepcopy(plain))
    several = fo.MultiOptimizer(fo.OptimizerMap(copy.deepcopy(plain), {"a/.*": fo.SGD()}))
    for optimizer in (plain, scaled, several):
        assert len(optimizer.named_variables()) == len(optimizer.variables)
        optimizer.build(weights())
        named = optimizer.named_variables()
        assert len(named) == len(optimizer.variables)
        for array, other in zip(named.values(), optimizer.variables, strict=True):
            assert array.__array_interface__["data"] == other.__array_interface__["data"]
    endings = {name.partition("/")[2] for name in plain.named_variables() if "/" in name}
    assert endings == set(NAMES)


def test_names_tell_slot_and_variable() -> None:
    optimizer, _ = trained(fo.LossScaleOptimizer(fo.Adam(use_ema=True)))
    assert list(optimizer.named_variables())[:7] == [
        "loss_scale/iteration",
        "loss_scale/learning_rate",
        "loss_scale/step_counter",
        "loss_scale/dynamic_scale",
        "iteration",
        "learning_rate",
        "average/a/kernel",
    ]
    optimizer.named_variables()["momentum/a/kernel"][...] = 7
    assert (optimizer.variables[10] == 7).all()
    assert "1/velocity/a/bias" not in trained(multi())[0].named_variables()
    assert "0/velocity/a/bias" in trained(multi())[0].named_variables()


def test_averages_have_the_names_of_their_variables() -> None:
    optimizer, variables = trained(fo.SGD(0.5, use_ema=True, ema_momentum=0.0))
    assert list(optimizer.averages) == NAMES
    for name, average in optimizer.averages.items():
        assert np.array_equal(average.astype(variables[name].dtype), variables[name])
    optimizer.averages["a/kernel"][...] = 3
    assert (optimizer.variables[2] == 3).all()


def test_averages_of_variables_without_names_are_numbered() -> None:
    optimizer = fo.RMSprop(use_ema=True, centered=True)
    assert optimizer.averages == {}
    optimizer.build([np.ones(2), np.ones(3)])
    assert list(optimizer.averages) == ["0", "1"]
    assert optimizer.averages["1"].shape == (3,)
    several = fo.MultiOptimizer(fo.OptimizerMap(fo.SGD(use_ema=True)))
    several.build([np.ones(2), np.ones(3)])
    assert list(several.averages) == list(several.optimizers[0].averages) == ["0", "1"]
    assert fo.SGD().averages == {}


def test_averages_through_wrappers() -> None:
    optimizer, _ = trained(fo.LossScaleOptimizer(multi()))
    assert list(optimizer.averages) == ["a/kernel", "b/average/bias"]
