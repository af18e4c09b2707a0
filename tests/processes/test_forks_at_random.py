"""Processes forked at any moment while threads step: a child steps, or is told why it cannot, and never hangs."""

from __future__ import annotations

import os

import pytest
from machine import TWO, lines
from random_calls import TIMES

PROGRAM = f"""
import os, random, signal, sys, threading, time
import numpy as np
import fusedopt as fo

fo.set_num_threads({TWO})
STEPS = 12

def made():
    w = np.linspace(-1, 1, 150_001, dtype=np.float32)
    optimizer = fo.LossScaleOptimizer(fo.Adam(global_clipnorm=1.0), initial_scale=1.0)
    optimizer.build([w])
    return optimizer, w

g = np.cos(np.arange(150_001, dtype=np.float32))

def after(steps):
    optimizer, w = made()
    for _ in range(steps): optimizer.apply([g])
    return w.tobytes()

expected = [after(n) for n in range(STEPS + 1)]
both = [made() for _ in range(2)]
stop = threading.Event()

def steps(optimizer):
    while not stop.is_set():
        optimizer.apply([g])

def child(number):
    signal.alarm(60)  # a hang becomes a death by signal
    for optimizer, w in both:
        try:
            optimizer.apply([g])
        except RuntimeError as error:
            assert str(error).startswith("optimizer: expected one that no other thread used"), error
            print("refused", flush=True)
        else:
            print("stepped", flush=True)
    assert after(2) == expected[2]
    if number % 4 == 0:
        own = threading.Thread(target=after, args=(2,))
        own.start(); own.join()

threads = [threading.Thread(target=steps, args=(each,)) for each, _ in both for _ in range(2)]
for each in threads: each.start()
random.seed(7)
for number in range({20 * TIMES}):
    time.sleep(random.uniform(0, 0.004))
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            child(number)
            code = 0
        except BaseException as error:
            print("failed", repr(error), flush=True)
        os._exit(code)
    status = os.waitpid(pid, 0)[1]
    assert status == 0, status
stop.set()
for each in threads: each.join()
for optimizer, w in both:
    assert optimizer.iterations > 0
    other, x = made()
    for _ in range(optimizer.iterations): other.apply([g])
    assert w.tobytes() == x.tobytes()
"""


if hasattr(os, "fork"):

    @pytest.mark.filterwarnings("ignore")
    def test_children_forked_at_any_moment_of_a_step() -> None:
        found = lines(PROGRAM)
        assert len(found) == 2 * 20 * TIMES
        assert set(found) <= {"refused", "stepped"}
        assert "refused" in found, "no fork came in the middle of a step"
