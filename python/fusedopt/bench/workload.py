"""What is timed: a rule with its arguments, on tensors of some shapes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

import fusedopt as fo
from fusedopt.runtime import _core

Array = npt.NDArray[Any]
Arguments = dict[str, Any]
Step = Callable[[], object]

FLOAT_BYTES = 4

# Large arrays that lie a power of two apart meet in the same cache sets and memory banks: four of 2^26 elements took
# eight times as long. This distance in bytes was as fast as any other tried.
STAGGER = 32 * 1024 + 17 * 64


class Absent(Exception):
    """A contestant cannot run a workload; the message says why."""


class Ready(NamedTuple):
    """A contestant about to run a workload."""

    step: Step
    variables: list[Any]
    slots: Callable[[], list[list[Array]]]
    """The arrays of its rule's state for each variable; after the first step."""


@dataclass(frozen=True)
class Workload:
    """One rule with its arguments, on tensors of some shapes."""

    section: str
    name: str
    rule: str
    arguments: Arguments
    shapes: tuple[tuple[int, ...], ...]

    dtype: ClassVar[npt.DTypeLike] = np.float32
    """Of variables."""
    gradient_bytes: ClassVar[int] = FLOAT_BYTES

    @cached_property
    def elements(self) -> int:
        """How many all tensors have together."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def label(self) -> str:
        """The rule as one would call it."""
        own = ", ".join(f"{name}={value}" for name, value in self.arguments.items())
        return f"{self.rule}({own})" if own else self.rule

    @property
    def reads_gradients_first(self) -> bool:
        """Whether a norm over all gradients comes before the first update."""
        return bool(self.arguments.keys() & {"clipnorm", "global_clipnorm"})

    def rule_optimizer(self) -> fo.Optimizer:
        """Make fusedopt's optimizer with the rule. Peers take their hyperparameters from it."""
        optimizer: fo.Optimizer = getattr(fo, self.rule)(**self.arguments)
        return optimizer

    def optimizer(self) -> fo.Optimizer:
        """Make fusedopt's optimizer that runs the workload."""
        return self.rule_optimizer()

    def variables(self) -> list[Array]:
        """Make fresh arrays with the same values each time."""
        noise = noise_of(seed=1).astype(self.dtype)
        return [_filled(shape, noise, 5 * STAGGER) for shape in self.shapes]

    def gradients(self) -> list[Array]:
        """Make fresh arrays with the same values each time."""
        return self.gradients_of(noise_of(seed=2))

    def gradients_of(self, noise: Array) -> list[Array]:
        """Make gradients that repeat these numbers."""
        return [_filled(shape, noise, 6 * STAGGER) for shape in self.shapes]

    def whole(self) -> Workload:
        """Make the same step on float32 variables and slots, which is what peers take."""
        return self

    def shrunk(self) -> Workload:
        """Make a small one with the same computation."""
        return replace(self, shapes=(squarest(1000),))


def kept_by(optimizer: fo.Optimizer) -> list[tuple[str, Array]]:
    """Name the arrays that an optimizer keeps, in its own memory and as they are stored."""
    return [(name, array) for name, array in optimizer._core.state() if array.ndim]


def touch(array: npt.NDArray[np.float32]) -> None:
    """Let the threads that will use each page of a new array be the first to write to it."""
    _core.PlainLoop([([array], [])])()


def noise_of(seed: int) -> Array:
    """Make a short array of ordinary numbers to fill others with."""
    return np.random.default_rng(seed).standard_normal(2**16, np.float32)


def fill(array: Array, noise: Array) -> None:
    """Repeat the noise over a whole array."""
    for begin in range(0, array.size, noise.size):
        piece = array[begin : begin + noise.size]
        piece[:] = noise[: piece.size]


def power_of_two(elements: int) -> str:
    """Write a number of elements, as 2^24 if it is a power of two."""
    power = elements.bit_length() - 1
    return f"2^{power}" if elements == 2**power else f"{elements:,}"


def squarest(elements: int) -> tuple[int, int]:
    """Shape as a matrix, as rules that see rows and columns need one; others see no difference."""
    rows = next(rows for rows in range(math.isqrt(elements), 0, -1) if elements % rows == 0)
    return rows, elements // rows


def _filled(shape: tuple[int, ...], noise: Array, offset: int) -> Array:
    """Make an array. A large one begins so many bytes after a page, at a place where no slots begin."""
    elements = math.prod(shape)
    array = np.empty(elements, noise.dtype)
    if array.nbytes >= 2**20:
        memory = np.empty(array.nbytes + offset + 4096, np.uint8)
        begin = -memory.ctypes.data % 4096 + offset
        array = memory[begin : begin + array.nbytes].view(noise.dtype)
    if noise.dtype == np.float32:
        touch(array)
    fill(array, noise)
    return array.reshape(shape)
