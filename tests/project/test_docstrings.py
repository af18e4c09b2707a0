"""Docstrings: every public name has one, and their examples run."""

from __future__ import annotations

import doctest
import importlib
import importlib.metadata
import inspect
import pkgutil
import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import fusedopt as fo
import pytest
from cases import RULES
from schedule_cases import CLASSES

HOSTS = {"torch_products": "torch", "torch": "torch", "keras": "keras", "thinc": "thinc"}


def modules() -> Iterator[str]:
    yield "fusedopt"
    paths = [(fo.__path__, "fusedopt."), (fo.rules.__path__, "fusedopt.rules.")]
    for module in (each for path in paths for each in pkgutil.iter_modules(*path)):
        host = HOSTS.get(module.name.removeprefix("fusedopt."))
        if module.name != "fusedopt._core" and (host is None or find_spec(host)):
            yield module.name


@pytest.mark.parametrize("name", [*modules()])
def test_examples_of_the_docstrings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch" if find_spec("torch") else "numpy")
    module = importlib.import_module(name)
    result = doctest.testmod(module, raise_on_error=False)
    assert result.failed == 0
    assert module.__doc__


def test_doctest_finds_the_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [
        test.name
        for name in modules()
        for test in finder.find(importlib.import_module(name))
        if test.examples
    ]
    assert "fusedopt" in found
    homes = {rule: getattr(fo, rule).__module__ for rule in RULES}
    assert {f"{home}.{rule}" for rule, home in homes.items()} <= set(found)


PUBLIC = [
    (name, getattr(fo, name))
    for name in fo.__all__
    if inspect.isclass(getattr(fo, name)) or inspect.isroutine(getattr(fo, name))
]
PUBLIC += [
    (name, value)
    for name in fo.schedules.__all__
    if inspect.isclass(value := getattr(fo.schedules, name))
]


@pytest.mark.parametrize(("name", "value"), PUBLIC, ids=[name for name, _ in PUBLIC])
def test_docstring_of_every_public_name(name: str, value: Any) -> None:
    text = inspect.getdoc(value) or ""
    assert re.search(r"^Examples\n-{8}\n(.|\n)*>>> ", text, re.MULTILINE), f"{name} has no example"
    assert text.splitlines()[0].endswith(".")
    if inspect.isclass(value):
        for method, function in inspect.getmembers(value, inspect.isroutine):
            if not method.startswith("_"):
                assert inspect.getdoc(function), f"{name}.{method}"


@pytest.mark.parametrize("cls", [getattr(fo, rule) for rule in RULES])
def test_docstring_names_every_argument(cls: Any) -> None:
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind is not parameter.VAR_KEYWORD:
            assert re.search(rf"\b{name}\b", inspect.getdoc(cls) or ""), name


# Schedules


MODULES = [
    f"fusedopt.schedules.{module.name}" for module in pkgutil.iter_modules(fo.schedules.__path__)
]


@pytest.mark.parametrize("name", ["fusedopt.schedules", *MODULES])
def test_examples_of_the_schedules_docstrings(name: str) -> None:
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0
    assert module.__doc__


@pytest.mark.parametrize("name", fo.schedules.__all__)
def test_docstring_of_every_schedule(name: str) -> None:
    value = getattr(fo.schedules, name)
    text = inspect.getdoc(value) or ""
    assert re.search(r"^Examples\n-{8}\n(.|\n)*>>> ", text, re.MULTILINE)
    if name in CLASSES:
        for argument in inspect.signature(value).parameters:
            assert re.search(rf"^{argument} : ", text, re.MULTILINE), argument
        assert ".. math::" in text
        assert f"``keras.optimizers.schedules.{name}``" in text
