"""`LossScaleOptimizer`: steps that overflow, the scale's growth and bounds, and the optimizer inside."""

from __future__ import annotations

import math
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import OPTIONS
from training import arguments_of, bits, every_dtype


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("size", [1, 70_001])
def test_step_that_overflows_is_skipped(
    options: dict[str, Any], dtype: str, bad: float, size: int
) -> None:
    variables = [np.ones(4), np.ones(size, np.float32)]
    optimizer = fo.LossScaleOptimizer(
        fo.Adam(**options), initial_scale=1024.0, dynamic_growth_steps=5
    )
    optimizer.build(variables)
    good = [np.ones(4, dtype), np.ones(size, dtype)]
    optimizer.apply(good)
    assert (optimizer.step_counter, optimizer.consecutive_skipped_steps) == (1, 0)
    before = [*bits(variables), *bits(optimizer.variables[4:])]
    norm = optimizer.global_norm
    for number, position in enumerate((0, size // 2, size - 1), start=1):
        overflow = [good[0], good[1].copy()]
        overflow[1][position] = bad
        optimizer.apply(overflow)
        assert [*bits(variables), *bits(optimizer.variables[4:])] == before
        assert optimizer.global_norm == norm
        assert optimizer.dynamic_scale == 1024.0 * 0.5**number
        assert (optimizer.step_counter, optimizer.consecutive_skipped_steps) == (0, number)
    optimizer.apply(good)
    assert (optimizer.step_counter, optimizer.consecutive_skipped_steps) == (1, 0)
    assert bits(variables) != before[:2] or "gradient_accumulation_steps" in options


def test_scale_grows_after_good_steps() -> None:
    w = np.zeros(1)
    optimizer = fo.LossScaleOptimizer(
        fo.SGD(learning_rate=1.0), initial_scale=2.0, dynamic_growth_steps=3
    )
    optimizer.build([w])
    seen = []
    for gradient in [1.0] * 4 + [math.inf] + [1.0] * 4:
        optimizer.apply([np.array([gradient])])
        seen.append((optimizer.dynamic_scale, optimizer.step_counter))
    assert seen == [
        *((2.0, 1), (2.0, 2), (4.0, 0), (4.0, 1)),
        *((2.0, 0), (2.0, 1), (2.0, 2), (4.0, 0), (4.0, 1)),
    ]
    # The step that completes the three still divides by the old scale.
    assert w.tolist() == [-(3 / 2 + 1 / 4 + 3 / 2 + 1 / 4)]
    assert [float(v) for v in optimizer.variables[:4]] == [0.0, 0.0, 1.0, 4.0]


def test_scale_grows_in_every_step() -> None:
    optimizer = fo.LossScaleOptimizer(fo.SGD(), initial_scale=1.0, dynamic_growth_steps=1)
    optimizer.build([np.zeros(1)])
    for step in range(1, 5):
        optimizer.apply([np.ones(1)])
        assert (optimizer.dynamic_scale, optimizer.step_counter) == (2.0**step, 0)


@pytest.mark.parametrize("clip", [{}, {"global_clipnorm": 1.0}, {"gradient_accumulation_steps": 2}])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_float64_gradient_that_float32_cannot_hold(dtype: str, clip: dict[str, Any]) -> None:
    w = np.ones(3, dtype)
    optimizer = fo.LossScaleOptimizer(fo.SGD(learning_rate=1e-38, **clip), initial_scale=1024.0)
    optimizer.build([w])
    optimizer.apply([np.array([1e40, 0.0, 1.0])])  # 1e37 unscaled
    assert optimizer.dynamic_scale == 1024.0
    optimizer.apply([np.array([1e150, 0.0, 1.0])])
    assert np.isfinite(w).all()
    assert optimizer.dynamic_scale == (1024.0 if dtype == "float64" else 512.0)
    assert optimizer.inner_optimizer.variables[0] == (2 if dtype == "float64" else 1)


@pytest.mark.parametrize(
    ("bound", "gradient"),
    [(2.0**127, 2.0**100), (2.0**-126, math.inf), (2.0**-126, math.nan)],
    ids=["largest", "smallest", "nan"],
)
def test_scale_stays_in_its_bounds(bound: float, gradient: float) -> None:
    start = 2.0**125 if bound > 1 else 2.0**-124
    optimizer = fo.LossScaleOptimizer(fo.SGD(), initial_scale=start, dynamic_growth_steps=1)
    optimizer.build([np.zeros(4, np.float32)])
    seen = []
    for _ in range(6):
        optimizer.apply([np.full(4, gradient)])
        seen.append(optimizer.dynamic_scale)
        assert optimizer.step_counter == 0
    assert seen == [(start * bound) ** 0.5] + [bound] * 5


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_accumulation_steps": 2},
        {"clipnorm": 1e30},
        {"clipnorm": 0.125},
        {"global_clipnorm": 0.125},
        {"global_clipnorm": 0.125, "gradient_accumulation_steps": 2},
        {"clipvalue": 1.25},
    ],
    ids=str,
)
@pytest.mark.parametrize("gradient_dtype", ["float32", "float64"])
@every_dtype
@pytest.mark.parametrize("scale", [2.0**127, 2.0**-126], ids=["largest", "smallest"])
def test_gradients_at_the_bounds_of_the_scale(
    scale: float, dtype: str, gradient_dtype: str, options: dict[str, Any]
) -> None:
    w = np.zeros(40, dtype)
    optimizer = fo.LossScaleOptimizer(fo.SGD(learning_rate=1.0, **options), initial_scale=scale)
    optimizer.build([w])
    truth = np.linspace(1.0, 1.5, 40, dtype=np.float32).astype(np.float64)
    scaled = (truth * scale).astype(gradient_dtype)
    assert np.array_equal(scaled / np.float64(scale), truth)
    for _ in range(options.get("gradient_accumulation_steps", 1)):
        optimizer.apply([scaled])
    assert optimizer.iterations == 1
    limit = options.get("clipnorm", options.get("global_clipnorm", math.inf))
    expected = truth * min(1.0, limit / np.linalg.norm(truth))
    expected = np.minimum(expected, options.get("clipvalue", math.inf))
    np.testing.assert_allclose(w, -expected, rtol=3e-7 if dtype == "float32" else 1e-14)


