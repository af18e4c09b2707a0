"""The names of other libraries in docs/names.md are names of those libraries, and all of this one's rules are there."""

from __future__ import annotations

import importlib
import inspect
import re
from importlib.util import find_spec
from typing import Any

import fusedopt as fo
import pages
import pytest
from cases import RULES

TEXT = (pages.ROOT / "docs" / "names.md").read_text(encoding="utf-8")
RATES = (pages.ROOT / "docs" / "how_to" / "choose_a_rule.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"`((?:fo|fusedopt|torch|optax|keras)\.[\w.]+)", TEXT)))


def found(name: str) -> Any:
    """What a dotted name stands for. Some modules of a library are only there once they are imported."""
    first, *others = name.replace("fo.", "fusedopt.", 1).split(".")
    value: Any = importlib.import_module(first)
    path = first
    for part in others:
        path = f"{path}.{part}"
        if not hasattr(value, part):
            importlib.import_module(path)
        value = getattr(value, part)
    return value


def is_found(name: str) -> bool:
    try:
        return found(name) is not None
    except (AttributeError, ImportError):
        return False


# Of the libraries themselves, as they are imported.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("library", sorted({name.partition(".")[0] for name in NAMES}))
def test_names(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    names = [name for name in NAMES if name.startswith(f"{library}.")]
    needed = {
        "fo": [],
        "fusedopt": [name.split(".")[1] for name in names],
        "keras": ["keras", "torch"],
    }.get(library, [library])
    if missing := [package for package in needed if find_spec(package) is None]:
        pytest.skip(f"needs {', '.join(missing)}")
    assert [name for name in names if not is_found(name)] == []


def test_every_rule_has_a_row() -> None:
    assert set(re.findall(r"^\| `fo\.(\w+)`", TEXT, re.MULTILINE)) >= RULES.keys()


def words_in(table: str, column: int) -> set[str]:
    cells = [row.split("|")[column] for row in table.splitlines()[2:]]
    return {word for cell in cells for word in re.findall(r"`([a-zA-Z]\w*)`", cell)}


def arguments_in(column: int) -> set[str]:
    (table,) = re.findall(r"^## Arguments\n\n(.*?)\n\n", TEXT, re.MULTILINE | re.DOTALL)
    return {word for word in words_in(table, column) if word[0].islower()}


def schedule_arguments_in(column: int) -> set[str]:
    (table,) = re.findall(r"^\| argument here.*?(?=\n\n)", TEXT, re.MULTILINE | re.DOTALL)
    return words_in(table, column)


SCHEDULES = [getattr(fo.schedules, name) for name in fo.schedules.__all__ if "Decay" in name]
KNOWN = {name for rule in RULES for name in inspect.signature(getattr(fo, rule)).parameters}


def is_known_to(classes: list[Any], name: str) -> bool:
    """Whether an error of one of them says what to write instead."""
    found = []
    for cls in classes:
        try:
            cls(**{name: 1})
        except (TypeError, ValueError) as error:
            found.append(str(error))
    return any(re.search(f"; ({name}: did you mean|instead of|leave) ", text) for text in found)


def test_every_foreign_argument_is_known_to_the_errors() -> None:
    rules = [getattr(fo, rule) for rule in RULES]
    foreign = (arguments_in(2) | arguments_in(3)) - KNOWN - {"decay"}  # Keras 2's, which warns
    assert len(foreign) > 15
    assert [name for name in sorted(foreign) if not is_known_to(rules, name)] == []


def test_every_foreign_argument_of_a_schedule_is_known_to_the_errors() -> None:
    known = {name for each in SCHEDULES for name in inspect.signature(each).parameters}
    assert schedule_arguments_in(1) <= known
    foreign = (schedule_arguments_in(2) | schedule_arguments_in(3)) - known
    assert len(foreign) > 10
    assert [name for name in sorted(foreign) if not is_known_to(SCHEDULES, name)] == []


def test_arguments_of_schedules_elsewhere() -> None:
    torch = pytest.importorskip("torch")
    optax = pytest.importorskip("optax")
    found = vars(torch.optim.lr_scheduler)
    classes = [found[name] for name in found["__all__"]]
    known = {name for each in classes for name in inspect.signature(each).parameters}
    assert schedule_arguments_in(2) - known == {"lr"}
    functions = [each for each in vars(optax).values() if inspect.isfunction(each)]
    known = {name for each in functions for name in inspect.signature(each).parameters}
    assert schedule_arguments_in(3) <= known


def test_arguments_here() -> None:
    assert arguments_in(1) - KNOWN == {"exclude_from_weight_decay"}


def test_arguments_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    classes = [value for value in vars(torch.optim).values() if inspect.isclass(value)]
    known = {name for each in classes for name in inspect.signature(each).parameters}
    assert arguments_in(2) - known == set()


def test_arguments_of_optax() -> None:
    optax = pytest.importorskip("optax")
    functions = [value for value in vars(optax).values() if inspect.isfunction(value)]
    functions.append(found("optax.contrib.muon"))
    known = {name for each in functions for name in inspect.signature(each).parameters}
    assert arguments_in(3) - known == set()


def test_first_rates_are_said_of_every_rule() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([0-9.]+) \| ([0-9.]+) \|$", RATES, re.MULTILINE)
    defaults = {rule: inspect.signature(getattr(fo, rule)).parameters for rule in RULES}
    assert {rule: float(default) for rule, _, default in rows} == {
        rule: parameters["learning_rate"].default for rule, parameters in defaults.items()
    }
    starts = dict(re.findall(r'^    "(\w+)": \{"learning_rate": ([0-9.]+)', RATES, re.MULTILINE))
    assert {rule: float(start) for rule, start in starts.items()} == {
        rule: float(start) for rule, start, _ in rows
    }
