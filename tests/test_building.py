"""How pip builds the extension module: in one piece, and not again while nothing has changed."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="written for GCC's and Clang's tools"),
    pytest.mark.maintainer,
]

ROOT = Path(__file__).resolve().parent.parent


def run(*command: object) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_core_compiles_in_one_piece(tmp_path: Path) -> None:
    # Two files may not give one name to two things, not even in unnamed namespaces.
    cpp = ROOT / "cpp"
    sources = re.findall(r"^  (src/\S+\.cpp)", (cpp / "CMakeLists.txt").read_text(), re.MULTILINE)
    assert "src/step.cpp" in sources
    program = tmp_path / "core.cpp"
    program.write_text("".join(f'#include "{cpp / source}"\n' for source in sources))
    folders = (f"-I{cpp / 'include'}", f"-I{cpp / 'src'}")
    level = "x86_64_v2" if platform.machine() in ("x86_64", "AMD64") else "baseline"
    definitions = (f"-DFUSEDOPT_HAS_{level}", '-DFUSEDOPT_VERSION="0"')
    warnings = ("-Wall", "-Wextra", "-Wshadow", "-Wno-unknown-pragmas", "-Werror")
    run("c++", "-std=c++20", "-fsyntax-only", *folders, *definitions, *warnings, program)


def test_a_build_folder_serves_again(tmp_path: Path) -> None:
    # pip brings pybind11 anew, to another place, for every build.
    pybind11 = pytest.importorskip(
        "pybind11", reason="pybind11 is not installed (pip install pybind11)"
    )
    build = tmp_path / "build"

    def configure(name: str) -> tuple[str, dict[str, int]]:
        brought = tmp_path / name / "pybind11"
        shutil.copytree(
            Path(pybind11.__file__).parent,
            brought,
            copy_function=shutil.copyfile,
            dirs_exist_ok=True,
        )
        options = (
            f"-Dpybind11_DIR={brought / 'share/cmake/pybind11'}",
            f"-DPython_EXECUTABLE={sys.executable}",
            "-DFUSEDOPT_PYTHON=ON",
        )
        run("cmake", "-S", ROOT, "-B", build, "-G", "Ninja", *options)
        headers = {
            str(path.relative_to(build)): path.stat().st_mtime_ns for path in build.rglob("*.h")
        }
        return run("ninja", "-C", build, "-t", "commands", "_core"), headers

    commands, headers = configure("first")
    assert "pybind11.h" in " ".join(headers)
    assert str(tmp_path / "first") not in commands
    shutil.rmtree(tmp_path / "first")
    (build / "CMakeCache.txt").unlink()
    assert configure("second") == (commands, headers)


def test_the_build_folder_is_no_part_of_the_project() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    settings = (ROOT / "pyproject.toml").read_text()
    folder = re.search(r'^build-dir = "(.+)"$', settings, re.MULTILINE)
    assert folder
    run("git", "-C", ROOT, "check-ignore", folder[1])
