"""Docstrings of `fusedopt.torch`: their examples run, and every argument is told."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re

import pytest

torch = pytest.importorskip("torch")

import fusedopt.torch  # noqa: E402
from torch_cases import NAMES, ours  # noqa: E402

MODULES = [
    f"fusedopt.torch.{module.name}" for module in pkgutil.iter_modules(fusedopt.torch.__path__)
]


@pytest.mark.parametrize("name", ["fusedopt.torch", *MODULES])
def test_examples_run(name: str) -> None:
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0
    assert module.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_a_class_tells_its_formula_arguments_and_source(name: str) -> None:
    text = inspect.getdoc(ours(name)) or ""
    for argument in inspect.signature(ours(name)).parameters:
        assert re.search(rf"^{argument} : ", text, re.MULTILINE), argument
    sections = re.findall(r"^(\w+)\n-+$", text, re.MULTILINE)
    assert sections == ["Parameters", "Raises", "Examples", "References"]
    assert re.search(r"^ +w <- w - ", text, re.MULTILINE)
    assert f"``torch.optim.{name}``" in text


@pytest.mark.parametrize("name", ["step", "add_param_group", "load_state_dict", "averages"])
def test_methods_have_docstrings_of_their_own(name: str) -> None:
    own = inspect.getdoc(getattr(ours("AdamW"), name))
    assert own
    assert own != inspect.getdoc(getattr(torch.optim.Optimizer, name, None))
