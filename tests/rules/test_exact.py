"""The library against the NumPy reference: equal to the last bit, at every level and thread count."""

from __future__ import annotations

import functools
from itertools import product
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import CASES, OPTIONS, RULES, VARIANTS, Case
from fusedopt import _core
from machine import LEVELS
from reference import Array, Reference, ScaledReference
from sample_arrays import NAMED_DTYPES, same_bits
from selection import first

pytestmark = pytest.mark.usefixtures("restore_runtime")

SIZES = [0, 1, 15, 1023, 1025, 5000]
STEPS = 7


def offset(values: Array, elements: int) -> Array:
    """Return a copy whose memory begins `elements` after an aligned address."""
    memory = np.empty(values.size + elements + 64, values.dtype)
    start = (-memory.ctypes.data // values.itemsize) % (64 // values.itemsize) + elements
    view = memory[start : start + values.size].reshape(values.shape)
    view[...] = values
    return view


def make_variables(dtype: np.dtype[Any], seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    flat = [offset(rng.standard_normal(size).astype(dtype), i % 4) for i, size in enumerate(SIZES)]
    return [
        *flat,
        np.array(rng.standard_normal(), dtype),
        rng.standard_normal((7, 5, 3)).astype(dtype),
        rng.standard_normal((20, 31)).astype(dtype),
        rng.standard_normal((70, 9)).astype(dtype),
        np.empty((0, 4), dtype),
    ]


@functools.cache
def make_gradients(dtype: np.dtype[Any], seed: int, factor: float) -> list[Array]:
    """Return gradients that nobody may write, and that all tests share."""
    rng = np.random.default_rng(1000 + seed)
    grads = [
        offset((rng.standard_normal(w.shape) * factor).astype(dtype).reshape(w.shape), seed % 3)
        for w in make_variables(dtype)
    ]
    for g in grads:
        g.flags.writeable = False
    return grads


def gradients_of_step(dtype: np.dtype[Any], step: int, factor: float) -> list[Array | None]:
    """Gradients of a step; one variable has none in some steps."""
    grads: list[Array | None] = [*make_gradients(dtype, step, factor)]
    if step in (2, 4):
        grads[3] = None
    return grads


def assert_equal(optimizer: fo.Optimizer, variables: list[Array], reference: Reference) -> None:
    for i, (mine, expected) in enumerate(zip(variables, reference.stored(), strict=True)):
        assert same_bits(mine, expected), f"variable {i}"
    state = optimizer.variables
    expected_state = reference.variables()
    assert len(state) == len(expected_state)
    for i, (mine, expected) in enumerate(zip(state, expected_state, strict=True)):
        assert same_bits(mine, expected), f"optimizer variable {i}"
    assert optimizer.global_norm == reference.global_norm


def run(case: Case, variable_dtype: str, gradient_dtype: str, levels: list[str]) -> None:
    factor = case.arguments.get("loss_scale_factor", 1.0)
    initial = make_variables(NAMED_DTYPES[variable_dtype])
    reference = Reference(case.rule, **case.arguments)
    reference.build(initial, excluded=(4,))
    for step in range(STEPS):
        reference.apply(gradients_of_step(NAMED_DTYPES[gradient_dtype], step, factor))
    for level in levels:
        _core.set_level(level)
        variables = make_variables(NAMED_DTYPES[variable_dtype])
        optimizer = getattr(fo, case.rule)(**case.arguments)
        optimizer.exclude_from_weight_decay([variables[4]])
        optimizer.build(variables)
        for step in range(STEPS):
            grads = gradients_of_step(NAMED_DTYPES[gradient_dtype], step, factor)
            if any(g is None for g in grads):
                with pytest.warns(UserWarning, match="No gradient for variable 3"):
                    optimizer.apply(grads)
            else:
                optimizer.apply(grads)
        assert_equal(optimizer, variables, reference)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_rule_and_option(case: Case, dtype: str) -> None:
    run(case, dtype, dtype, LEVELS)


def with_pairs_of_dtypes(*options: str) -> pytest.MarkDecorator:
    """Every option on every pair of dtypes, of which some are left to maintainers.

    The others are every pair with the option that uses every stage, and every option on equal dtypes.
    """
    parameters = []
    for option, variable_dtype, gradient_dtype in product(options, NAMED_DTYPES, NAMED_DTYPES):
        tells = option == "accumulation_everything" or variable_dtype == gradient_dtype
        marks = () if tells else pytest.mark.maintainer
        parameters.append(pytest.param(option, variable_dtype, gradient_dtype, marks=marks))
    return pytest.mark.parametrize(("option", "variable_dtype", "gradient_dtype"), parameters)


@with_pairs_of_dtypes("plain", "everything", "accumulation_everything")
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_pair_of_dtypes(
    variant: Case, option: str, variable_dtype: str, gradient_dtype: str
) -> None:
    case = Case(variant.rule, {**variant.arguments, **OPTIONS[option]}, str(variant))
    run(case, variable_dtype, gradient_dtype, LEVELS)


@pytest.mark.parametrize("dtype", first(1, ["float32", "float16", "float64"]))
def test_matrices_of_adafactor_in_several_blocks(dtype: str) -> None:
    # More columns than a tile; more rows than a block; both; more columns than a block; stacks; few columns.
    shapes = [
        (3, 2500),
        (66, 5000),
        (66, 16500),
        (70, 1025),
        (200, 700),
        (3, 2, 40, 90),
        (9000, 17),
        (70000, 1),
        (1, 1),
    ]
    rng = np.random.default_rng(6)
    initial = [rng.standard_normal(shape).astype(NAMED_DTYPES[dtype]) for shape in shapes]
    grads = [
        [rng.standard_normal(shape).astype(NAMED_DTYPES[dtype]) for shape in shapes]
        for _ in range(2)
    ]
    arguments = {"weight_decay": 0.02, "global_clipnorm": 100.0, "use_ema": True}
    reference = Reference("Adafactor", **arguments)
    reference.build(initial)
    for g in grads:
        reference.apply(list(g))
    for threads, level in product((1, 2, 3), LEVELS):
        fo.set_num_threads(threads)
        _core.set_level(level)
        variables = [w.copy() for w in initial]
        optimizer = fo.Adafactor(**arguments)
        optimizer.build(variables)
        for g in grads:
            optimizer.apply(g)
        assert_equal(optimizer, variables, reference)


@functools.cache
def large_arrays() -> list[list[Array]]:
    """Variables and the gradients of four steps, just enough work for seven threads."""
    rng = np.random.default_rng(5)
    shapes = [(60_001,), (3,), (300, 411), (1024,), (50_000,)]
    return [[rng.standard_normal(shape).astype(np.float32) for shape in shapes] for _ in range(5)]


@pytest.mark.parametrize("option", first(1, ["accumulation_everything", "everything", "plain"]))
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_threads_do_not_change_a_bit(variant: Case, option: str) -> None:
    arguments = {**variant.arguments, **OPTIONS[option]}
    initial, *grads = large_arrays()
    reference = Reference(variant.rule, **arguments)
    reference.build(initial)
    for g in grads:
        reference.apply(list(g))
    for threads in (1, 2, 3, 7):
        fo.set_num_threads(threads)
        variables = [w.copy() for w in initial]
        optimizer = getattr(fo, variant.rule)(**arguments)
        optimizer.build(variables)
        for g in grads:
            optimizer.apply(g)
        assert_equal(optimizer, variables, reference)


@with_pairs_of_dtypes("plain", "global_clipnorm", "ema_overwrite", "accumulation_everything")
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_loss_scale(variant: Case, option: str, variable_dtype: str, gradient_dtype: str) -> None:
    arguments = {**variant.arguments, **OPTIONS[option]}
    arguments.pop("loss_scale_factor", None)
    initial = make_variables(NAMED_DTYPES[variable_dtype])
    reference = ScaledReference(Reference(variant.rule, **arguments), 256.0, 3)
    reference.inner.build(initial)
    variables = make_variables(NAMED_DTYPES[variable_dtype])
    optimizer = fo.LossScaleOptimizer(
        getattr(fo, variant.rule)(**arguments), initial_scale=256.0, dynamic_growth_steps=3
    )
    optimizer.build(variables)
    for step in range(10):
        grads = [*make_gradients(NAMED_DTYPES[gradient_dtype], step, 256.0)]
        if step in (1, 6):
            grads[5] = grads[5].copy()
            grads[5][(1777 * step) % 5000] = [np.inf, np.nan][step % 2]
        reference.apply(list(grads))
        optimizer.apply(grads)
        assert optimizer.dynamic_scale == reference.scale
        assert optimizer.step_counter == reference.counter
        assert optimizer.consecutive_skipped_steps == reference.skipped
    assert_equal(optimizer.inner_optimizer, variables, reference.inner)


@pytest.mark.parametrize("scale", [2.0**-126, 2.0**-100, 2.0**100, 2.0**127])
@pytest.mark.parametrize("option", ["plain", "accumulation"])
def test_extreme_scales_lose_nothing(scale: float, option: str) -> None:
    """The reciprocal of 2**127 is subnormal in float32, but gradients are unscaled all the same."""
    w = np.zeros(2000, np.float32)
    true_gradient = np.linspace(1.0, 1.99, w.size).astype(np.float32)
    optimizer = fo.LossScaleOptimizer(
        fo.SGD(learning_rate=1.0, **OPTIONS[option]), initial_scale=scale
    )
    optimizer.build([w])
    for _ in range(OPTIONS[option].get("gradient_accumulation_steps", 1)):
        optimizer.apply([(true_gradient * np.float64(scale)).astype(np.float32)])
    np.testing.assert_allclose(w, -true_gradient, rtol=3e-7)


def test_reference_knows_every_rule() -> None:
    rules = {cls.__name__ for cls in all_subclasses(fo.Optimizer)}
    rules -= {"RuleOptimizer", "LossScaleOptimizer", "MultiOptimizer", "Sharded"}
    assert set(RULES) == rules, "tests/reference and the package's rules differ"


def all_subclasses(cls: type) -> set[type]:
    own = {sub for sub in cls.__subclasses__() if sub.__module__.startswith("fusedopt.")}
    return own.union(*(all_subclasses(sub) for sub in own))
