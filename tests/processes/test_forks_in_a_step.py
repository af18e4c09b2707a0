"""Processes forked in the middle of a step or a save of another thread."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from machine import TWO, lines
from selection import first

FORK = f"""
import gc, os, signal, sys, threading
import numpy as np
import fusedopt as fo
fo.set_num_threads({TWO})
w, g = (np.ones(300_001, np.float32) for _ in range(2))
inside, go_on = threading.Event(), threading.Event()

def rate():
    if threading.current_thread() is not threading.main_thread():
        inside.set()
        go_on.wait()
    return 0.5

def fork(child):
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)  # a hang becomes a death by signal
        child()
        sys.stdout.flush()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert status == 0, status

def fork_in_a_step(child):
    other = threading.Thread(target=optimizer.apply, args=([g],))
    other.start()
    inside.wait()
    fork(child)
    go_on.set()
    other.join()
"""
KINDS = {
    "adam": "fo.Adam({})",
    "loss_scale": "fo.LossScaleOptimizer(fo.Adam({}))",
    "multi": "fo.MultiOptimizer(fo.OptimizerMap(fo.Adam({})))",
    "loss_scale_of_multi": "fo.LossScaleOptimizer(fo.MultiOptimizer(fo.OptimizerMap(fo.Adam({}))))",
}
USES = [
    "optimizer.apply([g])",
    "optimizer.apply([g], [w])",
    "optimizer.apply_gradients([(g, w)])",
    "optimizer.build([w])",
    "optimizer.built",
    "optimizer.iterations",
    "optimizer.variables",
    "optimizer.set_weights([])",
    "optimizer.save(path)",
    "optimizer.load(path)",
    "optimizer.save_own_variables({})",
    "optimizer.finalize_variable_values([w])",
    "repr(optimizer)",
]


if hasattr(os, "fork"):

    @pytest.mark.parametrize("kind", first(1, KINDS.values()), ids=KINDS)
    def test_child_is_told_of_an_optimizer_in_the_middle_of_a_step(
        kind: str, tmp_path: Path
    ) -> None:
        program = f"""{FORK}
path = {str(tmp_path / "state")!r}
optimizer = {kind.format("rate")}
optimizer.build([w])

def child():
    global optimizer
    for use in {USES!r}:
        try:
            eval(use)
        except RuntimeError as error:
            print(error)
        else:
            print("nothing raised by", use)
    del optimizer
    gc.collect()

fork_in_a_step(child)
optimizer.apply([g])
print(optimizer.iterations)
"""
        *found, parent = lines(program)
        assert len(found) == len(USES)
        for message in found:
            assert message.startswith("optimizer: expected one that no other thread used")
            assert message.endswith("build a new optimizer and load what was saved")
        assert parent == "2"

    @pytest.mark.parametrize("kind", first(1, KINDS.values()), ids=KINDS)
    def test_child_takes_what_was_saved(kind: str, tmp_path: Path) -> None:
        pytest.importorskip("safetensors")
        program = f"""{FORK}
path = {str(tmp_path / "state")!r}
optimizer = {kind.format("rate")}
optimizer.build([w])
optimizer.apply([g])
optimizer.save(path)

def child():
    new = {kind.format("lambda: 0.5")}
    new.build([w.copy()])
    new.load(path)
    new.apply([g])
    new.save(path)
    print(new.iterations)

fork_in_a_step(child)
print(optimizer.iterations)
"""
        assert lines(program) == ["2", "2"]

    @pytest.mark.parametrize("kind", first(1, KINDS.values()), ids=KINDS)
    def test_child_goes_on_with_an_idle_optimizer(kind: str) -> None:
        program = f"""{FORK}
optimizer = {kind.format("rate")}
optimizer.build([w])
idle = {kind.format("0.5")}
x = w.copy()
idle.build([x])

def child():
    idle.apply([g])
    threads = [threading.Thread(target=idle.apply, args=([g],)) for _ in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print(idle.iterations, fo.get_num_threads(), flush=True)  # or the next child prints it, too
    fork(lambda: print(idle.apply([g]), idle.iterations))

fork_in_a_step(child)
"""
        assert sorted(lines(program)) == sorted(["4 1", "None 5"])

    def test_function_may_fork() -> None:
        """The child of a learning-rate function is in the step itself, so it may ask its optimizer."""
        program = f"""{FORK}
optimizer = fo.SGD(lambda: fork(lambda: print(optimizer.iterations)) or 0.5)
optimizer.build([w])
optimizer.apply([g])
print(optimizer.iterations)
"""
        assert lines(program) == ["0", "1"]

    def test_child_forked_while_another_thread_saves(tmp_path: Path) -> None:
        pytest.importorskip("safetensors")
        program = f"""{FORK}
import time
optimizer = fo.Adam()
optimizer.build([w])
path = {str(tmp_path / "state")!r}
stop = False

def saves():
    while not stop:
        optimizer.save(path)

def child():
    new = fo.Adam()
    new.build([w])
    new.save(path + " of child")

other = threading.Thread(target=saves)
other.start()
for _ in range(10):
    time.sleep(0.003)
    fork(child)
stop = True
other.join()
"""
        assert lines(program) == []

    def test_child_forked_while_another_thread_imports(tmp_path: Path) -> None:
        pytest.importorskip("safetensors")
        program = f"""{FORK}
import time
importing = threading.Event()

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "safetensors":
            importing.set()
            time.sleep(0.2)

def save(path):
    optimizer = fo.Adam()
    optimizer.build([w])
    optimizer.save(path)

sys.meta_path.insert(0, Slow())
path = {str(tmp_path / "state")!r}
other = threading.Thread(target=save, args=(path,))
other.start()
importing.wait()
fork(lambda: save(path + " of child"))
other.join()
"""
        assert lines(program) == []
