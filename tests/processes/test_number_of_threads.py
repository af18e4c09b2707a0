"""The number of threads: who sets it, what it is if nobody does, and when threads start."""

from __future__ import annotations

import os
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from machine import COUNTS, HAS_THREADS, LARGE, TWO, python


@pytest.mark.parametrize(
    ("count", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (10**6, ValueError),
        (2**40, ValueError),
        (-(2**70), ValueError),
        (1.5, TypeError),
        (2.0, TypeError),
        ("a", TypeError),
        ("2", TypeError),
        (None, TypeError),
        (True, TypeError),
    ],
)
def test_number_of_threads(count: Any, error: type[Exception]) -> None:
    before = fo.get_num_threads()
    with pytest.raises(error, match=r"num_threads: expected .*, found") as caught:
        fo.set_num_threads(count)
    assert repr(count) in str(caught.value)
    assert fo.get_num_threads() == before


@pytest.mark.parametrize("threads", COUNTS)
def test_number_of_threads_is_kept(threads: int) -> None:
    fo.set_num_threads(threads)
    assert fo.get_num_threads() == threads
    config = fo.show_config()
    assert (config["threads"], config["threads_from"]) == (threads, "set_num_threads")


@pytest.mark.parametrize("count", [np.int64(1), np.uint8(1)])
def test_number_of_threads_is_any_integer(count: Any) -> None:
    fo.set_num_threads(count)
    assert fo.get_num_threads() == 1


# Threads of the system


COUNT_THREADS = """
import os, subprocess, sys, threading
def count_threads():
    if os.path.isdir("/proc/self/task"):
        return len(os.listdir("/proc/self/task"))
    if sys.platform == "darwin":
        ps = ["ps", "-M", "-p", str(os.getpid())]
        return len(subprocess.run(ps, capture_output=True, check=True).stdout.splitlines()) - 1
    return threading.active_count()
"""


def test_import_starts_no_thread() -> None:
    program = f"""{COUNT_THREADS}
import numpy as np
locked = getattr(sys, "_is_gil_enabled", bool)
before = count_threads(), locked()
import fusedopt as fo
print((count_threads(), locked()) == before)
optimizer = fo.Adam()
optimizer.build([np.zeros(1000)])
optimizer.apply([np.zeros(1000)])
print(count_threads() == before[0])
fo.set_num_threads({TWO})
print(count_threads() == before[0])
large = fo.SGD()
large.build([np.zeros({LARGE})])
large.apply([np.zeros({LARGE})])
seen = count_threads() - before[0]
print(seen == {TWO - 1} or not os.path.isdir("/proc/self/task"))
"""
    assert python(program) == ["True"] * 4


SHOW = """
import fusedopt as fo
config = fo.show_config()
print(config["threads"], config["threads_from"].replace(" ", "_"), fo.get_num_threads())
"""


@pytest.mark.parametrize(
    ("settings", "count", "source"),
    [
        ({"OMP_NUM_THREADS": "3"}, 3, "OMP_NUM_THREADS"),
        ({"FUSEDOPT_NUM_THREADS": "3"}, 3, "FUSEDOPT_NUM_THREADS"),
        ({"FUSEDOPT_NUM_THREADS": "2", "OMP_NUM_THREADS": "5"}, 2, "FUSEDOPT_NUM_THREADS"),
        ({"FUSEDOPT_NUM_THREADS": "", "OMP_NUM_THREADS": "5"}, 5, "OMP_NUM_THREADS"),
        ({"OMP_NUM_THREADS": "4,2"}, 4, "OMP_NUM_THREADS"),
        ({"FUSEDOPT_NUM_THREADS": "1"}, 1, "FUSEDOPT_NUM_THREADS"),
    ],
    ids=str,
)
def test_number_of_threads_comes_from_the_environment(
    settings: dict[str, str], count: int, source: str
) -> None:
    expected = [str(count), source] if HAS_THREADS else ["1", "built_without_threads"]
    assert python(SHOW, settings) == [*expected, expected[0]]


def test_set_num_threads_comes_before_the_environment() -> None:
    program = f"import fusedopt as fo; fo.set_num_threads({TWO}){SHOW}"
    found = python(program, {"FUSEDOPT_NUM_THREADS": "7", "OMP_NUM_THREADS": "5"})
    assert found == [str(TWO), "set_num_threads", str(TWO)]


def test_number_of_threads_respects_affinity() -> None:
    program = f"""
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
{SHOW}
print(os.cpu_count())
"""
    count, source, _, processors = python(program)
    most = 1 if hasattr(os, "sched_setaffinity") else int(processors)
    assert 1 <= int(count) <= most
    assert source in ("processors", "control_group_quota", "built_without_threads")
