"""One step on numbers of several kinds, in the same memory.

Arrays of their own for each kind would not do: where arrays lie decides more than what is in them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
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


def entrances(
    ready: Ready, workload: Workload, gradients: list[Array]
) -> dict[str, Callable[[], None]]:
    """For each kind what fills gradients, variables and slots with its numbers."""
    ready.step()
    slots = [slot for own in ready.slots() for slot in own]
    found = {}
    for kind, value in KINDS.items():
        _copy(replace(workload, gradient=value).gradients(), gradients)
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
