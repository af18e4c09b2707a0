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


# Rules that measure their own update over a whole variable before they can make it.
TRUST_RATIO_RULES = {"Lamb"}

Sweep = tuple[list[int], list[int]]
"""The positions of the arrays that are updated and of those that are only read."""


@dataclass(frozen=True)
class Traffic:
    """What a step moves, in arrays as long as the variables."""

    state: int
    """Variables and all that is kept for them; after them come gradients."""
    gradients: int
    sweeps: list[Sweep]

    @property
    def bytes(self) -> int:
        """For each element."""
        return sum(FLOAT_BYTES * (2 * len(updated) + len(read)) for updated, read in self.sweeps)


def traffic_of(workload: Workload) -> Traffic:
    """Count the arrays that an optimizer keeps for a variable and the sweeps over its gradient."""
    optimizer = optimizer_of(workload)
    variable = np.ones(64, np.float32)
    optimizer.build([variable])
    kept = [state for state in optimizer.variables if state.ndim]
    state = 1 + round(sum(array.nbytes for array in kept) / variable.nbytes)
    gradient_bytes = (2 if workload.is_mixed else FLOAT_BYTES) * gradient_sweeps(workload)
    gradients = max(1, round(gradient_bytes / FLOAT_BYTES))
    everything, read = list(range(state)), list(range(state, state + gradients))
    if workload.rule in TRUST_RATIO_RULES:
        # First the two moments move and the norms are taken, then the rest moves.
        moments = everything[-2:]
        sweeps = [(moments, [0, *read]), (everything[:-2], moments)]
    else:
        sweeps = [(everything, read)]
    return Traffic(state, gradients, sweeps)


def gradient_sweeps(workload: Workload) -> int:
    """Two where a norm or a check over all gradients comes before the first update."""
    needs_measure = workload.is_mixed or bool(
        workload.arguments.keys() & {"clipnorm", "global_clipnorm"}
    )
    return 2 if needs_measure else 1


def limit_step(workload: Workload, traffic: Traffic) -> Step:
    """Make the loop over arrays of its own, as many and as long as the workload's."""
    arrays = staggered(traffic.state + traffic.gradients, workload.elements)
    calls = [
        partial(_core.move_bytes, [arrays[i] for i in updated], [arrays[i] for i in read])
        for updated, read in traffic.sweeps
    ]
    if len(calls) == 1:
        return calls[0]

    def step() -> None:
        for call in calls:
            call()

    return step


def staggered(count: int, elements: int) -> list[npt.NDArray[np.float32]]:
    """Cut arrays out of one block, so that no two of them begin at the same place of a page."""
    distance = elements + STAGGER
    block = np.empty(count * distance, np.float32)
    arrays = [block[i * distance : i * distance + elements] for i in range(count)]
    for array in arrays:
        touch(array)
        array[:] = 0
    return arrays
