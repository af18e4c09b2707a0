"""Hyperparameters are declared once, so constructor, attributes, configuration and `help` agree."""

from __future__ import annotations

import inspect
from typing import Any

import fusedopt as fo
import pytest
from cases import RULES

CLASSES = [*RULES, "LossScaleOptimizer", "MultiOptimizer"]


@pytest.mark.parametrize("name", CLASSES)
def test_help_tells_every_argument(name: str) -> None:
    cls: Any = getattr(fo, name)
    text = inspect.getdoc(cls) or ""
    assert text.count("\nParameters\n----------\n") == text.count("\nRaises\n------\n") == 1
    listed = text.partition("\nParameters\n----------\n")[2].partition("\nRaises\n")[0]
    for argument in inspect.signature(cls).parameters:
        assert listed.count(f"\n{argument} : ") + listed.startswith(f"{argument} : ") == 1, argument
    assert "As in `" not in text
    assert ":math:" not in text
    assert "math::" not in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("name", CLASSES)
def test_every_argument_is_an_attribute_and_in_the_configuration(name: str) -> None:
    given = {"LossScaleOptimizer": [fo.SGD()], "MultiOptimizer": [fo.OptimizerMap(fo.SGD())]}
    optimizer = getattr(fo, name)(*given.get(name, []))
    config = optimizer.get_config()
    for argument, parameter in inspect.signature(type(optimizer)).parameters.items():
        getattr(optimizer, argument)
        assert (argument in config) == (parameter.kind is not parameter.KEYWORD_ONLY), argument


def test_the_base_makes_no_optimizer() -> None:
    with pytest.raises(TypeError, match="Optimizer: expected one of its subclasses"):
        fo.Optimizer()


def test_too_many_and_doubled_arguments() -> None:
    with pytest.raises(TypeError, match="SGD: too many positional"):
        fo.SGD(*range(20))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="SGD: multiple values for argument 'learning_rate'"):
        fo.SGD(0.1, learning_rate=0.1)  # type: ignore[misc]
    with pytest.raises(TypeError, match="LossScaleOptimizer: missing a required argument"):
        fo.LossScaleOptimizer()  # type: ignore[call-arg]
