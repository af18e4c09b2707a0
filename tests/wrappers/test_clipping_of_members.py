"""`global_clipnorm` on a `MultiOptimizer` is one norm over the gradients of all its members."""

from __future__ import annotations

import itertools
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from fusedopt import _core
from machine import LEVELS
from reference import Array, MultiReference, Reference
from sample_arrays import DTYPES

SHAPES = [(40, 31), (5,), (), (0, 2), (3000,), (1100,), (2, 3, 4)]
NAMES = "abcdefg"
OWNERS = [0, 1, 1, 0, 0, 1, 2]


def make_variables(dtype: Any = np.float32) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {
        name: np.array(rng.standard_normal(shape), dtype)
        for name, shape in zip(NAMES, SHAPES, strict=True)
    }


def make_gradients(step: int, dtype: Any = np.float32, factor: float = 1.0) -> list[Array | None]:
    rng = np.random.default_rng(100 + step)
    return [np.array(factor * rng.standard_normal(shape), dtype) for shape in SHAPES]


def multi(
    members: list[fo.Optimizer], limit: float | None, factor: float | None = None
) -> fo.MultiOptimizer:
    keys = {name: members[owner] for name, owner in zip(NAMES, OWNERS, strict=True) if owner}
    return fo.MultiOptimizer(fo.OptimizerMap(members[0], keys), factor, global_clipnorm=limit)


def assert_same(one: dict[str, Array], other: dict[str, Array]) -> None:
    for name, array in one.items():
        assert array.tobytes() == other[name].tobytes(), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("limit", [0.5, 1e6])
@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_accumulation_steps": 2}, {"use_ema": True}, {"loss_scale_factor": 64.0}],
    ids=str,
)
@pytest.mark.parametrize("rule", ["AdamW", "SGD", "Lamb", "Muon", "Adafactor"])
def test_equal_members_give_the_bits_of_one_optimizer(
    rule: str, options: dict[str, Any], limit: float, dtype: Any
) -> None:
    cls = getattr(fo, rule)
    scale = options.get("loss_scale_factor")
    weights, others = make_variables(dtype), make_variables(dtype)
    optimizer = multi([cls(**options) for _ in range(3)], limit, scale)
    one = cls(**options, global_clipnorm=limit)
    optimizer.build(weights)
    one.build(others)
    for step in range(5):
        gradients = make_gradients(step, factor=scale or 1.0)
        if step == 3:
            gradients[0] = gradients[5] = None
            for each in (optimizer, one):
                with pytest.warns(UserWarning, match="No gradient"):
                    each.apply(gradients)
        elif step == 4:
            order = [4, 1, 5]
            for each, variables in ((optimizer, weights), (one, others)):
                chosen = [variables[NAMES[i]] for i in order]
                each.apply([gradients[i] for i in order], chosen)
        else:
            optimizer.apply(gradients)
            one.apply(gradients)
        assert optimizer.global_norm == one.global_norm
        if step < 4:  # Then a member has missed a call that the one optimizer has not.
            assert_same(weights, others)
    norm = one.global_norm
    assert norm is not None
    assert (norm > limit) is (limit < 1.0)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("steps", "limit"), [((None, 2, 3), 0.7), ((2, 2, 2), 0.7), ((3, None, None), 20.0)], ids=str
)
@pytest.mark.parametrize("scaled", [False, True])
def test_members_that_accumulate_differently(
    steps: tuple[int | None, ...], limit: float, scaled: bool, level: str, threads: int
) -> None:
    rules = ["AdamW", "SGD", "Nadam"]
    dtypes = [np.float32, np.float64, np.float16]
    weights = {
        name: w.astype(dtypes[owner])
        for (name, w), owner in zip(make_variables().items(), OWNERS, strict=True)
    }
    references = [
        Reference(rule, learning_rate=0.1, gradient_accumulation_steps=count)
        for rule, count in zip(rules, steps, strict=True)
    ]
    for number, reference in enumerate(references):
        reference.build(
            [w for w, owner in zip(weights.values(), OWNERS, strict=True) if owner == number]
        )
    inner = multi(
        [
            getattr(fo, rule)(0.1, gradient_accumulation_steps=count)
            for rule, count in zip(rules, steps, strict=True)
        ],
        limit,
    )
    optimizer: Any = fo.LossScaleOptimizer(inner, initial_scale=1024.0) if scaled else inner
    oracle = MultiReference(references, OWNERS, limit)
    before = _core.level(), fo.get_num_threads()
    _core.set_level(level)
    fo.set_num_threads(threads)
    try:
        optimizer.build(weights)
        for step in range(7):
            scale = optimizer.dynamic_scale if scaled else 1.0
            gradients = make_gradients(step, factor=scale * (step + 1))
            if scaled and step == 4:
                spoilt = list(gradients)
                spoilt[6] = np.full(SHAPES[6], np.inf)
                optimizer.apply(spoilt)
                assert inner.global_norm == oracle.global_norm
                continue
            for reference in references:
                reference.unscale = 1.0 / scale
            optimizer.apply(gradients)
            oracle.apply(gradients)
            assert optimizer.global_norm == oracle.global_norm
            stored = [iter(reference.stored()) for reference in references]
            expected = [next(stored[owner]) for owner in OWNERS]
            assert_same(weights, dict(zip(NAMES, expected, strict=True)))
    finally:
        _core.set_level(before[0])
        fo.set_num_threads(before[1])


