"""The public names and the version."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import re
from pathlib import Path

import fusedopt as fo
from cases import RULES, VARIANTS


def installed_version() -> str:
    try:
        return importlib.metadata.version("fusedopt")
    except importlib.metadata.PackageNotFoundError:
        return fo.__version__


def test_version() -> None:
    project = (Path(__file__).parents[2] / "CMakeLists.txt").read_text(encoding="utf-8")
    found = re.search(r"project\(\s*fusedopt\s+VERSION\s+([0-9.]+)", project)
    assert found is not None
    assert fo.__version__ == found[1] == installed_version()


def test_every_rule_of_the_table_is_public() -> None:
    assert {case.rule for case in VARIANTS} == set(RULES) <= set(fo.__all__)
    others = set(fo.__all__) - set(RULES)
    classes = {name for name in others if inspect.isclass(getattr(fo, name))}
    wrappers = {"LossScaleOptimizer", "MultiOptimizer", "Sharded"}
    assert classes == {*wrappers, "Optimizer", "OptimizerMap", "RowGradient"}


def test_all_lists_every_public_name() -> None:
    assert sorted(fo.__all__) == sorted(set(fo.__all__))
    own = {
        name
        for name, value in vars(fo).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert own == set(fo.__all__) - {"__version__", "schedules"}
