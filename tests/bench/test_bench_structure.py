"""The structure of the bench: names, and what the package holds of it."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from bench_runs import CHECKOUT, ROOT

PACKAGE = ROOT / "python" / "fusedopt" / "bench"
MOST_LINES = 0.3


def nodes() -> Iterator[ast.AST]:
    for path in PACKAGE.glob("*.py"):
        yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def defined(node: ast.AST) -> str:
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
            return name
        case ast.Name(id=name, ctx=ast.Store()):
            return name
    return "_"


def used(node: ast.AST) -> str:
    match node:
        case ast.Name(id=name, ctx=ast.Load()) | ast.Attribute(attr=name):
            return name
    return "_"


def test_no_two_modules_have_one_name() -> None:
    package = {path.name for path in PACKAGE.glob("*.py")}
    checkout = {path.name for path in CHECKOUT.glob("*.py")}
    assert "command.py" in package
    assert "run.py" in checkout
    assert package & checkout == set()


@pytest.mark.maintainer
def test_the_package_uses_what_it_defines() -> None:
    names = {defined(node) for node in nodes()} - {used(node) for node in nodes()} - {"_"}
    assert {name for name in names if not name.startswith("__")} == set()


@pytest.mark.maintainer
def test_the_package_is_no_benchmark_with_optimizers() -> None:
    sources = list((ROOT / "python" / "fusedopt").rglob("*.py"))
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources}
    of_the_bench = sum(lines[path] for path in sources if path.parent == PACKAGE)
    assert 0 < of_the_bench <= MOST_LINES * sum(lines.values())
