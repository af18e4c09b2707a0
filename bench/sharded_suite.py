"""The suite of an optimizer over ranks: a step next to what it must send and compute, and to PyTorch's ZeRO."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import sharded_figures
from fusedopt.bench.contestants import Contestant
from fusedopt.bench.measuring import Bench
from fusedopt.bench.results import Entry, Measurement
from fusedopt.bench.suite import Suite, Task
from fusedopt.bench.timing import Effort
from fusedopt.bench.watch import SPARE, Watch
from fusedopt.bench.workload import Absent, Array, Ready, Workload, power_of_two
from memory import is_possible
from sections import of_tests
from sharded_figures import MACHINES, MEMORY, SECTIONS
from sharded_names import BASELINE, KINDS, RANKS, TENSORS, ZERO

ELEMENTS, QUICK_ELEMENTS = 2**24, 2**16
MEMORY_RANKS = (1, 2, 4)
NORMAL = Effort(rounds=21, piece_seconds=0.0, budget_seconds=0.0)
PROGRAM = Path(__file__).with_name("sharded_rank.py")
SECONDS = 500.0
MOST_DIFFERENT = 1e-3


def why_not() -> str:
    """Say what is missing for ranks to run; empty if nothing is."""
    if not find_spec("mpi4py"):
        return "mpi4py is not installed (extra mpi)"
    if not of_tests("mpi").MPIEXEC:
        return "there is no mpiexec (extra mpi)"
    return ""


def on_ranks(size: int, mode: str, **task: Any) -> dict[str, Any]:
    """Run a task on so many ranks of one thread each."""
    mpi = of_tests("mpi")
    with tempfile.TemporaryDirectory() as folder:
        given = json.dumps({"mode": mode, "folder": folder, **task})
        done = mpi.run(size, sys.executable, "-m", "mpi4py", PROGRAM, given, timeout=SECONDS)
        if done.returncode:
            raise RuntimeError(
                f"{size} ranks ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        found: dict[str, Any] = json.loads((Path(folder) / "found.json").read_text())
        return found


def tasks(arguments: argparse.Namespace) -> Iterator[Task]:
    """List everything that a run measures."""
    if reason := why_not():
        raise SystemExit(reason)
    elements = QUICK_ELEMENTS if arguments.quick else ELEMENTS
    for kind, label in KINDS.items():
        yield Task("steps", label, partial(_time, kind=kind, elements=elements))
    yield Task("memory", "of a rank", partial(_memory, elements=elements))


def _time(bench: Bench, kind: str, elements: int) -> None:
    peers = [peer.name for peer in bench.peers] if kind == "float32" else []
    rounds = bench.effort.rounds
    watch, before, begin = Watch(), _children(), time.perf_counter()
    found = on_ranks(RANKS, "times", kind=kind, elements=elements, rounds=rounds, peers=peers)
    of_ranks = (_children() - before) / (time.perf_counter() - begin)
    others = max(0.0, watch.others() - of_ranks)
    doubt = f"other programs kept {others:.1f} processors busy" if others > SPARE else ""
    results = bench.results
    if results.is_quick and doubt:
        results.busy.append(doubt)
        doubt = ""
    for name, difference in found["differences"].items():
        if difference > MOST_DIFFERENT:
            results.absent[name] = f"computes something else ({difference:.0e} of what is trained)"
            del found["seconds"][name]
    entries = [Entry(name, 1, seconds, doubt) for name, seconds in found["seconds"].items()]
    label, size = KINDS[kind], power_of_two(elements)
    results.measurements.append(
        Measurement("steps", label, size, elements, TENSORS, None, BASELINE, entries)
    )
    noted = {name: found[name] for name in ("windows", "sent", "agreements", "latency")}
    results.more.setdefault(MACHINES, {})[kind] = noted


def _children() -> float:
    """Return what processes that have ended have worked, in seconds."""
    used = psutil.Process().cpu_times()
    return float(used.children_user + used.children_system)


def _memory(bench: Bench, elements: int) -> None:
    if not is_possible():
        bench.results.absent["memory"] = "only Linux tells a peak that can be reset"
        return
    bench.results.more[MEMORY] = [
        {"ranks": size, "elements": elements}
        | on_ranks(size, "memory", kind="float32", elements=elements)
        for size in MEMORY_RANKS
    ]


def _only_on_ranks(workload: Workload, variables: list[Array], gradients: list[Array]) -> Ready:
    raise Absent("runs on ranks alone")


SHARDED_SUITE = Suite(
    program="python bench/sharded.py",
    description="Measure AdamW on two ranks of one thread, in minutes.",
    effort=NORMAL,
    threads=lambda: [1],
    peers=[Contestant(name, "torch", _only_on_ranks) for name in ZERO],
    libraries=("numpy", "torch", "mpi4py", "mpich", "openmpi"),
    sections=list(SECTIONS),
    tasks=tasks,
    tables=sharded_figures.tables,
    blocks=sharded_figures.BLOCKS,
)
