"""The time of a step with slots of each kind, and the plainest loops that move as many bytes."""

from __future__ import annotations

from functools import partial

import fusedopt as fo
import numpy as np
from fusedopt.bench import environment
from fusedopt.bench.limit import VARIABLE
from fusedopt.bench.measuring import Bench
from fusedopt.bench.results import LIMIT
from fusedopt.bench.timing import Participant
from fusedopt.bench.workload import FLOAT_BYTES, Array, Step, Workload, power_of_two
from fusedopt.runtime import _core
from low_bit_trainers import BFLOAT16, FLOAT8, FLOAT32, OURS

SECTION = "time"
# Of both slots, for each element. Float8 has a scale of two bytes for 64 codes of a slot.
SLOT_BYTES = {FLOAT32: 8.0, BFLOAT16: 4.0, FLOAT8: 2 + 2 * 2 / 64}


def moved_bytes(slot_dtype: str) -> float:
    """Return what a step reads and writes, per element."""
    return 3 * FLOAT_BYTES + 2 * SLOT_BYTES[slot_dtype]


def limit_of(slot_dtype: str) -> str:
    return f"{LIMIT} of {moved_bytes(slot_dtype):.1f} bytes"


def measure(bench: Bench, elements: int) -> None:
    """Time everybody in the same rounds, each with arrays of its own but for the gradient."""
    workload = Workload(SECTION, power_of_two(elements), "AdamW", {}, ((elements,),))
    environment.set_threads(bench.results.threads[-1])
    (gradient,) = workload.gradients()
    steps: dict[str, Step] = {}
    for slot_dtype in OURS:
        (variable,) = workload.variables()
        more = {} if slot_dtype == FLOAT32 else {"slot_dtype": slot_dtype}
        optimizer = fo.AdamW(**more)
        optimizer.build({VARIABLE: variable})
        steps[slot_dtype] = partial(optimizer.apply, [gradient])
    for slot_dtype in OURS:
        steps[limit_of(slot_dtype)] = _loop(workload, gradient, slot_dtype)
    participants = [
        Participant(name, threads, step)
        for name, step in steps.items()
        for threads in bench.results.threads
    ]
    bench.race(workload, workload.name, None, FLOAT32, participants)


def _loop(workload: Workload, gradient: Array, slot_dtype: str) -> Step:
    (variable,) = workload.variables()
    # As many bytes as the slots have, in place of them.
    slots = np.zeros(round(gradient.size * SLOT_BYTES[slot_dtype] / FLOAT_BYTES), np.float32)
    loop: Step = _core.PlainLoop([([variable], [gradient]), ([slots], [])])
    return loop
