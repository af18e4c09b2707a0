"""Processes forked before and after threaded steps."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
from machine import LARGE, TWO, python

STEPS = f"""
import numpy as np
import fusedopt as fo

def steps(optimizer=None, w=None):
    if optimizer is None:
        w = np.linspace(-1.0, 1.0, {LARGE})
        optimizer = fo.LossScaleOptimizer(fo.Adam(global_clipnorm=1.0))
        optimizer.build([w])
    for step in range(3):
        optimizer.apply([np.cos(w) * step])
    return w.tobytes()
"""
FORKED = f"""{STEPS}
import os
fo.set_num_threads({TWO})
started = w = np.linspace(-1.0, 1.0, {LARGE})
optimizer = fo.Adam()
optimizer.build([w])
expected = steps()
steps(optimizer, w)

def child(depth):
    assert fo.get_num_threads() == 1
    assert fo.show_config()["threads"] == 1
    assert steps() == expected
    fo.set_num_threads({TWO})
    assert fo.get_num_threads() == 1
    os.write(1, str(hash(steps(optimizer, w))).encode() + b" ")
    if depth:
        fork(depth - 1)

def fork(depth):
    pid = os.fork()
    if pid == 0:
        try:
            child(depth)
        except BaseException as error:
            os.write(1, repr(error).encode())
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

fork(depth=1)
assert steps() == expected
assert fo.get_num_threads() == {TWO}
fork(depth=0)
print(hash(steps(optimizer, w)))
"""


if hasattr(os, "fork"):

    def test_child_forked_after_a_threaded_step() -> None:
        first, grandchild, second, parent = python(FORKED, {"PYTHONHASHSEED": "0"})
        assert first == second == parent
        assert grandchild.lstrip("-").isdigit()
        assert grandchild != first

    def test_child_forked_before_a_threaded_step() -> None:
        program = f"""{STEPS}
import os
fo.set_num_threads({TWO})
small = fo.SGD()
small.build([np.zeros(10)])
small.apply([np.zeros(10)])
pid = os.fork()
if pid == 0:
    print(fo.get_num_threads(), hash(steps()), flush=True)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
print(fo.get_num_threads(), hash(steps()))
"""
        one, two = (python(program, {"PYTHONHASHSEED": "0"})[i : i + 2] for i in (0, 2))
        assert one == two
        assert one[0] == str(TWO)


# A process may have a team of threads on the OpenMP run time of the extension that the extension did not start.
STEPS_AFTER_A_TEAM_OF_OTHERS = f"""
import ctypes, os, re, signal, sys, threading
import numpy as np
import fusedopt as fo

fo.set_num_threads({TWO})
gradient = np.cos(np.arange(1_000_000.0))

def start_team():
    with open("/proc/self/maps") as maps:
        paths = sorted(set(re.findall(r"/\\S*libgomp\\S*", maps.read())))
    run_time = ctypes.CDLL(paths[0])
    # Any function of C that takes or ignores a pointer will do.
    run_time.GOMP_parallel(ctypes.CDLL(None).getpid, None, 2, 0)

def fork(then):
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)  # a hang becomes a death by signal
        then()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert status == 0, status

def steps():
    w = np.ones(1_000_000)
    optimizer = fo.LossScaleOptimizer(fo.Adam())
    optimizer.build([w])
    for _ in range(3):
        optimizer.apply([gradient])
    print(hash(w.tobytes()), fo.get_num_threads(), flush=True)
"""


if hasattr(os, "fork"):

    @pytest.mark.skipif(
        not Path("/proc/self/maps").exists()
        or "libgomp" not in Path("/proc/self/maps").read_text(encoding="utf-8"),
        reason="looks for GCC's OpenMP run time in Linux's list of mappings",
    )
    @pytest.mark.parametrize(
        "forks",
        [
            "fork(steps)",
            "fork(lambda: fork(steps))",
            "fork(lambda: (steps(), fork(steps)))",
            "fork(lambda: in_thread(steps))",
            "in_thread(lambda: fork(steps))",
            "fork(lambda: in_thread(lambda: fork(steps)))",
        ],
    )
    def test_child_forked_after_a_team_of_others(forks: str) -> None:
        program = f"""{STEPS_AFTER_A_TEAM_OF_OTHERS}
def in_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()

start_team()
{forks}
steps()
"""
        words = python(program, {"PYTHONHASHSEED": "0"})
        assert len(words) >= 4
        assert len(set(words[::2])) == 1
        assert words[1] == str(TWO)


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_pool_of_processes_after_a_threaded_step(method: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"""{STEPS}
import multiprocessing

def work(_):
    return steps(), fo.get_num_threads()

if __name__ == "__main__":
    fo.set_num_threads({TWO})
    expected = steps()
    with multiprocessing.get_context("{method}").Pool(2) as pool:
        results = pool.map_async(work, range(4)).get(timeout=60)
    assert steps() == expected
    print(*(result == expected for result, _ in results))
    print(*(threads for _, threads in results))
"""
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert words[:4] == ["True"] * 4
    if method == "fork":
        assert words[4:] == ["1"] * 4
