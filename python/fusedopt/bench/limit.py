"""The limit: the plainest loop that moves the bytes a step must move, on the same threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusedopt.bench.workload import (
    FLOAT_BYTES,
    STAGGER,
    Array,
    Step,
    Workload,
    fill,
    noise_of,
    touch,
)
from fusedopt.runtime import _core

VARIABLE = "variable"

Sweep = tuple[list[int], list[int]]
"""The positions of the arrays that are updated and of those that are only read."""


@dataclass(frozen=True)
class Layout:
    """The arrays of a step that are as large as its variables, by position."""

    state: list[str]
    """The names of the variable and then of all that is kept for it; a name's place is the position."""
    is_matrix: bool

    @property
    def gradient(self) -> int:
        """Its position: after all state."""
        return len(self.state)

    def named(self, *names: str) -> list[int]:
        """The positions of some state."""
        return [position for position, name in enumerate(self.state) if name in names]

    def others(self, *names: str) -> list[int]:
        """The positions of all other state."""
        return [position for position, name in enumerate(self.state) if name not in names]


# How the sweeps of a step go that is not one sweep over everything. None: time is spent on arithmetic, and
# there is no limit to compare with.


def _one_sweep(arrays: Layout) -> list[Sweep]:
    return [(arrays.others(), [arrays.gradient])]


def _trust_ratio(arrays: Layout) -> list[Sweep]:
    """First the two moments move and the norms are taken, then the rest moves."""
    moments = arrays.named("momentum", "velocity")
    rest = arrays.others("momentum", "velocity")
    return [(moments, [*arrays.named(VARIABLE), arrays.gradient]), (rest, moments)]


def _factored(arrays: Layout) -> list[Sweep]:
    """Means of rows and columns and the variable's norm; the update's norm; the update.

    Means are nothing next to a matrix, and its velocity, which they replace, is not touched. A vector
    has a velocity and no means.
    """
    gradient, variable = [arrays.gradient], arrays.named(VARIABLE)
    velocity, rest = arrays.named("velocity"), arrays.others("velocity")
    if arrays.is_matrix:
        return [([], variable + gradient), ([], gradient), (rest, gradient)]
    return [(velocity, variable + gradient), (rest, velocity + gradient)]


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
    """Variables and all that is kept for them; after them comes the gradient."""
    sweeps: list[Sweep] | None
    gradient_bytes: int = FLOAT_BYTES

    @property
    def bytes(self) -> int | None:
        """Per element; None if the bytes are no limit."""
        if self.sweeps is None:
            return None
        moved = [
            position for updated, read in self.sweeps for position in (*updated, *updated, *read)
        ]
        of_gradient = moved.count(self.state)
        return FLOAT_BYTES * (len(moved) - of_gradient) + self.gradient_bytes * of_gradient


def traffic_of(workload: Workload) -> Traffic:
    """Count the arrays that an optimizer keeps for a variable and the sweeps over them."""
    layout = layout_of(workload)
    sweeps = SWEEPS.get(workload.rule, _one_sweep)(layout)
    if sweeps is not None and workload.reads_gradients_first:
        sweeps = [([], [layout.gradient]), *sweeps]
    return Traffic(len(layout.state), sweeps, workload.gradient_bytes)


def layout_of(workload: Workload) -> Layout:
    """Name the arrays that an optimizer keeps for a variable, as large as that itself."""
    is_matrix = any(len(shape) > 1 for shape in workload.shapes)
    variable = np.ones((64, 64) if is_matrix else 64, np.float32)
    whole = [name for name, array in _kept(workload, variable) if array.shape == variable.shape]
    return Layout([VARIABLE, *whole], is_matrix)


def slots_of(workload: Workload) -> list[str]:
    """Name the state that a rule keeps for a matrix."""
    return [name for name, _ in _kept(workload, np.ones((64, 64), np.float32))]


def _kept(
    workload: Workload, variable: npt.NDArray[np.float32]
) -> list[tuple[str, npt.NDArray[np.generic]]]:
    optimizer = workload.rule_optimizer()
    optimizer.build({VARIABLE: variable})
    named = optimizer.named_variables()
    return [(name.partition("/")[0], array) for name, array in named.items() if array.ndim]


def limit_step(traffic: Traffic, tensors: Sequence[Sequence[Array]]) -> Step | None:
    """Make the loop over the state and gradient of each tensor, whose values stay; None if there is no limit."""
    if traffic.sweeps is None:
        return None
    calls = [
        _core.PlainLoop(
            [([arrays[i] for i in updated], [arrays[i] for i in read]) for arrays in tensors]
        )
        if updated
        else reading_loop(arrays[i] for arrays in tensors for i in read)
        for updated, read in traffic.sweeps
    ]
    if len(calls) == 1:
        return calls[0]

    def step() -> None:
        for call in calls:
            call()

    return step


def reading_loop(arrays: Iterable[Array]) -> Step:
    """Make the plainest loop that reads the memory of arrays, as float32 whatever it holds."""
    return _core.PlainLoop([([], [_floats(array)]) for array in arrays])


def _floats(array: Array) -> npt.NDArray[np.float32]:
    """See memory as float32; a last element of 16 bits that has no second is left out."""
    flat = array.reshape(-1)
    return flat[: flat.nbytes // FLOAT_BYTES * FLOAT_BYTES // flat.itemsize].view(np.float32)


def staggered(count: int, elements: int) -> list[npt.NDArray[np.float32]]:
    """Cut arrays out of one block, so that no two of them begin at the same place of a page.

    They hold ordinary numbers: large arrays of zeros are moved somewhat faster.
    """
    distance = elements + STAGGER // FLOAT_BYTES
    block = np.empty(count * distance, np.float32)
    arrays = [block[i * distance : i * distance + elements] for i in range(count)]
    noise = noise_of(seed=3)
    for array in arrays:
        touch(array)
        fill(array, noise)
    return arrays
