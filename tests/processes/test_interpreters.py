"""The end of an interpreter in the middle of a step, and subinterpreters."""

from __future__ import annotations

from pathlib import Path

import pytest
from machine import TWO, lines
from selection import first

# The end of an interpreter


BUSY = f"""
import tempfile, threading, time
import numpy as np
import fusedopt as fo
fo.set_num_threads({TWO})
w, g = (np.ones((300, 300), np.float32) for _ in range(2))

def slow(*_):
    return 0.1 + 0 * sum(range(2000))

class Shared:
    def __array__(self, dtype=None, copy=None):
        slow()
        return g
"""
STEPS = {
    "sgd": ("fo.SGD()", "optimizer.apply([g])"),
    "lamb": ("fo.Lamb(global_clipnorm=1.0, use_ema=True)", "optimizer.apply([g])"),
    "muon": ("fo.Muon()", "optimizer.apply([g])"),
    "function": ("fo.SGD(slow)", "optimizer.apply([g])"),
    "betas": ("fo.Adam(beta_1=slow, beta_2=slow)", "optimizer.apply([g])"),
    "loss_scale": ("fo.LossScaleOptimizer(fo.Adam(slow))", "optimizer.apply([g])"),
    "multi": ("fo.MultiOptimizer(fo.OptimizerMap(fo.Lion(slow)))", "optimizer.apply([g])"),
    "object": ("fo.SGD()", "optimizer.apply([Shared()])"),
    "none": ("fo.SGD()", "optimizer.apply([g, None])"),
    "state": ("fo.Adam(slow)", "optimizer.variables, optimizer.learning_rate, repr(optimizer)"),
    "build": ("fo.Adam()", "fo.Adam().build([w])"),
    "files": ("fo.Adam()", "(optimizer.save(path), optimizer.load(path))"),
}


@pytest.mark.parametrize(("make", "step"), first(2, STEPS.values()), ids=STEPS)
def test_daemon_in_the_middle_of_a_step_at_exit(make: str, step: str, tmp_path: Path) -> None:
    if "save" in step:
        pytest.importorskip("safetensors")
    for milliseconds in (0, 1, 3, 7, 15):
        program = f"""{BUSY}
path = {str(tmp_path / "state")!r}
optimizer = {make}
optimizer.build([w, np.ones(3)] if "None" in {step!r} else [w])
begun = threading.Event()

def steps():
    while True:
        {step}
        begun.set()

threading.Thread(target=steps, daemon=True).start()
begun.wait()
time.sleep({milliseconds / 1000})
"""
        assert lines(program) == []
    assert [path.name for path in tmp_path.iterdir()] in ([], ["state"])


# Subinterpreters


def test_subinterpreter_is_refused() -> None:
    program = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
import faulthandler
faulthandler.dump_traceback_later(60, exit=True)
import fusedopt
number = interpreters.create()
code = '''
try:
    import fusedopt
except ImportError as error:
    print(error)
'''
run = getattr(interpreters, "exec", None) or interpreters.run_string
print(run(number, code))
fusedopt.SGD().build([])
interpreters.destroy(number)  # CPython 3.11 seldom hangs if it is left to the end of the process
"""
    for text in (
        program,
        program.replace("\nimport fusedopt\n", "\n", 1).replace("fusedopt.SGD()", "# "),
    ):
        message, outcome = lines(text)
        assert "subinterpreter" in message or "numpy" in message.lower()
        assert outcome == "None"
