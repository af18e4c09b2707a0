"""What is given in the place of an optimizer, or of a map of them: errors that say how to make one."""

from __future__ import annotations

from typing import Any

import fusedopt as fo
import numpy as np
import pytest

CONFIG = fo.serialize(fo.SGD())


@pytest.mark.parametrize(
    "take", [fo.LossScaleOptimizer, fo.OptimizerMap, lambda o: fo.Sharded(o, None), fo.serialize]
)
@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (fo.AdamW, "; make one, AdamW(...)"),
        ("adam", "; make one, fusedopt.get('adam')"),
        (CONFIG, "; make one of the configuration, fusedopt.deserialize(...)"),
        (5, "found 5"),
        (fo.schedules.CosineDecay, "CosineDecay'>"),
    ],
)
def test_in_the_place_of_an_optimizer(take: Any, given: Any, advice: str) -> None:
    with pytest.raises(TypeError, match="expected an Optimizer, found") as caught:
        take(given)
    assert str(caught.value).endswith(advice)


def test_a_class_for_get() -> None:
    with pytest.raises(TypeError, match=r"a name or a dict, found .*; make one, Adam\(\.\.\.\)$"):
        fo.get(fo.Adam)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given", [{"k": fo.SGD()}, [fo.SGD()], fo.SGD()], ids=["dict", "list", "one"]
)
def test_in_the_place_of_a_map(given: Any) -> None:
    with pytest.raises(
        TypeError, match=r"; give OptimizerMap\(default_optimizer, \{name or pattern: opt"
    ):
        fo.MultiOptimizer(given)
    with pytest.raises(TypeError, match=r"; make one, OptimizerMap\(\.\.\.\)$"):
        fo.MultiOptimizer(fo.OptimizerMap)  # type: ignore[arg-type]


def test_unknown_classes() -> None:
    with pytest.raises(ValueError, match="found 'adamm'; did you mean 'Adam'") as caught:
        fo.get("adamm")
    assert "RuleOptimizer" not in str(caught.value)
    with pytest.raises(ValueError, match="^class_name: expected one of"):
        fo.get("RuleOptimizer")
    with pytest.raises(ValueError, match="did you mean 'CosineDecay'"):
        fo.schedules.deserialize({"class_name": "CosinDecay", "config": {}})


def test_an_inner_optimizer_that_was_built_before() -> None:
    w = np.ones(2)
    inner = fo.SGD(1.0)
    inner.build([w])
    optimizer = fo.LossScaleOptimizer(inner, 2.0)
    with pytest.raises(ValueError, match="was built before LossScaleOptimizer was put around it$"):
        optimizer.build([np.ones(3)])
    optimizer.build([w])
    optimizer.apply([np.full(2, 2.0)])
    assert w.tolist() == [0.0, 0.0]
    other = fo.LossScaleOptimizer(fo.SGD())
    other.build([w])
    with pytest.raises(ValueError, match="or make a new optimizer$"):
        other.build([np.ones(3)])


@pytest.mark.parametrize("value", [1, 0, -3])
def test_no_accumulation(value: int) -> None:
    with pytest.raises(ValueError, match=f"found {value}; leave it out to update in every call$"):
        fo.SGD(gradient_accumulation_steps=value)
    with pytest.raises(ValueError, match="^gradient_accumulation_steps: .* found 4.0; give 4$"):
        fo.SGD(gradient_accumulation_steps=4.0)  # type: ignore[arg-type]