def test_only_members_that_update_take_part() -> None:
    a, b = np.zeros(1), np.zeros(1)
    default = fo.SGD(1.0, gradient_accumulation_steps=2)
    optimizer = fo.MultiOptimizer(fo.OptimizerMap(default, {"a": fo.SGD(1.0)}), global_clipnorm=1.0)
    optimizer.build({"a": a, "b": b})
    assert optimizer.global_norm is None
    optimizer.apply([np.array([3.0]), np.array([100.0])])
    assert (optimizer.global_norm, a[0], b[0]) == (3.0, -1.0, 0.0)
    optimizer.apply([np.array([3.0]), np.array([-92.0])])  # the mean is 4
    assert optimizer.global_norm == 5.0
    np.testing.assert_allclose([a[0], b[0]], [-1.6, -0.8])
    optimizer.apply([np.array([7.0])], [b])  # no update in this call
    assert optimizer.global_norm == 5.0
    assert default.global_norm is None


def test_a_norm_that_is_not_finite_shows() -> None:
    a, b = np.zeros(2), np.zeros(2)
    optimizer = fo.MultiOptimizer(fo.OptimizerMap(fo.SGD(1.0), {"a": fo.Adam()}), global_clipnorm=1)
    optimizer.build({"a": a, "b": b})
    optimizer.apply([np.array([np.inf, 0.0]), np.ones(2)])
    assert optimizer.global_norm == np.inf
    assert np.isnan([*a, *b]).all()


def test_a_refused_step_leaves_the_norm() -> None:
    rates = iter([0.5, -1.0])
    optimizer = fo.MultiOptimizer(fo.OptimizerMap(fo.SGD(lambda: next(rates))), global_clipnorm=1.0)
    optimizer.build([np.zeros(1)])
    optimizer.apply([np.array([3.0])])
    with pytest.raises(ValueError, match="learning_rate"):
        optimizer.apply([np.array([5.0])])
    assert optimizer.global_norm == 3.0


@pytest.mark.parametrize("clip", ["clipnorm", "clipvalue", "global_clipnorm"])
def test_a_member_that_clips_besides_is_refused(clip: str) -> None:
    inner = fo.SGD(loss_scale_factor=4.0, **{clip: 1.0})
    with pytest.raises(ValueError, match=f"global_clipnorm: expected .*, found {clip} on"):
        fo.MultiOptimizer(fo.OptimizerMap(fo.SGD(), {"a": inner}), global_clipnorm=1.0)
    assert (inner.loss_scale_factor, inner._core.loss_scale_factor) == (4.0, 4.0)
    fo.MultiOptimizer(fo.OptimizerMap(fo.SGD(), {"a": inner}))


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        *itertools.product(["global_clipnorm"], [0, -1.0, np.nan, np.inf], [ValueError]),
        *itertools.product(["global_clipnorm"], ["1", True, [1.0]], [TypeError]),
        *itertools.product(["skip_nonfinite"], [None, 1, "True"], [TypeError]),
    ],
)
def test_bad_values(argument: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^{argument}: expected"):
        fo.MultiOptimizer(fo.OptimizerMap(fo.SGD()), **{argument: value})


def test_configuration_and_stateless_apply() -> None:
    weights = make_variables()
    plain = multi([fo.Adam(), fo.SGD(), fo.Lion()], None)
    assert not {"global_clipnorm", "skip_nonfinite"} & plain.get_config().keys()
    optimizer = fo.MultiOptimizer(
        fo.OptimizerMap(fo.Adam(), {"[b-d]": fo.SGD()}), global_clipnorm=0.5, skip_nonfinite=True
    )
    again: Any = fo.deserialize(fo.serialize(optimizer))
    assert (again.global_clipnorm, again.skip_nonfinite) == (0.5, True)
    optimizer.build(weights)
    optimizer.apply(make_gradients(0))
    norm = optimizer.global_norm
    gradients = make_gradients(1)
    new, _ = optimizer.stateless_apply(optimizer.variables, gradients, list(weights.values()))
    assert optimizer.global_norm == norm
    optimizer.apply(gradients)
    assert [a.tobytes() for a in new] == [w.tobytes() for w in weights.values()]
