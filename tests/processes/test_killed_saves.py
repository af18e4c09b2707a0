"""Saves that are killed or fail at any moment: what lies under the name is one whole save, the old or the new one.

In save number k all numbers are k, so a mixture of two would show. `FUSEDOPT_EXAMPLES=20` kills twenty times as often.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fusedopt as fo
import numpy as np
import pytest
from machine import lines
from random_calls import TIMES

pytest.importorskip("safetensors")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills by signals, and limits of POSIX")

SIZE = 40_000
SAVING = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import fusedopt as fo, numpy as np
import ranks

path = sys.argv[1]

def counting(optimizer):
    w = np.zeros({SIZE})
    optimizer.build({{"w": w}})
    return w

def one():
    optimizer = fo.SGD(1.0, momentum=0.0, use_ema=True, ema_momentum=0.0)
    w = counting(optimizer)
    if os.path.exists(path):
        optimizer.load(path)
    def save():
        optimizer.apply([-np.ones({SIZE})])
        optimizer.save(path, variables=True)
        return optimizer.iterations
    return save

def rank(threads):
    optimizer = fo.Sharded(fo.SGD(1.0, use_ema=True, ema_momentum=0.0), threads)
    counting(optimizer)
    if os.path.exists(path):
        optimizer.load(path)
    while True:
        optimizer.apply([-np.ones({SIZE}) * (threads.rank == 0)])
        optimizer.save(path, True, per_rank=True)
        if threads.rank == 0:
            print(optimizer.iterations, flush=True)
"""
LOOPS = {
    "one file": "save = one()\nwhile True: print(save(), flush=True)",
    "a file for each rank": "ranks.finished(ranks.run(2, rank))",
}


def iterations_in(path: Path) -> int:
    """Which save this is, all of it."""
    optimizer, w = fo.SGD(1.0, use_ema=True, ema_momentum=0.0), np.full(SIZE, -1.0)
    optimizer.build({"w": w})
    optimizer.load(path)
    assert (w == optimizer.iterations).all()
    assert (optimizer.averages["w"] == optimizer.iterations).all()
    return optimizer.iterations


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_a_killed_save_is_the_old_one_or_the_new_one(loop: str, tmp_path: Path) -> None:
    path = tmp_path / "state"
    rng = np.random.default_rng(1)
    kills = interrupted = last = 0
    while kills < 6 * TIMES or (interrupted == 0 and kills < 100):
        kills += 1
        with subprocess.Popen(
            [sys.executable, "-c", SAVING + loop, str(path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            announced = [process.stdout.readline()]
            time.sleep(rng.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
            announced += [line for line in process.stdout if line.endswith("\n")]
        found = iterations_in(path)
        assert last < int(announced[-1]) <= found <= int(announced[-1]) + 1
        last = found
        interrupted += any(name.suffix == ".saving" for name in tmp_path.iterdir())
    assert interrupted > 0, "no kill came in the middle of a save"


FAILING = """
import resource
save = {save}
folder = os.path.dirname(path)
def files():
    return {{name: open(os.path.join(folder, name), "rb").read() for name in os.listdir(folder)}}
save()
before = files()
total = max(map(len, before.values()))
for size in sorted({{0, 1, 7, 8, 100, total // 3, total // 2, total - 1, *range(0, total, total // 40)}}):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        save()
    except OSError as error:
        print(size, error.errno)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert files() == before, size
save()
"""


def test_a_write_that_fails_at_any_byte_leaves_the_old_save(tmp_path: Path) -> None:
    path = tmp_path / "state"
    program = FAILING.format(save="one()")
    found = lines(f"import sys; sys.argv[1:] = [{str(path)!r}]\n{SAVING}{program}")
    assert len(found) >= 40
    assert iterations_in(path) == 2 + len(found)
