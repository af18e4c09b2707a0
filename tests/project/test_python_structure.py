"""The structure of the Python sources: short files, bases that nobody can construct, wrappers that undo nothing."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from types import FunctionType
from typing import Any

import fusedopt as fo
import pytest
from fusedopt.runtime import _core

pytestmark = pytest.mark.maintainer

PYTHON = Path(__file__).resolve().parents[2] / "python"
SOURCES = sorted(path.relative_to(PYTHON) for path in PYTHON.rglob("*.py"))
FRONT = [
    "state/stateful.py",
    "state/loading.py",
    "state/saved.py",
    "state/copying.py",
    "catching_up.py",
    "stepping.py",
    "optimizer.py",
]
TESTS = sorted((PYTHON.parent / "tests").rglob("*.py"))
CORES = [_core.Optimizer, _core.MultiOptimizer, _core.LossScale]


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_a_file_is_short_or_says_why_it_is_not(source: Path) -> None:
    text = (PYTHON / source).read_text(encoding="utf-8")
    if len(text.splitlines()) > 300:
        assert "though long" in (ast.get_docstring(ast.parse(text)) or "")


@pytest.mark.parametrize("source", TESTS, ids=lambda path: path.name)
def test_a_file_of_tests_is_short(source: Path) -> None:
    assert len(source.read_text(encoding="utf-8").splitlines()) <= 500


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_a_hook_without_a_body_is_abstract(source: Path) -> None:
    assert "NotImplementedError" not in (PYTHON / source).read_text(encoding="utf-8")


def overridden(cls: type) -> set[str]:
    """Return which members replace one that a base implements."""
    kinds = (FunctionType, property, classmethod, staticmethod)
    return {
        name
        for name, value in vars(cls).items()
        if isinstance(value, kinds) and name != "__init__"
        for base in cls.__mro__[1:]
        if name in vars(base) and not getattr(vars(base)[name], "__isabstractmethod__", False)
    }


@pytest.mark.parametrize(
    ("cls", "members"),
    [
        (fo.MultiOptimizer, set()),
        (
            fo.LossScaleOptimizer,
            {"_without_foreign"},
        ),  # Keras 2's "dynamic" is no declared argument
    ],
)
def test_a_wrapper_overrides_hooks_only(cls: type, members: set[str]) -> None:
    assert overridden(cls) == members


@pytest.mark.parametrize("source", FRONT)
def test_what_is_asked_of_a_core_each_kind_answers(source: str) -> None:
    text = (PYTHON / "fusedopt" / source).read_text(encoding="utf-8")
    asked = set(re.findall(r"\b(?:self|optimizer)\._core\.(\w+)", text))
    assert asked
    for core in CORES:
        assert asked <= set(dir(core)), core.__name__


def bases() -> list[Any]:
    schedule = fo.schedules.LearningRateSchedule
    of_the_package = fo.schedules.CosineDecay.__mro__[1]
    return [*fo.Optimizer.__mro__[:-3], schedule, of_the_package]  # without ABC and mix-ins


@pytest.mark.parametrize("cls", bases(), ids=lambda cls: cls.__name__)
def test_nobody_constructs_a_base(cls: Any) -> None:
    assert inspect.isabstract(cls)
    with pytest.raises(TypeError, match=cls.__name__):
        cls()


def test_a_class_without_a_rule_is_refused() -> None:
    class Mine(fo.Optimizer):
        pass

    with pytest.raises(TypeError, match="Mine: expected one of its subclasses"):
        Mine()
