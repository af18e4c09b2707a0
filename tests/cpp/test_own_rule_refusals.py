"""Structs that are no rule do not compile, and the compiler says why."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cpp_library import ROOT
from once import without_time_limit

COMPILER = shutil.which("c++")
pytestmark = [
    pytest.mark.skipif(
        COMPILER is None or sys.platform == "win32", reason="there is no C++ compiler"
    ),
    pytest.mark.maintainer,
]

OF_ONE_TYPE = "a Formula<T> consists of numbers of type T alone"
PROGRAM = """
#include <fusedopt/fusedopt.hpp>

struct Mine {{
    static constexpr const char* name = "Mine";
    static constexpr double learning_rate = 0.1;
    static constexpr fusedopt::OwnRule::Slot slots[] = {{{slots}}};
    template <class T>
    struct Formula {{
        {members}
        template <class... Slots>
        void operator()(T&, T, Slots&...) const {{}}
    }};
    Formula<{of}> formula(const fusedopt::OwnRule::Now&) const {{ return {{}}; }}
}};

const fusedopt::Rule rule = Mine{{}};
"""


@pytest.mark.parametrize(
    ("members", "slots", "of", "message"),
    [
        ("", '{.name = "m"}', "double", None),
        ("T a, b;", '{.name = "m"}, {.name = "v"}, {.name = "u"}', "double", None),
        ("T a; int b;", '{.name = "m"}', "double", OF_ONE_TYPE),
        ("float a;", '{.name = "m"}', "double", OF_ONE_TYPE),
        ("T* a;", '{.name = "m"}', "double", OF_ONE_TYPE),
        ("T a[10];", '{.name = "m"}', "double", "a Formula<T> has nine numbers at most"),
        ("T a;", '{.name = "m"}', "float", "formula(now) gives a Formula<double>"),
        (
            "T a;",
            '{.name = "a"}, {.name = "b"}, {.name = "c"}, {.name = "d"}',
            "double",
            "an own rule has three slots at most",
        ),
    ],
)
def test_a_struct_that_is_no_rule(
    tmp_path: Path, members: str, slots: str, of: str, message: str | None
) -> None:
    without_time_limit()
    source = tmp_path / "program.cpp"
    source.write_text(PROGRAM.format(members=members, slots=slots, of=of))
    include = ROOT / "cpp" / "include"
    command = (str(COMPILER), "-std=c++20", "-fsyntax-only", f"-I{include}", str(source))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (message is None), done.stderr
    assert message is None or message in done.stderr
