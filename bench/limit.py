"""The limit: the plainest loop that moves the bytes a step must move, on the same threads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from fusedopt import _core
from workloads import Step, Workload, optimizer_of, touch

FLOAT_BYTES = 4
# Arrays that lie a power of two apart meet in the same cache sets and memory banks: four of 2^26 elements
# took eight times as long. This distance was as fast as any other tried.
STAGGER = (32 * 1024 + 17 * 64) // FLOAT_BYTES
MOST_UPDATED, MOST_READ = 5, 2


@dataclass(frozen=True)
class Traffic:
    """What a step moves, per element, in float32 arrays."""

    updated: int
    read: int
    bytes: int


def traffic_of(workload: Workload) -> Traffic:
    """Count the arrays that an optimizer keeps for a variable and the sweeps over its gradient."""
    optimizer = optimizer_of(workload)
    variables = [np.ones(64, np.float32)]
    optimizer.build(variables)
    arrays = [*variables, *(state for state in optimizer.variables if state.ndim)]
    updated = round(sum(array.nbytes for array in arrays) / variables[0].nbytes)
    gradient_bytes = (2 if workload.is_mixed else FLOAT_BYTES) * gradient_sweeps(workload)
    return Traffic(
        updated=updated,
        read=max(1, round(gradient_bytes / FLOAT_BYTES)),
        bytes=2 * FLOAT_BYTES * updated + gradient_bytes,
    )


def gradient_sweeps(workload: Workload) -> int:
    """Two where a norm or a check over all gradients comes before the first update."""
    needs_measure = workload.is_mixed or bool(
        workload.arguments.keys() & {"clipnorm", "global_clipnorm"}
    )
    return 2 if needs_measure else 1


def limit_step(workload: Workload, traffic: Traffic) -> Step:
    """Make the loop over arrays of its own, as many and as long as the workload's."""
    if traffic.updated > MOST_UPDATED or traffic.read > MOST_READ:
        raise ValueError(f"no loop updates {traffic.updated} arrays and reads {traffic.read}")
    arrays = staggered(traffic.updated + traffic.read, workload.elements)
    return partial(_core.move_bytes, arrays[: traffic.updated], arrays[traffic.updated :])


def staggered(count: int, elements: int) -> list[npt.NDArray[np.float32]]:
    """Cut arrays out of one block, so that no two of them begin at the same place of a page."""
    distance = elements + STAGGER
    block = np.empty(count * distance, np.float32)
    arrays = [block[i * distance : i * distance + elements] for i in range(count)]
    for array in arrays:
        touch(array)
        array[:] = 0
    return arrays
