"""What `conftest.py` does to a run: who is left out, and that what is shared is made once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.maintainer,
    pytest.mark.skipif(sys.platform == "win32", reason="nothing is shared on Windows"),
]

TESTS = Path(__file__).resolve().parents[1]
SETTINGS = """
[pytest]
pythonpath = .
markers = maintainer
filterwarnings = error
faulthandler_timeout = 2
faulthandler_exit_on_timeout = true
"""
HEAD = """
import os, signal, time
from pathlib import Path

import pytest

LOG = Path(__file__).with_name("log")

def make(folder):
    with LOG.open("a") as log:
        log.write("x")
    time.sleep(3)
"""
TAIL = """
    (folder / "made").write_text("whole")

@pytest.fixture(scope="session")
def thing(once):
    return once("thing", "the thing", make)

@pytest.mark.parametrize("number", range(6))
def test_thing(thing, number):
    assert (thing / "made").read_text() == "whole"
"""
PARALLEL = ("-n", "2", "--dist=load")


def project(folder: Path, program: str, name: str = "test_it.py") -> Path:
    for file in ("conftest.py", "once.py"):
        shutil.copy(TESTS / file, folder)
    (folder / "pytest.ini").write_text(SETTINGS)
    (folder / name).write_text(program)
    return folder


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    base = folder / "base" / "-".join(word.strip("-") for word in words)
    base.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pytest", f"--basetemp={base}", "-p", "no:cacheprovider"]
    return subprocess.Popen(
        [*command, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def shown(run: subprocess.Popen[str]) -> str:
    return run.communicate()[0]


@pytest.mark.parametrize(
    "words", [PARALLEL, ("-n", "2", "--dist=worksteal"), ("-n", "0"), ("-p", "no:xdist")], ids=str
)
def test_it_is_made_once_without_a_time_limit(tmp_path: Path, words: tuple[str, ...]) -> None:
    out = shown(start(project(tmp_path, HEAD + TAIL), *words))
    assert "6 passed" in out, out
    assert (tmp_path / "log").read_text() == "x"
    assert out.count("building the thing, once for all processes ...") == 1
    assert out.count("the thing: built in ") == 1


def test_its_failure_is_the_failure_of_all(tmp_path: Path) -> None:
    out = shown(
        start(project(tmp_path, f"{HEAD}    pytest.fail('no compiler')\n{TAIL}"), *PARALLEL)
    )
    assert "6 errors" in out, out
    assert out.count("the thing: no compiler") >= 6
    assert (tmp_path / "log").read_text() == "x"
    assert "the thing: FAILED in " in out


def test_a_killed_process_leaves_its_lock_to_the_next(tmp_path: Path) -> None:
    kill = """
    (folder / "made").write_text("half")
    if LOG.read_text() == "x":
        os.kill(os.getpid(), signal.SIGKILL)
"""
    out = shown(start(project(tmp_path, HEAD + kill + TAIL), *PARALLEL))
    assert "1 failed, 5 passed" in out, out
    assert (tmp_path / "log").read_text() == "xx"


def test_two_runs_at_once_share_nothing(tmp_path: Path) -> None:
    project(tmp_path, HEAD + TAIL)
    runs = [start(tmp_path, *PARALLEL), start(tmp_path, "-n", "0")]
    for out in map(shown, runs):
        assert "6 passed" in out, out
    assert (tmp_path / "log").read_text() == "xx"


MARKED = """
import pytest

def test_of_all():
    pass

@pytest.mark.maintainer
def test_of_maintainers():
    pass
"""


@pytest.mark.parametrize(
    ("words", "passed"),
    [
        ((), 2),
        (("-k", "maintainers"), 0),
        (("-m", "maintainer"), 2),
        (("-m", "maintainer or not maintainer"), 4),
        (("test_marked.py",), 2),
        (("test_marked.py", "-n", "1"), 2),
        (("test_marked.py::test_of_maintainers",), 1),
        (("test_marked.py::test_of_all", "test_other.py"), 3),
    ],
    ids=str,
)
def test_who_is_left_out(tmp_path: Path, words: tuple[str, ...], passed: int) -> None:
    project(tmp_path, MARKED, "test_other.py")
    project(tmp_path, MARKED, "test_marked.py")
    out = shown(start(tmp_path, "-n", "0", *words))
    assert (f"{passed} passed" if passed else "4 deselected") in out