@pytest.mark.parametrize("steps", [None, 2])
@pytest.mark.parametrize("exponent", [-126, -125, 0, 126, 127])
def test_unscaling_is_exact_at_both_ends(exponent: int, steps: int | None) -> None:
    w = np.zeros(3, np.float32)
    scale = 2.0**exponent
    inner = fo.SGD(learning_rate=1.0, gradient_accumulation_steps=steps)
    optimizer = fo.LossScaleOptimizer(inner, initial_scale=scale)
    optimizer.build([w])
    for _ in range(steps or 1):
        optimizer.apply([np.array([1.0, 1.5, -1.0], np.float32) * np.float32(scale)])
    assert w.tolist() == [-1.0, -1.5, 1.0]


def test_unscaled_gradient_may_be_the_smallest_normal_number() -> None:
    w = np.zeros(3, np.float32)
    optimizer = fo.LossScaleOptimizer(fo.SGD(learning_rate=1.0), initial_scale=2.0**127)
    optimizer.build([w])
    optimizer.apply([np.array([2.0, -3.0, 2.0**24], np.float32)])
    assert w.tolist() == [-(2.0**-126), 1.5 * 2.0**-126, -(2.0**-103)]


def test_loss_scale_takes_over_the_factor() -> None:
    w = np.zeros(1)
    inner = fo.SGD(learning_rate=1.0, loss_scale_factor=100.0)
    optimizer = fo.LossScaleOptimizer(inner, initial_scale=4.0)
    assert inner.loss_scale_factor is None
    assert inner.get_config()["loss_scale_factor"] is None
    assert inner.scale_loss(3.0) == 3.0
    optimizer.build([w])
    optimizer.apply([np.array([8.0])])
    assert w.tolist() == [-2.0]


