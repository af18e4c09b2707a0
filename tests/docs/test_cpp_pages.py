"""The C++ programs of the pages compile against the installed library, and print what stands behind them.

A ``cpp`` or ``cmake`` block whose first line is a comment with a file's name is that file. All files of a page are one
project, and each program in it is run. Other blocks are pieces to read.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pages
import pytest
from cpp_library import cmake, installed, run
from once import Once

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="written for GCC's and Clang's tools"),
    pytest.mark.maintainer,
]

FILE = re.compile(r"(?://|#) ([\w.]+)\n")
PROJECTS = [page for page in pages.PAGES if "\n# CMakeLists.txt\n" in page.read_text("utf-8")]


@pytest.fixture(scope="session")
def prefix(once: Once) -> Path:
    return installed(once)


@pytest.mark.parametrize("page", PROJECTS, ids=pages.name_of)
def test_project(page: Path, prefix: Path, tmp_path: Path) -> None:
    text = page.read_text("utf-8")
    printed = {}
    for language in ("cmake", "cpp"):
        for block, expected in pages.programs_of(text, language):
            if file := FILE.match(block.code):
                (tmp_path / file[1]).write_text(block.code)
                if language == "cpp":
                    printed[Path(file[1]).stem] = expected.code if expected else None
    cmake(tmp_path, tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
    assert printed
    for program, expected in printed.items():
        found = run(tmp_path / "build" / program)
        assert expected is None or found == expected


def test_there_is_a_project() -> None:
    assert PROJECTS
