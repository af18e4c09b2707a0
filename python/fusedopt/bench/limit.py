"""The limit: the plainest loop that moves the bytes a step must move, on the same threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from fusedopt.bench.workload import STAGGER, Step, Workload, optimizer_of, touch
from fusedopt.runtime import _core

FLOAT_BYTES = 4
VARIABLE = "variable"

Sweep = tuple[list[int], list[int]]
"""The positions of the arrays that are updated and of those that are only read."""


@dataclass(frozen=True)
class Layout:
    """The arrays of a step that are as large as its variables, by position."""

    state: list[str]
    """The names of the variable and then of all that is kept for it; a name's place is the position."""
    gradients: list[int]
    """More than one where they are read more than once before the first update."""
    is_matrix: bool

    def named(self, *names: str) -> list[int]:
        """The positions of some state."""
        return [position for position, name in enumerate(self.state) if name in names]

    def others(self, *names: str) -> list[int]:
        """The positions of all other state."""
        return [position for position, name in enumerate(self.state) if name not in names]


# How the sweeps of a step go that is not one sweep over everything. None: time is spent on arithmetic, and
# there is no limit to compare with.


def _one_sweep(arrays: Layout) -> list[Sweep]:
    return [(arrays.others(), arrays.gradients)]


def _trust_ratio(arrays: Layout) -> list[Sweep]:
    """First the two moments move and the norms are taken, then the rest moves."""
    moments = arrays.named("momentum", "velocity")
    rest = arrays.others("momentum", "velocity")
    return [(moments, [*arrays.named(VARIABLE), *arrays.gradients]), (rest, moments)]


def _factored(arrays: Layout) -> list[Sweep]:
    """Means of rows and columns and the variable's norm; the update's norm; the update.

    Means are nothing beside a matrix, and its velocity, which they replace, is not touched. A vector
    has a velocity and no means.
    """
    gradient, variable = arrays.gradients[:1], arrays.named(VARIABLE)
    velocity, rest = arrays.named("velocity"), arrays.others("velocity")
    clip: list[Sweep] = [([], [again]) for again in arrays.gradients[1:]]
    if arrays.is_matrix:
        return [*clip, ([], variable + gradient), ([], gradient), (rest, gradient)]
    return [*clip, (velocity, variable + gradient), (rest, velocity + gradient)]


def _matrix_products(arrays: Layout) -> list[Sweep] | None:
    return None if arrays.is_matrix else _one_sweep(arrays)


SWEEPS: dict[str, Callable[[Layout], list[Sweep] | None]] = {
    "Lamb": _trust_ratio,
    "Adafactor": _factored,
    "Muon": _matrix_products,
}


@dataclass(frozen=True)
class Traffic:
    """What a step moves, in arrays as long as the variables."""

    state: int
    """Variables and all that is kept for them; after them come gradients."""
    gradients: int
    sweeps: list[Sweep] | None

    @property
    def bytes(self) -> int | None:
        """For each element; None where the bytes are no limit."""
        if self.sweeps is None:
            return None
        return sum(FLOAT_BYTES * (2 * len(updated) + len(read)) for updated, read in self.sweeps)


def traffic_of(workload: Workload) -> Traffic:
    """Count the arrays that an optimizer keeps for a variable and the sweeps over its gradient."""
    is_matrix = any(len(shape) > 1 for shape in workload.shapes)
    variable = np.ones((64, 64) if is_matrix else 64, np.float32)
    state = [VARIABLE]
    for name, array in _kept(workload, variable):
        # What is kept for rows and columns is no array of this size.
        state += [name] * round(array.nbytes / variable.nbytes)
    gradient_bytes = (2 if workload.is_mixed else FLOAT_BYTES) * gradient_sweeps(workload)
    gradients = max(1, round(gradient_bytes / FLOAT_BYTES))
    layout = Layout(state, list(range(len(state), len(state) + gradients)), is_matrix)
    sweeps = SWEEPS.get(workload.rule, _one_sweep)(layout)
    return Traffic(len(state), gradients, sweeps)


def slots_of(workload: Workload) -> list[str]:
    """Name the state that a rule keeps for a matrix."""
    return [name for name, _ in _kept(workload, np.ones((64, 64), np.float32))]


def _kept(
    workload: Workload, variable: npt.NDArray[np.float32]
) -> list[tuple[str, npt.NDArray[np.generic]]]:
    optimizer = optimizer_of(workload)
    optimizer.build({VARIABLE: variable})
    named = optimizer._named_variables()
    return [(name.partition("/")[0], array) for name, array in named if array.ndim]


def gradient_sweeps(workload: Workload) -> int:
    """Two where a norm or a check over all gradients comes before the first update."""
    needs_measure = workload.is_mixed or bool(
        workload.arguments.keys() & {"clipnorm", "global_clipnorm"}
    )
    return 2 if needs_measure else 1


def limit_step(elements: int, traffic: Traffic) -> Step | None:
    """Make the loop over arrays of its own, as many as the step has; None where there is no limit."""
    if traffic.sweeps is None:
        return None
    arrays = staggered(traffic.state + traffic.gradients, elements)
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
    distance = elements + STAGGER // FLOAT_BYTES
    block = np.empty(count * distance, np.float32)
    arrays = [block[i * distance : i * distance + elements] for i in range(count)]
    for array in arrays:
        touch(array)
        array[:] = 0
    return arrays
