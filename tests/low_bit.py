"""One configuration of slots in fewer bits, trained by the reference and by the library, and compared bit by bit."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import product
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import NO_FLOAT8, OPTIONS, VARIANTS, Case
from fusedopt import _core
from machine import LEVELS
from reference import Array, Reference
from sample_arrays import NAMED_DTYPES, same_bits

# Around a block, a tile and what is too small for float8; several dimensions; nothing.
SHAPES = [
    *((0,), (1,), (63,), (64,), (65,), (1023,), (1025,), (4095,), (4096,), (5000,)),
    *((), (7, 5, 3), (20, 31), (70, 64), (0, 4)),
]
# A rule that goes by rows has codes of 8 bits only if rows are whole blocks.
WHOLE_ROWS = [(0, 64), (5, 64), (3, 128), (2, 1088), (3, 2, 64), (40,), ()]
STEPS = 5


def has_float8(case: Case) -> bool:
    return case.rule not in NO_FLOAT8 and not case.arguments.get("centered", False)


def with_codes(cases: Sequence[Case], codes: Sequence[str], rest: Sequence[Case] = ()) -> list[Any]:
    """Return every case with every code; those of `rest` are left to maintainers."""
    return [
        pytest.param(case, code, id=f"{case}-{code}", marks=marks)
        for some, marks in ((cases, ()), (rest, pytest.mark.maintainer))
        for case, code in product(some, codes)
        if code != "float8" or has_float8(case)
    ]


def of_option(option: str) -> list[Case]:
    return [
        case._replace(
            arguments={**case.arguments, **OPTIONS[option]},
            label=f"{case.label.rpartition('-')[0]}-{option}",
        )
        for case in VARIANTS
    ]


def shapes_for(case: Case) -> list[tuple[int, ...]]:
    return WHOLE_ROWS if case.arguments.get("rowwise") else SHAPES


def named(arrays: Sequence[Any]) -> dict[str, Any]:
    return {f"v{i}": array for i, array in enumerate(arrays)}


def spread_out(shape: tuple[int, ...], seed: Sequence[int], factor: float = 1.0) -> Array:
    """Numbers of which some blocks are alike, some far apart, and some zero."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * factor
    flat = x.reshape(-1)
    blocks = -(-flat.size // 64)
    flat *= 10.0 ** np.repeat(rng.integers(-2, 2, blocks), 64)[: flat.size]
    wide = np.repeat(rng.random(blocks) < 0.4, 64)[: flat.size]
    flat *= np.where(wide, 10.0 ** rng.uniform(-4, 1, flat.size), 1.0)
    flat *= rng.random(flat.size) < np.repeat(rng.choice([1, 1, 0.3, 0], blocks), 64)[: flat.size]
    return x


@functools.cache
def initial_variables(shapes: tuple[tuple[int, ...], ...], dtype: np.dtype[Any]) -> list[Array]:
    rng = np.random.default_rng(0)
    return [np.array(rng.standard_normal(shape), dtype) for shape in shapes]


@functools.cache
def gradients(
    shapes: tuple[tuple[int, ...], ...], dtype: np.dtype[Any], step: int, factor: float
) -> list[Any]:
    most = 6e4 if dtype == np.float16 else np.inf
    grads: list[Any] = [
        np.array(np.clip(spread_out(shape, [step, i], factor), -most, most), dtype)
        for i, shape in enumerate(shapes)
    ]
    if step in (2, 3):
        grads[step % len(shapes)] = None
    return grads


def assert_equal(optimizer: Any, variables: Sequence[Array], reference: Reference) -> None:
    """Compare variables, what is listed of the state, and the codes."""
    for i, (mine, its) in enumerate(zip(variables, reference.stored(), strict=True)):
        assert same_bits(mine, its), f"variable {i}"
    for (name, mine), its in zip(
        optimizer.named_variables().items(), reference.variables(), strict=True
    ):
        assert same_bits(mine, its), name
    state = dict(optimizer._core.state())
    for name, its in reference.codes(list(named(variables))).items():
        assert same_bits(np.asarray(state[name]), its), name
    assert optimizer.global_norm == reference.global_norm


class Run:
    """One configuration on one set of variables, trained by the reference and by the library."""

    def __init__(
        self,
        case: Case,
        code: str,
        shapes: Sequence[tuple[int, ...]],
        dtype: str = "float32",
        **arguments: Any,
    ) -> None:
        self.rule, self.shapes, self.dtype = case.rule, tuple(shapes), NAMED_DTYPES[dtype]
        every = dict.fromkeys(named(self.shapes), code)
        self.arguments = {**case.arguments, "slot_dtypes": every, "seed": 7, **arguments}
        self.factor = self.arguments.get("loss_scale_factor", 1.0)

    def reference(self) -> Reference:
        reference = Reference(self.rule, **self.arguments)
        initial = initial_variables(self.shapes, self.dtype)
        reference.build(initial, excluded=(2,), names=list(named(initial)))
        return reference

    def optimizer(self) -> tuple[Any, list[Array]]:
        variables = [w.copy() for w in initial_variables(self.shapes, self.dtype)]
        optimizer = getattr(fo, self.rule)(**self.arguments)
        optimizer.exclude_from_weight_decay(variables[2:3])
        optimizer.build(named(variables))
        return optimizer, variables

    def train(
        self, optimizer: Any, dtype: str = "float32", steps: Sequence[int] = range(STEPS)
    ) -> None:
        for step in steps:
            optimizer.apply([*gradients(self.shapes, NAMED_DTYPES[dtype], step, self.factor)])

    def check(self, dtype: str = "float32", levels: Sequence[str] = LEVELS) -> None:
        reference = self.reference()
        self.train(reference, dtype)
        for level in levels:
            _core.set_level(level)
            optimizer, variables = self.optimizer()
            self.train(optimizer, dtype)
            assert_equal(optimizer, variables, reference)
