"""What is timed: the rules of the tests' table of cases, on shapes that users have.

A rule added to that table joins by itself. Nothing here knows who runs a workload.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import fusedopt as fo
import numpy as np
import numpy.typing as npt
from fusedopt import _core

Array = npt.NDArray[Any]
Arguments = dict[str, Any]
Step = Callable[[], object]

FLAGSHIP = "AdamW"
SIZES = [2**power for power in (6, 9, 12, 14, 16, 18, 20, 22, 24, 26)]
FEW_SIZES = [2**6, 2**16, 2**24, 2**26]
QUICK_SIZES = [2**6, 2**12, 2**17]
QUICK_FEW_SIZES = [2**6, 2**15]


def of_tests(module: str) -> ModuleType:
    """Import one of the tests' modules: they hold the table of cases and the formulas."""
    folder = str(Path(__file__).parent.parent / "tests")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(module)


RULES: dict[str, list[Arguments]] = of_tests("cases").RULES
OPTIONS: dict[str, Arguments] = of_tests("cases").OPTIONS
# Of a size that float16 holds, and that is still far above epsilon when divided by the loss scale.
SCALED_GRADIENT = np.float32(2**12)
MIXED: Arguments = {"global_clipnorm": 1.0, "use_ema": True}


class Absent(Exception):
    """A contestant cannot run a workload; the message says why."""


class Ready(NamedTuple):
    """A contestant about to run a workload."""

    step: Step
    variables: list[Any]
    slots: Callable[[], list[Array]]
    """The arrays of its rule's state; after the first step."""


@dataclass(frozen=True)
class Workload:
    """One rule with its arguments, on tensors of some shapes."""

    section: str
    name: str
    rule: str
    arguments: Arguments
    shapes: tuple[tuple[int, ...], ...]
    is_mixed: bool = False
    """float16 gradients from a scaled loss, checked for overflow."""
    gradient: float | None = None
    """The value of every gradient; None: random ones."""

    @cached_property
    def elements(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def label(self) -> str:
        own = ", ".join(f"{name}={value}" for name, value in self.arguments.items())
        return f"{self.rule}({own})" if own else self.rule

    def variables(self) -> list[Array]:
        """Make fresh arrays with the same values each time."""
        noise = _noise(seed=1)
        return [_filled(shape, noise) for shape in self.shapes]

    def gradients(self) -> list[Array]:
        noise = _noise(seed=2)
        if self.gradient is not None:
            noise[:] = self.gradient
        if self.is_mixed:
            noise = (noise * SCALED_GRADIENT).astype(np.float16)
        return [_filled(shape, noise) for shape in self.shapes]

    def shrunk(self) -> Workload:
        """Make a small one with the same computation."""
        return replace(self, shapes=((1000,),), gradient=None)


def optimizer_of(workload: Workload) -> fo.Optimizer:
    """Make fusedopt's optimizer for a workload. Peers take their hyperparameters from it."""
    optimizer: fo.Optimizer = getattr(fo, workload.rule)(**workload.arguments)
    return fo.LossScaleOptimizer(optimizer) if workload.is_mixed else optimizer


def touch(array: npt.NDArray[np.float32]) -> None:
    """Let the threads that will use each page of a new array be the first to write to it."""
    _core.move_bytes([array], [])


def _noise(seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(2**16, np.float32)


def _filled(shape: tuple[int, ...], noise: Array) -> Array:
    elements = math.prod(shape)
    array = np.empty(elements, noise.dtype)
    if noise.dtype == np.float32:
        touch(array)
    for begin in range(0, elements, noise.size):
        piece = array[begin : begin + noise.size]
        piece[:] = noise[: piece.size]
    return array.reshape(shape)


def main_variant(rule: str) -> Arguments:
    """Find the first variant in the table that has slots, as most users' optimizers have."""
    for arguments in RULES[rule]:
        optimizer = getattr(fo, rule)(**arguments)
        optimizer.build([np.zeros(1, np.float32)])
        if any(variable.ndim for variable in optimizer.variables):
            return arguments
    return RULES[rule][0]


def power_of_two(elements: int) -> str:
    power = elements.bit_length() - 1
    return f"2^{power}" if elements == 2**power else f"{elements:,}"


def gpt2_shapes(
    width: int = 768, depth: int = 12, vocabulary: int = 50257, context: int = 1024
) -> tuple[tuple[int, ...], ...]:
    """List the tensors of GPT-2, by default of the small one: 148 of them."""
    norm = [(width,), (width,)]

    def dense(inputs: int, outputs: int) -> list[tuple[int, ...]]:
        return [(inputs, outputs), (outputs,)]

    block = [
        *norm,
        *dense(width, 3 * width),
        *dense(width, width),
        *norm,
        *dense(width, 4 * width),
        *dense(4 * width, width),
    ]
    return ((vocabulary, width), (context, width), *(block * depth), *norm)


def sizes(counts: list[int], few_counts: list[int]) -> Iterator[Workload]:
    """One tensor of each size: many for the flagship, few for every other rule."""
    for rule in sorted(RULES, key=lambda rule: (rule != FLAGSHIP, rule)):
        arguments = main_variant(rule)
        for elements in counts if rule == FLAGSHIP else few_counts:
            yield Workload("sizes", power_of_two(elements), rule, arguments, ((elements,),))


def tensors(is_quick: bool) -> Iterator[Workload]:
    """Many tensors at once."""
    gpt2 = gpt2_shapes(48, vocabulary=512, context=64) if is_quick else gpt2_shapes()
    kinds = {
        "1,000 of 64": ((64,),) * 1000,
        "100 of 10,486": ((10486,),) * 100,
        f"GPT-2{' with few elements' if is_quick else ' small'}, {len(gpt2)} tensors": gpt2,
    }
    for name, shapes in kinds.items():
        yield Workload("tensors", name, FLAGSHIP, main_variant(FLAGSHIP), shapes)


def mixed(counts: list[int]) -> Iterator[Workload]:
    """float16 gradients: overflow check, unscaling, global norm, clipping, rule and average."""
    for elements in counts:
        yield Workload(
            "mixed", power_of_two(elements), FLAGSHIP, MIXED, ((elements,),), is_mixed=True
        )


def variants(elements: int) -> Iterator[Workload]:
    """Every variant of every rule."""
    for rule, choices in RULES.items():
        for arguments in choices:
            yield Workload("variants", power_of_two(elements), rule, arguments, ((elements,),))


def options(elements: int) -> Iterator[Workload]:
    """Every common option but accumulation, whose calls move different numbers of bytes."""
    for choice in OPTIONS.values():
        if "gradient_accumulation_steps" not in choice:
            arguments = main_variant(FLAGSHIP) | choice
            yield Workload("options", power_of_two(elements), FLAGSHIP, arguments, ((elements,),))


def subnormal(counts: list[int]) -> Iterator[Workload]:
    """Each rule, to be run on several kinds of gradients."""
    for rule in RULES:
        for elements in counts:
            name = power_of_two(elements)
            yield Workload("subnormal", name, rule, main_variant(rule), ((elements,),))
