"""How many instructions a step of AdamW takes per element, on one thread.

Run as a program, it measures one kind of slots on one level and prints the figure. A debugger's means stop a child
process after each instruction, so no counters of the processor are needed, which virtual machines often hide. The
difference of two sizes leaves out what a call costs. Only for Linux on x86-64, and only if processes may be traced.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import signal
import subprocess
import sys

import fusedopt as fo
from fusedopt.bench import slot_kinds
from fusedopt.bench.contestants import FUSEDOPT, prepare
from fusedopt.bench.limit import FEWEST_CODED
from fusedopt.bench.measuring import Bench
from fusedopt.bench.results import WHOLE, Results
from fusedopt.bench.tables import MISSING, Table
from fusedopt.bench.workload import Step, Workload
from fusedopt.runtime import _core

SECTION = "instructions"
SIZES = (FEWEST_CODED, 2 * FEWEST_CODED)
# Of the function ptrace.
TRACE_ME, SINGLE_STEP = 0, 9


def is_possible() -> bool:
    return platform.system() == "Linux" and platform.machine() == "x86_64"


def workloads(elements: int) -> dict[str, Workload]:
    """Name the steps that are counted."""
    found = list(slot_kinds.workloads(SECTION, elements))
    return {f"{slot_kinds.RULE}, {WHOLE}": found[0].whole(), **{one.label: one for one in found}}


def measure(bench: Bench, levels: list[str]) -> None:
    """Count every step on every level, in a new process each."""
    bench.results.more[SECTION] = {
        label: {level: in_child(label, level) for level in levels} for label in workloads(1)
    }


def in_child(label: str, level: str) -> float | None:
    command = [sys.executable, __file__, label, level]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = done.stdout.split()[-1]
    return None if found == MISSING else float(found)


def table(results: Results) -> Table:
    """Show what a run has counted."""
    counted = results.more.get(SECTION, {})
    levels = list(next(iter(counted.values()), {}))
    rows = [
        [label, *(MISSING if one is None else f"{one:.1f}" for one in found.values())]
        for label, found in counted.items()
    ]
    return Table("Instructions per element, 1 thread", ["step", *levels], rows)


def per_element(label: str) -> float | None:
    """Count one step on the level in use, in child processes of this one."""
    counts = []
    for elements in SIZES:
        one = workloads(elements)[label]
        step = prepare(FUSEDOPT, one, one.gradients()).step
        step()
        counts.append(counted(step))
    few, many = counts
    return None if few is None or many is None else (many - few) / (SIZES[1] - SIZES[0])


def counted(step: Step) -> int | None:
    """Count the instructions of a step, one by one; None if nobody may trace this process."""
    ptrace = ctypes.CDLL(None).ptrace
    child = os.fork()
    if child == 0:
        if ptrace(TRACE_ME, 0, None, None) == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
            step()
            os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    count = -1
    _, status = os.waitpid(child, 0)
    while os.WIFSTOPPED(status) and (count < 0 or os.WSTOPSIG(status) == signal.SIGTRAP):
        ptrace(SINGLE_STEP, child, None, None)
        _, status = os.waitpid(child, 0)
        count += 1
    if not os.WIFSTOPPED(status):
        return None
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if os.WSTOPSIG(status) != signal.SIGSTOP:
        raise RuntimeError(f"the step was stopped by signal {os.WSTOPSIG(status)}")
    return count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("label", choices=workloads(1))
    parser.add_argument("level", choices=fo.show_config()["levels_supported"])
    given = parser.parse_args()
    fo.set_num_threads(1)
    _core.set_level(given.level)
    found = per_element(given.label)
    sys.stdout.write(f"{MISSING if found is None else found}\n")
