"""Slots in 16 and 8 bits, and variables without a master copy, against the NumPy reference: equal to the last bit."""

from __future__ import annotations

import functools
from itertools import product
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import VARIANTS, Case
from fusedopt import _core
from low_bit import (
    SHAPES,
    STEPS,
    Run,
    assert_equal,
    named,
    of_option,
    shapes_for,
    spread_out,
    with_codes,
)
from machine import LEVELS
from reference import NO_ROWS
from sample_arrays import NAMED_DTYPES
from selection import first

pytestmark = [
    pytest.mark.filterwarnings("ignore:No gradient for"),
    pytest.mark.usefixtures("restore_runtime"),
]


@pytest.mark.parametrize(
    ("case", "code"),
    with_codes(
        of_option("accumulation_everything"),
        ["bfloat16", "float8"],
        rest=[*VARIANTS, *of_option("everything")],
    ),
)
def test_every_rule(case: Case, code: str) -> None:
    Run(case, code, shapes_for(case)).check()


def pairs_of_dtypes() -> list[Any]:
    parameters = []
    for pair in product(NAMED_DTYPES, NAMED_DTYPES):
        tells = pair in {("bfloat16", "float32"), ("float16", "float16")}
        marks = () if tells else pytest.mark.maintainer
        parameters.append(pytest.param(*pair, marks=marks))
    return parameters


@pytest.mark.parametrize(("variable_dtype", "gradient_dtype"), pairs_of_dtypes())
@pytest.mark.parametrize(
    ("case", "code"), with_codes(of_option("everything"), ["bfloat16", "float8"])
)
def test_every_pair_of_dtypes(
    case: Case, code: str, variable_dtype: str, gradient_dtype: str
) -> None:
    Run(case, code, shapes_for(case), variable_dtype).check(gradient_dtype, LEVELS[-1:])


@pytest.mark.parametrize("dtype", first(1, ["float16", "bfloat16"]))
@pytest.mark.parametrize(
    ("case", "code"),
    with_codes(
        of_option("accumulation_everything"),
        ["float32", "bfloat16", "float8"],
        rest=[*VARIANTS, *of_option("ema_overwrite")],
    ),
)
def test_without_a_master_copy(case: Case, code: str, dtype: str) -> None:
    Run(case, code, shapes_for(case), dtype, master=False).check(dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rule", ["Adam", "Lamb", "Muon", "SGD"])
def test_small_variables_keep_their_slots(rule: str, dtype: str) -> None:
    case = Case(rule, {"momentum": 0.9} if rule == "SGD" else {}, rule)
    names = list(named(SHAPES))
    own = {names[SHAPES.index((70, 64))]: "float32", names[SHAPES.index((1025,))]: "bfloat16"}
    run = Run(case, "", SHAPES, dtype, slot_dtype="float8", slot_dtypes=own)
    run.check()
    coded = [name for name, coded in zip(names, run.reference().coded, strict=True) if coded]
    found = [
        name for name in names if f"momentum_scale/{name}" in dict(run.optimizer()[0]._core.state())
    ]
    assert found == [names[SHAPES.index((4096,))], names[SHAPES.index((5000,))]]
    assert coded == sorted([*found, names[SHAPES.index((1025,))]], key=names.index)


LARGE = ((60_001,), (3,), (70, 1000), (1024,), (50_000,))


@pytest.mark.parametrize("dtype", first(1, ["float32", "bfloat16"]))
@pytest.mark.parametrize(
    ("case", "code"), with_codes(of_option("everything"), ["bfloat16", "float8"])
)
def test_threads_do_not_change_a_bit(case: Case, code: str, dtype: str) -> None:
    shapes = ((900, 128), (3,), (50_000,)) if case.arguments.get("rowwise") else LARGE
    run = Run(case, code, shapes, dtype, master=False)
    reference = run.reference()
    run.train(reference)
    for threads in (1, 2, 3, 7):
        fo.set_num_threads(threads)
        optimizer, variables = run.optimizer()
        run.train(optimizer)
        assert_equal(optimizer, variables, reference)


# Rows


TABLES = ((11, 64), (5, 1088), (3, 2, 64), (40, 128), (3000,), (4, 64))


@functools.cache
def row_gradients(shapes: tuple[tuple[int, ...], ...], step: int, factor: float) -> list[Any]:
    """Of rows, some of them twice, but dense ones for the last variable and for another one."""
    rng = np.random.default_rng(step)
    grads: list[Any] = []
    for i, shape in enumerate(shapes):
        indices = rng.integers(0, shape[0], (0, 3, shape[0])[(step + i) % 3])
        values = spread_out((len(indices), *shape[1:]), [step, i], factor).astype(np.float32)
        grads.append(fo.RowGradient(values, indices))
    for i in (len(shapes) - 1, step % len(shapes)):
        grads[i] = spread_out(shapes[i], [step, i], factor).astype(np.float32)
    return grads


def taking_rows(option: str) -> list[Case]:
    return [case for case in of_option(option) if case.rule not in NO_ROWS]


@pytest.mark.parametrize(
    ("dtype", "master"), [("float32", True), ("bfloat16", False), ("float16", False)]
)
@pytest.mark.parametrize(
    ("case", "code"),
    with_codes(
        taking_rows("everything"),
        ["bfloat16", "float8"],
        rest=[
            case
            for option in ("plain", "global_clipnorm", "ema_overwrite", "clipvalue")
            for case in taking_rows(option)
        ],
    ),
)
def test_gradients_of_rows(case: Case, code: str, dtype: str, master: bool) -> None:
    shapes = tuple(s for s in TABLES if case.rule != "Muon" or len(s) != 2)
    # Vectors have rows of one element.
    if code == "float8":
        shapes = tuple(s for s in shapes if len(s) > 1)
    elif case.rule != "Muon":
        shapes = ((9, 3), (4, 1500), *shapes)
    run = Run(case, code, shapes, dtype, master=master)
    reference = run.reference()
    for step in range(STEPS):
        reference.apply([*row_gradients(run.shapes, step, run.factor)])
    for threads, level in ((1, LEVELS[0]), (3, LEVELS[-1])):
        fo.set_num_threads(threads)
        _core.set_level(level)
        optimizer, variables = run.optimizer()
        for step in range(STEPS):
            optimizer.apply([*row_gradients(run.shapes, step, run.factor)])
        assert_equal(optimizer, variables, reference)
