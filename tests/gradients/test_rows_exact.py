"""Gradients of rows against the NumPy reference: equal to the last bit, at every level and thread count."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from itertools import product
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import OPTIONS, VARIANTS, Case
from fusedopt import _core
from machine import LEVELS
from reference import CATCHING_UP, Array, MultiReference, Reference, ScaledReference
from rows import PICKS, TAKING_ROWS, assert_same, row_gradient, strided
from sample_arrays import NAMED_DTYPES

SHAPES = [
    (9,),
    (11, 1),
    (7, 3),
    (40, 16),
    (12, 64),
    (5, 1000),
    (4, 1500),
    (6, 2, 5),
    (0, 4),
    (3, 0),
]
DENSE = [(4, 3), ()]
EXCLUDED = 3
STEPS = 7
# An accumulation over several calls takes no rows.
ROW_OPTIONS = {name: o for name, o in OPTIONS.items() if "gradient_accumulation_steps" not in o}
ROW_OPTIONS["clips"] = {"weight_decay": 0.02, "clipvalue": 0.3, "loss_scale_factor": 64.0}
CASES = [
    Case(rule, {**variant, **options}, f"{label.rpartition('-')[0]}-{option}")
    for rule, variant, label in VARIANTS
    for option, options in ROW_OPTIONS.items()
    if rule in TAKING_ROWS
]
CAUGHT_UP = [
    case._replace(
        arguments={**case.arguments, "row_updates": "caught_up"}, label=f"{case}-caught_up"
    )
    for case in CASES
    if case.rule in CATCHING_UP and "use_ema" not in case.arguments
]


def with_option(option: str, cases: list[Case]) -> list[Case]:
    return [case for case in cases if case.label.removesuffix("-caught_up").endswith("-" + option)]


pytestmark = [
    pytest.mark.filterwarnings("ignore:No gradient for"),
    pytest.mark.usefixtures("restore_runtime"),
]


def is_matrix_of(rule: str, shape: tuple[int, ...]) -> bool:
    return rule == "Muon" and len(shape) == 2


def make_variables(rule: str, dtype: np.dtype[Any]) -> list[Array]:
    rng = np.random.default_rng(0)
    shapes = [shape for shape in SHAPES + DENSE if not is_matrix_of(rule, shape)]
    return [np.array(rng.standard_normal(shape), dtype) for shape in shapes]


@functools.cache
def gradients_of_step(dtype: np.dtype[Any], step: int, factor: float) -> dict[Any, Any]:
    """Gradients by shape, which all tests share. A table has another kind of rows in each step."""
    rng = np.random.default_rng(1000 + step)
    gradients: dict[Any, Any] = {}
    for i, shape in enumerate(SHAPES):
        pick = list(PICKS)[(i + step) % len(PICKS)]
        index_dtype = (np.int32, np.int64)[(i + step) // 2 % 2]
        gradient = row_gradient(rng, shape, pick, dtype, index_dtype, factor)
        gradients[shape] = strided(gradient) if step == 3 else gradient
    for shape in [*DENSE, SHAPES[2 * step % 7]]:
        gradients[shape] = np.array(rng.standard_normal(shape) * factor, dtype)
    if step in (2, 5):
        gradients[SHAPES[step - 2]] = None
    return gradients


def train(
    optimizer: Any,
    variables: list[Array],
    tables: Sequence[Any],
    gradient_dtype: str,
    factor: float,
) -> None:
    for step in range(STEPS):
        gradients = gradients_of_step(NAMED_DTYPES[gradient_dtype], step, factor)
        optimizer.apply([gradients[w.shape] for w in variables])
        number = step % 5 if len(variables) > 5 else 1
        if step % 2:
            optimizer.catch_up(tables[number], np.arange(len(variables[number]))[:: step + 1])
        elif step == 4:
            optimizer.catch_up()


def run(case: Case, variable_dtype: str, gradient_dtype: str, levels: list[str]) -> None:
    factor = case.arguments.get("loss_scale_factor", 1.0)
    initial = make_variables(case.rule, NAMED_DTYPES[variable_dtype])
    reference = Reference(case.rule, **case.arguments)
    reference.build(initial, excluded=(EXCLUDED,))
    train(reference, initial, range(len(initial)), gradient_dtype, factor)
    for level in levels:
        _core.set_level(level)
        variables = [w.copy() for w in initial]
        optimizer = getattr(fo, case.rule)(**case.arguments)
        optimizer.exclude_from_weight_decay(variables[EXCLUDED : EXCLUDED + 1])
        optimizer.build(variables)
        train(optimizer, variables, variables, gradient_dtype, factor)
        assert_same(optimizer, variables, copy.deepcopy(reference))


@pytest.mark.parametrize("case", CASES + CAUGHT_UP, ids=str)
def test_every_rule_and_option(case: Case) -> None:
    run(case, "float32", "float32", LEVELS)


def pairs_of_dtypes() -> list[Any]:
    """Every pair but that of the other tests, of which some are left to maintainers."""
    parameters = []
    for pair in product(NAMED_DTYPES, NAMED_DTYPES):
        tells = pair[0] == pair[1] or pair in {("float32", "float64"), ("float64", "bfloat16")}
        marks = () if tells else pytest.mark.maintainer
        if pair != ("float32", "float32"):
            parameters.append(pytest.param(*pair, marks=marks))
    return parameters


@pytest.mark.parametrize(("variable_dtype", "gradient_dtype"), pairs_of_dtypes())
@pytest.mark.parametrize(
    "case", with_option("everything", CASES) + with_option("clips", CAUGHT_UP), ids=str
)
def test_every_pair_of_dtypes(case: Case, variable_dtype: str, gradient_dtype: str) -> None:
    run(case, variable_dtype, gradient_dtype, LEVELS[-1:])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", with_option("weight_decay", CAUGHT_UP), ids=str)
def test_rows_left_alone_for_long(case: Case, dtype: str) -> None:
    """So many steps that what is missed is composed in several ways, and that all rows catch up on the way."""
    rng = np.random.default_rng(4)
    initial = [rng.standard_normal(shape).astype(dtype) for shape in ((6, 2, 2), (30,))]
    reference = Reference(case.rule, **case.arguments)
    reference.build(initial)
    variables = [w.copy() for w in initial]
    optimizer = getattr(fo, case.rule)(**case.arguments)
    optimizer.build(variables)
    for step in range(150):
        rate = 0.01 * (1 + step % 7)
        optimizer.learning_rate = reference.a["learning_rate"] = rate
        gradients = [
            row_gradient(rng, w.shape, "few" if step % 5 == 0 else "none", dtype) for w in initial
        ]
        optimizer.apply(gradients)
        reference.apply(gradients)
        if step == 75:
            optimizer.catch_up(variables[1], np.arange(3))
            reference.catch_up(1, np.arange(3))
    assert_same(optimizer, variables, reference)


@functools.cache
def large_arrays() -> tuple[list[Array], list[list[Any]]]:
    """Variables and the gradients of three steps, just enough work for seven threads."""
    rng = np.random.default_rng(5)
    shapes = [(3000, 64), (20_000,), (60_001,), (200, 5, 100)]
    variables = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    steps: list[list[Any]] = []
    for picks in (["duplicates", "all", "ascending"], ["all", "duplicates", "few"], ["few"] * 3):
        gradients: list[Any] = [
            row_gradient(rng, shapes[i], pick, np.float32, factor=1e-3)
            for i, pick in zip((0, 1, 3), picks, strict=True)
        ]
        gradients.insert(2, rng.standard_normal(shapes[2]).astype(np.float32))
        steps.append(gradients)
    return variables, steps


@pytest.mark.parametrize(
    "case", with_option("global_clipnorm", CASES) + with_option("clipnorm", CAUGHT_UP), ids=str
)
def test_threads_do_not_change_a_bit(case: Case) -> None:
    initial, steps = large_arrays()
    if case.rule == "Muon":
        initial, steps = initial[1:], [gradients[1:] for gradients in steps]
    reference = Reference(case.rule, **case.arguments)
    reference.build(initial)
    for gradients in steps:
        reference.apply(gradients)
    for threads in (1, 2, 3):
        fo.set_num_threads(threads)
        variables = [w.copy() for w in initial]
        optimizer = getattr(fo, case.rule)(**case.arguments)
        optimizer.build(variables)
        for gradients in steps:
            optimizer.apply(gradients)
        assert_same(optimizer, variables, copy.deepcopy(reference))


@pytest.mark.parametrize("rows", [1 << 17, 3])
@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
def test_many_indices_are_summed_in_their_order(rows: int, index_dtype: str) -> None:
    rng = np.random.default_rng(7)
    indices = rng.integers(0, rows, 200_000).astype(index_dtype)
    # Each order of additions has a rounding of its own.
    values = (rng.standard_normal(indices.size) * 10.0 ** rng.integers(-3, 4, indices.size)).astype(
        np.float32
    )
    initial = [np.zeros(rows, np.float32)]
    reference = Reference("SGD", global_clipnorm=1.0)
    reference.build(initial)
    reference.apply([fo.RowGradient(values, indices)])
    for threads in (1, 2, 3):
        fo.set_num_threads(threads)
        variables = [w.copy() for w in initial]
        optimizer = fo.SGD(global_clipnorm=1.0)
        optimizer.build(variables)
        optimizer.apply([fo.RowGradient(values, indices)])
        assert_same(optimizer, variables, reference)


@pytest.mark.parametrize(
    "case", with_option("plain", CASES) + with_option("weight_decay", CAUGHT_UP), ids=str
)
def test_loss_scale(case: Case) -> None:
    dtype = np.dtype(np.float16)
    initial = make_variables(case.rule, dtype)
    reference = Reference(case.rule, **case.arguments)
    reference.build(initial)
    scaled = ScaledReference(reference, 256.0, 3)
    variables = [w.copy() for w in initial]
    optimizer = fo.LossScaleOptimizer(
        getattr(fo, case.rule)(**case.arguments), initial_scale=256.0, dynamic_growth_steps=3
    )
    optimizer.build(variables)
    for step in range(STEPS):
        gradients = [gradients_of_step(dtype, step, 256.0)[w.shape] for w in variables]
        if step in (1, 5):
            values = np.full((2, 2, 5), np.float16(60_000 if step == 1 else np.inf))
            at = [w.shape for w in variables].index((6, 2, 5))
            gradients[at] = fo.RowGradient(values, np.array([4, 4]))  # 120,000 is finite in float32
        scaled.apply(gradients)
        optimizer.apply(gradients)
        assert optimizer.dynamic_scale == scaled.scale
        assert optimizer.consecutive_skipped_steps == scaled.skipped == int(step == 5)
    assert_same(optimizer.inner_optimizer, variables, reference)


def test_sums_that_overflow_are_skipped() -> None:
    w = np.ones((3, 2), np.float32)
    optimizer = fo.SGD(skip_nonfinite=True)
    optimizer.build([w])
    largest = np.full((2, 2), 3e38, np.float32)
    optimizer.apply([fo.RowGradient(largest, np.array([1, 1]))])
    assert optimizer.skipped_steps == 1
    assert np.array_equal(w, np.ones((3, 2)))
    optimizer.apply([fo.RowGradient(largest, np.array([1, 2]))])
    assert optimizer.skipped_steps == 1
    assert np.array_equal(w[0], [1, 1])
    assert (w[1:] < -1e30).all()


@pytest.mark.parametrize("row_updates", ["lazy", "caught_up"])
@pytest.mark.parametrize("skip_nonfinite", [False, True])
def test_several_optimizers(skip_nonfinite: bool, row_updates: str) -> None:
    names = ["a", "b", "c", "d"]
    shapes = [(7, 3), (12, 64), (4, 3), (9,)]
    owners = [0, 1, 1, 0]
    rng = np.random.default_rng(0)
    weights = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in zip(names, shapes, strict=True)
    }
    arguments: dict[str, Any] = {"row_updates": row_updates, "weight_decay": 0.02}
    members = [fo.AdamW(**arguments), fo.SGD(momentum=0.9, **arguments)]
    optimizer = fo.MultiOptimizer(
        fo.OptimizerMap(members[0], {"[bc]": members[1]}),
        global_clipnorm=3.0,
        skip_nonfinite=skip_nonfinite,
    )
    references = [Reference("AdamW", **arguments), Reference("SGD", momentum=0.9, **arguments)]
    for number, reference in enumerate(references):
        reference.build(
            [w for w, owner in zip(weights.values(), owners, strict=True) if owner == number]
        )
    expected = MultiReference(references, owners, 3.0, skip_nonfinite)
    optimizer.build(weights)
    for step in range(6):
        gradients: list[Any] = [
            row_gradient(rng, shape, list(PICKS)[(step + i) % len(PICKS)], np.float32)
            for i, shape in enumerate(shapes)
        ]
        gradients[2] = rng.standard_normal(shapes[2]).astype(np.float32)
        if step == 3 and skip_nonfinite:
            gradients[1] = fo.RowGradient(np.full((1, 64), np.nan), np.array([5]))
        optimizer.apply(dict(zip(names, gradients, strict=True)) if step % 2 else gradients)
        expected.apply(gradients)
        assert repr(optimizer.global_norm) == repr(expected.global_norm)
        assert optimizer.skipped_steps == expected.skipped_steps
    for number, (member, reference) in enumerate(zip(members, references, strict=True)):
        owned = [w for w, owner in zip(weights.values(), owners, strict=True) if owner == number]
        assert_same(member, owned, reference)
