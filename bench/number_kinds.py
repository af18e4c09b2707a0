"""One step on numbers of several kinds, in the same memory.

Each kind cannot have arrays of its own, because the place of arrays decides more than their contents.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from fusedopt.bench.contestants import FUSEDOPT, Contestant
from fusedopt.bench.limit import traffic_of
from fusedopt.bench.measuring import Bench
from fusedopt.bench.timing import Participant
from fusedopt.bench.workload import Array, Ready, Workload

# Random gradients; none; subnormal ones, which make slots so; ones whose squares are subnormal; ones whose squares
# are infinite, and then slots are.
KINDS: dict[str, float | None] = {
    "ordinary": None,
    "0": 0.0,
    "1e-42": 1e-42,
    "1e-20": 1e-20,
    "1e30": 1e30,
}
STEPS = 30


def measure(bench: Bench, workload: Workload, peers: list[Contestant]) -> None:
    """Time the step of each contestant on every kind of numbers."""
    # Squares beyond float32 are meant.
    with np.errstate(all="ignore"):
        for contestant in (FUSEDOPT, *peers):
            gradients = workload.gradients()
            ready = bench.ready(contestant, workload, gradients)
            if ready:
                _measure(bench, workload, contestant, ready, gradients)


def _measure(
    bench: Bench,
    workload: Workload,
    contestant: Contestant,
    ready: Ready,
    gradients: list[Array],
) -> None:
    participants = [
        Participant(kind, threads, ready.step, enter)
        for kind, enter in entrances(ready, workload, gradients).items()
        for threads in contestant.thread_counts(bench.results.threads)
    ]
    name = f"{contestant.name}, {workload.name}"
    moved = traffic_of(workload).bytes
    bench.race(workload, name, moved, participants[0].name, participants)


def entrances(
    ready: Ready, workload: Workload, gradients: list[Array]
) -> dict[str, Callable[[], None]]:
    """For each kind what fills gradients, variables and slots with its numbers."""
    ordinary = [g.copy() for g in gradients]
    ready.step()
    slots = [slot for own in ready.slots() for slot in own]
    found = {}
    for kind, value in KINDS.items():
        numbers = ordinary if value is None else [np.full_like(g, value) for g in ordinary]
        _copy(numbers, gradients)
        _copy(workload.variables(), ready.variables)
        _copy([np.zeros_like(slot) for slot in slots], slots)
        for _ in range(STEPS):
            ready.step()
        found[kind] = _entrance([*gradients, *ready.variables, *slots])
    return found


def _entrance(arrays: list[Array]) -> Callable[[], None]:
    saved = [array.copy() for array in arrays]
    return lambda: _copy(saved, arrays)


def _copy(sources: list[Array], targets: list[Array]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target[...] = source