def test_wrapper_and_inner_optimizer_are_one() -> None:
    w = np.zeros(2)
    inner = fo.Adam(global_clipnorm=1.0)
    optimizer = fo.LossScaleOptimizer(inner, initial_scale=2.0)
    assert optimizer.inner_optimizer is inner
    optimizer.build({"w": w})
    assert inner.built
    optimizer.apply({"w": np.array([6.0, 8.0])})
    assert inner.iterations == optimizer.iterations == 1
    assert inner.global_norm == optimizer.global_norm == 5.0
    optimizer.learning_rate = 0.5
    assert inner.learning_rate == 0.5
    assert bits(optimizer.variables[4:]) == bits(inner.variables)


def test_wrapper_around_a_built_optimizer() -> None:
    w = np.zeros(1)
    inner = fo.SGD(learning_rate=1.0)
    inner.build([w])
    inner.apply([np.ones(1)])
    optimizer = fo.LossScaleOptimizer(inner, initial_scale=4.0)
    assert optimizer.built
    optimizer.apply([np.full(1, 4.0)])
    assert w.tolist() == [-2.0]
    assert optimizer.iterations == 2


def test_scale_counts_micro_steps() -> None:
    w = np.zeros(1)
    inner = fo.SGD(learning_rate=1.0, gradient_accumulation_steps=2)
    optimizer = fo.LossScaleOptimizer(inner, initial_scale=2.0, dynamic_growth_steps=3)
    optimizer.build([w])
    for gradient in (2.0, math.inf, 2.0):  # the skipped one stretches the cycle
        assert w.tolist() == [0.0]
        optimizer.apply([np.array([gradient])])
    assert w.tolist() == [-(2 / 2 + 2 / 1) / 2]
    assert optimizer.step_counter == 1


def test_missing_gradients_count_as_finite() -> None:
    w, x = np.zeros(1), np.zeros(1)
    optimizer = fo.LossScaleOptimizer(fo.SGD(learning_rate=1.0), initial_scale=2.0)
    optimizer.build([w, x])
    with pytest.warns(UserWarning, match="variable 0"):
        optimizer.apply([None, np.full(1, 2.0)])
    assert (optimizer.step_counter, w.tolist(), x.tolist()) == (1, [0.0], [-1.0])


# Arguments


BASE_ARGUMENTS: dict[str, tuple[Any, Any]] = {
    "weight_decay": (None, 0.1),
    "clipnorm": (None, 1.0),
    "clipvalue": (None, 1.0),
    "global_clipnorm": (None, 1.0),
    "use_ema": (False, True),
    "ema_momentum": (0.99, 0.9),
    "ema_overwrite_frequency": (None, 2),
    "loss_scale_factor": (None, 2.0),
    "gradient_accumulation_steps": (None, 2),
    "skip_nonfinite": (False, True),
    "row_updates": ("lazy", "caught_up"),
    "slot_dtype": ("float32", "float8"),
    "slot_dtypes": (None, {"w": "float8"}),
    "seed": (0, 5),
    "master": (True, False),
}


@pytest.mark.parametrize("name", BASE_ARGUMENTS)
def test_base_arguments_of_loss_scale_optimizer(name: str) -> None:
    default, other = BASE_ARGUMENTS[name]
    fo.LossScaleOptimizer(fo.Adam(), **{name: default})
    inner = fo.Adam(loss_scale_factor=4.0)
    with pytest.raises(ValueError, match=f"{name}: expected on the inner optimizer") as caught:
        fo.LossScaleOptimizer(inner, **{name: other})
    assert repr(other) in str(caught.value)
    assert inner.loss_scale_factor == 4.0


def test_base_arguments_are_all_covered() -> None:
    own = set(arguments_of(fo.SGD)) - {"learning_rate", "momentum", "nesterov", "name"}
    assert own == set(BASE_ARGUMENTS)


def test_refused_loss_scale_optimizer_leaves_the_inner_one_as_it_was() -> None:
    w = np.ones(2)
    inner = fo.SGD(learning_rate=1.0, loss_scale_factor=4.0)
    inner.build([w])
    with pytest.raises(ValueError, match="initial_scale"):
        fo.LossScaleOptimizer(inner, initial_scale=0.0)
    assert inner.scale_loss(1.0) == 4.0
    inner.apply([np.array([4.0, 2.0])])
    assert w.tolist() == [0.0, 0.5]
