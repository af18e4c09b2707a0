"""`skip_nonfinite`: a step with a NaN or an infinity in a gradient changes nothing but a count."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import CASES, OPTIONS, RULES, Case
from reference import Array, MultiReference, Reference
from sample_arrays import DTYPES

SHAPES = [(), (1,), (0, 3), (40, 31), (5,), (1100,), (2, 3, 4)]
BAD = [np.nan, np.inf, -np.inf]


def make_variables(dtype: Any = np.float32) -> list[Array]:
    rng = np.random.default_rng(0)
    return [np.array(rng.standard_normal(shape), dtype) for shape in SHAPES]


def make_gradients(step: int, dtype: Any = np.float32) -> list[Array]:
    rng = np.random.default_rng(100 + step)
    return [np.array(rng.standard_normal(shape), dtype) for shape in SHAPES]


def with_bad(gradients: list[Array], value: float, position: int, where: int = -1) -> list[Array]:
    bad = [g.copy() for g in gradients]
    bad[position].ravel()[where] = value
    return bad


def everything(optimizer: fo.Optimizer, variables: list[Array]) -> list[bytes]:
    """Return all that a step can change, but for the count."""
    state = [value for name, value in optimizer._core.state() if "skipped_steps" not in name]
    return [a.tobytes() for a in (*variables, *state)]


def make(case: Case, **more: Any) -> fo.Optimizer:
    return getattr(fo, case.rule)(**{**case.arguments, **more})


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_skipped_step_changes_nothing_but_the_count(case: Case) -> None:
    variables, others = make_variables(), make_variables()
    guarded, plain = make(case, skip_nonfinite=True), make(case)
    guarded.build(variables)
    plain.build(others)
    for step in range(5):
        gradients = make_gradients(step)
        before = everything(guarded, variables), guarded.global_norm
        position = (0, 1, 3, 5, 6)[step]
        guarded.apply(with_bad(gradients, BAD[step % 3], position))
        assert (everything(guarded, variables), guarded.global_norm) == before
        assert guarded.skipped_steps == step + 1
        guarded.apply(gradients)
        plain.apply(gradients)
        assert [a.tobytes() for a in variables] == [a.tobytes() for a in others]
    assert everything(guarded, variables) == everything(plain, others)
    assert guarded.iterations == plain.iterations
    assert (guarded.skipped_steps, plain.skipped_steps) == (5, 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("of_gradient", DTYPES, ids=str)
@pytest.mark.parametrize("options", ["plain", "clipnorm", "global_clipnorm", "accumulation"])
def test_every_dtype(dtype: Any, of_gradient: Any, options: str) -> None:
    variables = make_variables(dtype)
    optimizer = fo.Adam(**OPTIONS[options], skip_nonfinite=True)
    optimizer.build(variables)
    for step in range(3):
        optimizer.apply(make_gradients(step, of_gradient))
        before = everything(optimizer, variables)
        for position, where in [(0, 0), (3, 0), (3, 1025), (5, 1099)]:
            for value in BAD:
                bad = with_bad(make_gradients(step, of_gradient), value, position, where)
                optimizer.apply(bad)
                optimizer.apply([g if g.ndim != 2 else np.asfortranarray(g) for g in bad])
        assert everything(optimizer, variables) == before
    assert optimizer.skipped_steps == 3 * 4 * 3 * 2


def test_only_some_gradients() -> None:
    variables = make_variables()
    optimizer = fo.SGD(1.0, skip_nonfinite=True)
    optimizer.build(variables)
    nan = np.full(5, np.nan, np.float32)
    before = everything(optimizer, variables)
    optimizer.apply([nan], [variables[4]])
    with pytest.warns(UserWarning, match="No gradient"):
        optimizer.apply([None, None, None, None, nan, None, None])
    assert optimizer.apply_gradients([(nan, variables[4])]) == 0
    assert everything(optimizer, variables) == before
    optimizer.apply([])
    assert optimizer.skipped_steps == 3
    optimizer.apply([make_gradients(0)[1]], [variables[1]])
    assert (optimizer.iterations, optimizer.skipped_steps) == (1, 3)


def test_what_float32_cannot_hold_counts_as_infinite_after_unscaling() -> None:
    for factor, skipped in [(None, 1), (1e30, 0), (1e-30, 1)]:
        for dtype, expected in [(np.float32, skipped), (np.float64, 0)]:
            optimizer = fo.SGD(1e-9, loss_scale_factor=factor, skip_nonfinite=True)
            optimizer.build([np.zeros(2, dtype)])
            optimizer.apply([np.array([1e39, 0.0])])
            assert optimizer.skipped_steps == expected


def test_without_the_option_a_nan_shows() -> None:
    w = np.ones(2)
    optimizer = fo.SGD(1.0)
    optimizer.build([w])
    optimizer.apply([np.array([np.nan, 1.0])])
    assert np.isnan(w[0])
    assert (optimizer.iterations, optimizer.skipped_steps) == (1, 0)


def test_a_skipped_step_calls_no_function_and_refuses_first() -> None:
    calls = []

    def rate() -> float:
        calls.append("rate")
        return -1.0

    w = np.ones(2)
    optimizer = fo.Adam(rate, beta_1=lambda: calls.append("beta") or 0.9, skip_nonfinite=True)
    optimizer.build([w])
    optimizer.apply([np.array([np.nan, 1.0])])
    assert calls == []
    with pytest.raises(ValueError, match="expected shape"):
        optimizer.apply([np.full(3, np.nan)])
    with pytest.raises(ValueError, match="learning_rate"):
        optimizer.apply([np.ones(2)])
    assert optimizer.skipped_steps == 1
    assert w.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("rule", RULES)
def test_configuration_and_stateless_apply(rule: str) -> None:
    optimizer = getattr(fo, rule)(skip_nonfinite=True)
    assert optimizer.get_config() == getattr(fo, rule)().get_config() | {"skip_nonfinite": True}
    again = fo.deserialize(fo.serialize(optimizer))
    assert again.skip_nonfinite is True
    assert fo.deserialize(fo.serialize(getattr(fo, rule)())).skip_nonfinite is False
    variables = make_variables()
    optimizer.build(variables)
    optimizer.apply(make_gradients(0))
    before = everything(optimizer, variables)
    bad = with_bad(make_gradients(1), np.inf, 3)
    new, state = optimizer.stateless_apply(optimizer.variables, bad, variables)
    assert [a.tobytes() for a in new] == [a.tobytes() for a in variables]
    assert [a.tobytes() for a in state] == [a.tobytes() for a in optimizer.variables]
    assert (everything(optimizer, variables), optimizer.skipped_steps) == (before, 0)


def members(guard: bool) -> fo.OptimizerMap:
    return fo.OptimizerMap(
        fo.SGD(0.1, skip_nonfinite=guard), {"a": fo.Adam(), "b": fo.Lamb(skip_nonfinite=guard)}
    )


MAKERS: dict[str, Callable[[], Any]] = {
    "alone": lambda: fo.Nadam(skip_nonfinite=True),
    "members": lambda: fo.MultiOptimizer(members(True)),
    "multi": lambda: fo.MultiOptimizer(members(False), skip_nonfinite=True),
    "scaled": lambda: fo.LossScaleOptimizer(fo.Nadam(skip_nonfinite=True)),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_the_count_is_part_of_the_complete_state(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    named = dict(zip("abc", ([np.ones(3), np.ones(2), np.ones(4)]), strict=True))
    optimizer, other = MAKERS[kind](), MAKERS[kind]()
    optimizer.build(named)
    other.build({name: w.copy() for name, w in named.items()})
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    good = {name: np.ones(w.size) for name, w in named.items()}
    for _ in range(3):
        inner.apply(good | {"b": np.array([1.0, np.nan])})
    optimizer.apply(good)
    optimizer.save(tmp_path / "state")
    other.load(tmp_path / "state")
    loaded = getattr(other, "inner_optimizer", other)
    assert loaded.skipped_steps == inner.skipped_steps == 3
    assert [a.tobytes() for _, a in other._core.state()] == [
        a.tobytes() for _, a in optimizer._core.state()
    ]
    assert "skipped_steps" not in optimizer.named_variables()
    values = [np.array(a) for _, a in optimizer._core.state()]
    names = [name for name, _ in optimizer._core.state()]
    position = next(
        k
        for k, name in enumerate(names)
        if name.endswith("skipped_steps") and "consecutive" not in name
    )
    values[position][...] = -1
    with pytest.raises(ValueError, match="skipped_steps"):
        other._core.set_state(values)
    assert loaded.skipped_steps == 3


@pytest.mark.parametrize("kind", ["alone", "multi"])
def test_without_the_option_the_state_is_what_it_was(kind: str) -> None:
    optimizer = fo.SGD() if kind == "alone" else fo.MultiOptimizer(members(False))
    optimizer.build({"a": np.ones(2), "b": np.ones(2)})
    assert not [name for name, _ in optimizer._core.state() if "skipped_steps" in name]


def test_under_a_loss_scale_the_wrapper_decides_and_counts() -> None:
    w = np.ones(2, np.float32)
    inner = fo.SGD(1.0, skip_nonfinite=True)
    optimizer = fo.LossScaleOptimizer(inner, initial_scale=8.0)
    optimizer.build([w])
    before = [a.tobytes() for _, a in inner._core.state()]
    optimizer.apply([np.array([np.inf, 0.0])])
    assert (optimizer.dynamic_scale, optimizer.consecutive_skipped_steps) == (4.0, 1)
    assert [a.tobytes() for _, a in inner._core.state()] == before
    assert inner.skipped_steps == 0
    with pytest.raises(AttributeError, match="consecutive_skipped_steps"):
        _ = optimizer.skipped_steps
    multi = fo.MultiOptimizer(members(True), skip_nonfinite=True)
    optimizer = fo.LossScaleOptimizer(multi)
    optimizer.build({"a": np.ones(2), "b": np.ones(2)})
    optimizer.apply([np.array([np.inf, 0.0]), np.ones(2)])
    assert optimizer.consecutive_skipped_steps == 1
    assert [multi.skipped_steps, *(m.skipped_steps for m in multi.optimizers)] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("guards", "whole", "bad", "is_skipped"),
    [
        ((False, True), False, 1, True),
        ((False, True), False, 0, False),
        ((True, True), False, 0, True),
        ((False, False), True, 0, True),
        ((False, False), False, 0, False),
        ((True, False), True, 1, True),
    ],
)
def test_members_skip_together(
    guards: tuple[bool, bool], whole: bool, bad: int, is_skipped: bool
) -> None:
    variables = dict(zip("ab", make_variables()[3:5], strict=True))
    made = [
        fo.Adam(use_ema=True, skip_nonfinite=guards[0]),
        fo.SGD(0.1, gradient_accumulation_steps=2, skip_nonfinite=guards[1]),
    ]
    optimizer = fo.MultiOptimizer(fo.OptimizerMap(made[1], {"a": made[0]}), skip_nonfinite=whole)
    optimizer.build(variables)
    references = [
        Reference("Adam", use_ema=True, skip_nonfinite=guards[0]),
        Reference(
            "SGD", learning_rate=0.1, gradient_accumulation_steps=2, skip_nonfinite=guards[1]
        ),
    ]
    for reference, w in zip(references, variables.values(), strict=True):
        reference.build([w])
    oracle = MultiReference(references, [0, 1], skip_nonfinite=whole)
    for step in range(4):
        gradients: list[Array | None] = [*make_gradients(step)[3:5]]
        optimizer.apply(gradients)
        oracle.apply(gradients)
    before = everything(optimizer, list(variables.values()))
    spoilt = list(gradients)
    spoilt[bad] = np.full_like(spoilt[bad], np.nan)
    optimizer.apply(spoilt)
    assert (everything(optimizer, list(variables.values())) == before) is is_skipped
    if is_skipped:
        oracle.apply(spoilt)
        optimizer.apply(gradients)
        oracle.apply(gradients)
        for w, reference in zip(variables.values(), references, strict=True):
            assert w.tobytes() == reference.stored()[0].tobytes()
    assert optimizer.skipped_steps == oracle.skipped_steps == is_skipped
    assert [m.skipped_steps for m in made] == [is_skipped and guard for guard in guards]


def test_a_member_that_is_not_in_the_call_counts_nothing() -> None:
    a, b = np.ones(2), np.ones(2)
    made = fo.SGD(skip_nonfinite=True), fo.SGD(skip_nonfinite=True)
    optimizer = fo.MultiOptimizer(fo.OptimizerMap(made[1], {"a": made[0]}))
    optimizer.build({"a": a, "b": b})
    optimizer.apply({"a": np.array([1.0, np.nan])})
    assert [optimizer.skipped_steps, *(m.skipped_steps for m in made)] == [1, 1, 0]
