"""How pip builds the extension module: in one piece, and not again while nothing has changed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="written for GCC's and Clang's tools"),
    pytest.mark.maintainer,
]

ROOT = Path(__file__).resolve().parents[2]


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


def installed_pybind11() -> Path:
    pybind11 = pytest.importorskip(
        "pybind11", reason="pybind11 is not installed (pip install pybind11)"
    )
    return Path(pybind11.__file__).parent


def configure(build: Path, pybind11: Path, *options: str) -> None:
    options = (
        f"-Dpybind11_DIR={pybind11 / 'share/cmake/pybind11'}",
        f"-DPython_EXECUTABLE={sys.executable}",
        "-DFUSEDOPT_PYTHON=ON",
        *options,
    )
    run("cmake", "-S", ROOT, "-B", build, "-G", "Ninja", *options)


@pytest.mark.parametrize("part", ["fusedopt", "_core"])
def test_compiles_in_one_piece(part: str, tmp_path: Path) -> None:
    # Two files may not give one name to two things, not even in unnamed namespaces.
    pybind11 = installed_pybind11()
    configure(
        tmp_path,
        pybind11,
        "-DCMAKE_UNITY_BUILD=ON",
        "-DCMAKE_UNITY_BUILD_BATCH_SIZE=0",
        "-DCMAKE_COMPILE_WARNING_AS_ERROR=ON",
    )
    commands = run("ninja", "-C", tmp_path, "-t", "commands", "_core").splitlines()
    pieces = [line for line in commands if f"/{part}.dir/Unity/" in line and " -c " in line]
    assert len(pieces) == 1
    run("sh", "-c", f"cd {shlex.quote(str(tmp_path))} && {pieces[0]} -fsyntax-only")


def test_a_build_folder_serves_again(tmp_path: Path) -> None:
    # pip brings pybind11 anew, to another place, for every build.
    pybind11 = installed_pybind11()
    build = tmp_path / "build"

    def configure_as_pip(name: str) -> tuple[str, dict[str, int]]:
        brought = tmp_path / name / "pybind11"
        shutil.copytree(pybind11, brought, copy_function=shutil.copyfile)
        configure(build, brought)
        headers = {
            str(path.relative_to(build)): path.stat().st_mtime_ns for path in build.rglob("*.h")
        }
        return run("ninja", "-C", build, "-t", "commands", "_core"), headers

    commands, headers = configure_as_pip("first")
    assert "pybind11.h" in " ".join(headers)
    assert str(tmp_path / "first") not in commands
    shutil.rmtree(tmp_path / "first")
    (build / "CMakeCache.txt").unlink()
    assert configure_as_pip("second") == (commands, headers)


def test_the_build_folder_is_no_part_of_the_project() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    settings = (ROOT / "pyproject.toml").read_text()
    folder = re.search(r'^build-dir = "(.+)"$', settings, re.MULTILINE)
    assert folder
    run("git", "-C", ROOT, "check-ignore", folder[1])
