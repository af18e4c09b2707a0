"""The C++ library, as the tests of it and of the pages about it build and install it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from once import Once, without_time_limit

ROOT = Path(__file__).resolve().parents[1]
# CMake and Ninja may be those that pip put beside this interpreter.
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


def run(*command: Any, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, "PATH": PATH, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(f"{command} gave {done.returncode}:\n{done.stdout}", pytrace=False)
    return done.stdout


def cmake(source: Path, build: Path, *options: str, targets: tuple[str, ...] = ("all",)) -> None:
    without_time_limit()
    run("cmake", "-S", source, "-B", build, "-G", "Ninja", *options)
    run("cmake", "--build", build, "--target", *targets)


def has_package(name: str, folder: Path) -> bool:
    folder.mkdir()
    (folder / "CMakeLists.txt").write_text(f"""
cmake_minimum_required(VERSION 3.21)
project(probe LANGUAGES CXX)
find_package({name} QUIET)
if({name}_FOUND)
  file(TOUCH {folder}/found)
endif()
""")
    run("cmake", "-S", folder, "-B", folder / "build", "-G", "Ninja")
    return (folder / "found").exists()


def built(once: Once) -> Path:
    """The library as it is by default, its tests and, where Google Benchmark is installed, its benchmarks."""

    def make(folder: Path) -> None:
        benchmarks = "ON" if has_package("benchmark", folder / "probe") else "OFF"
        cmake(ROOT, folder, "-DFUSEDOPT_TESTS=ON", f"-DFUSEDOPT_BENCHMARKS={benchmarks}")

    return once("tree", "the C++ library and its tests", make)


def installed(once: Once) -> Path:
    """The library installed, and then moved to another place."""

    def make(folder: Path) -> None:
        run("cmake", "--install", built(once), "--prefix", folder / "first")
        (folder / "first").rename(folder / "second")

    return once("prefix", "an installation of it", make) / "second"
