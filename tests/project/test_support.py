"""The page of what is supported agrees with what is built, what is tested and what the package says of itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "support.md").read_text(encoding="utf-8")
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
WORKFLOWS = ROOT / ".github" / "workflows"


def row(name: str) -> str:
    """Return the second cell of the row that begins with a name."""
    (found,) = re.findall(rf"^\| {name} \| (.+?) \|", PAGE, re.MULTILINE)
    return str(found)


def workflow(name: str) -> str:
    if not WORKFLOWS.exists():
        pytest.skip("the workflows are in the repository only")
    return (WORKFLOWS / name).read_text(encoding="utf-8")


def pythons() -> list[str]:
    return re.findall(r"\b3\.\d+\b", row("Python").partition(", and free-threaded")[0])


def test_pythons_are_those_of_the_classifiers() -> None:
    classified = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PYPROJECT)
    assert classified == pythons()
    assert f'requires-python = ">={pythons()[0]}"' in PYPROJECT


def test_every_python_is_tested() -> None:
    tested = set(re.findall(r'python(?:-version)?: "(3\.\d+)t?"', workflow("tests.yml")))
    assert tested == set(pythons())


def test_free_threaded_pythons_are_tested_from_the_one_that_is_named() -> None:
    (first,) = re.findall(r"free-threaded from (3\.\d+) on", row("Python"))
    assert f'python: "{first}t"' in workflow("tests.yml")
    assert "Programming Language :: Python :: Free Threading" in PYPROJECT


def test_the_oldest_numpy_is_that_of_the_package() -> None:
    (oldest,) = re.findall(r'^dependencies = \["numpy>=(.+)"\]$', PYPROJECT, re.MULTILINE)
    assert row("NumPy") == f"{oldest} and newer"


def test_the_oldest_compilers_are_tested_and_named_alike_everywhere() -> None:
    gcc, clang = re.search(
        r"GCC (\d+), Clang (\d+) and newer", row("compilers, from source")
    ).groups()
    assert f"compiler: g++-{gcc}," in workflow("tests.yml")
    assert f"compiler: clang++-{clang}," in workflow("tests.yml")
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert f"GCC {gcc}, Clang {clang} or newer" in contributing


def test_the_oldest_cmake_is_what_the_project_asks_for() -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    (oldest,) = re.findall(r"^cmake_minimum_required\(VERSION ([0-9.]+)\)", cmake)
    assert row("CMake, from source") == f"{oldest} and newer"


def test_the_oldest_macos_is_that_of_the_wheels() -> None:
    (oldest,) = re.findall(r'MACOSX_DEPLOYMENT_TARGET = "(\d+)\.0"', PYPROJECT)
    assert row("macOS").startswith(f"{oldest} and newer")


def test_wheels_are_built_on_every_system_and_processor() -> None:
    (runners,) = re.findall(r"^ +os: \[(.+)\]$", workflow("wheels.yml"), re.MULTILINE)
    assert set(runners.split(", ")) == {
        *("ubuntu-latest", "ubuntu-24.04-arm"),
        *("macos-latest", "macos-15-intel"),
        *("windows-latest", "windows-11-arm"),
    }
    assert "x86-64 and AArch64" in row("Linux")
    assert "Apple and Intel" in row("macOS")
    assert "x86-64 and ARM64" in row("Windows")


def test_every_format_of_files_that_is_named_is_known() -> None:
    source = (ROOT / "python" / "fusedopt" / "files" / "tensors.py").read_text(encoding="utf-8")
    for name in re.findall(r"`(fusedopt-\d)`", PAGE):
        assert f'"{name}"' in source
