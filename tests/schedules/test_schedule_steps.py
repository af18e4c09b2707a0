"""The steps that a schedule takes: whole and negative ones, arrays and other numbers."""

from __future__ import annotations

import math
from typing import Any

import fusedopt as fo
import ml_dtypes
import numpy as np
import pytest

schedules = fo.schedules

SCHEDULES: dict[str, Any] = {
    "exponential": schedules.ExponentialDecay(0.5, 10, 0.25),
    "exponential, staircase": schedules.ExponentialDecay(0.5, 10, 0.25, staircase=True),
    "inverse time": schedules.InverseTimeDecay(0.5, 10, 0.7),
    "inverse time, staircase": schedules.InverseTimeDecay(0.5, 10, 0.7, staircase=True),
    "polynomial": schedules.PolynomialDecay(0.5, 10, 0.1, power=2.0),
    "polynomial, fraction": schedules.PolynomialDecay(0.5, 10, 0.1, power=0.7),
    "polynomial, cycle": schedules.PolynomialDecay(0.5, 10, 0.1, power=2.0, cycle=True),
    "polynomial, cycle, fraction": schedules.PolynomialDecay(0.5, 10, 0.1, power=0.7, cycle=True),
    "piecewise": schedules.PiecewiseConstantDecay([3, 7], [0.5, 0.25, 0.125]),
    "piecewise, negative": schedules.PiecewiseConstantDecay([-7, 7], [0.5, 0.25, 0.125]),
    "cosine": schedules.CosineDecay(0.5, 10, alpha=0.1),
    "cosine, warm-up": schedules.CosineDecay(0.1, 10, warmup_target=0.5, warmup_steps=8),
    "cosine, no warm-up": schedules.CosineDecay(0.1, 10, warmup_target=0.5, warmup_steps=0),
    "restarts": schedules.CosineDecayRestarts(0.5, 10, m_mul=0.9, alpha=0.1),
    "restarts, even": schedules.CosineDecayRestarts(0.5, 10, t_mul=1.0, m_mul=0.9, alpha=0.1),
    "restarts, shrinking": schedules.CosineDecayRestarts(0.5, 10, t_mul=0.5, m_mul=0.9),
}

# Keras 3.15.1 on the NumPy backend, at each of STEPS.
STEPS = [-1, -5, -10, -15, -1000]
KERAS: dict[str, list[float]] = {
    "exponential": [0.574349, 1, 2, 4, math.inf],
    "exponential, staircase": [2, 2, 2, 8, math.inf],
    "inverse time": [0.537634, 0.769231, 1.66667, -10, -0.00724638],
    "inverse time, staircase": [1.66667, 1.66667, 1.66667, -1.25, -0.00724638],
    "polynomial": [0.584, 1, 1.7, 2.6, 4080.5],
    "polynomial, fraction": [0.527597, 0.631281, 0.749802, 0.859658, 10.2178],
    "polynomial, cycle": [math.inf, math.inf, 0.1, 0.2, 0.1],
    "polynomial, cycle, fraction": [math.inf, math.inf, 0.1, math.nan, 0.1],
    "piecewise": [0.5, 0.5, 0.5, 0.5, 0.5],
    "piecewise, negative": [0.25, 0.25, 0.5, 0.5, 0.5],
    "cosine": [0.488988, 0.275, 0.05, 0.275, 0.5],
    "cosine, warm-up": [0.05, -0.15, -0.4, -0.65, -49.9],
    "cosine, no warm-up": [-math.inf, -math.inf, -math.inf, -math.inf, -math.inf],
    "restarts": [0.0977457, 0.55, math.nan, math.nan, math.nan],
    "restarts, even": [0.0622359, 0.3, 0.55, 0.327778, 16942],
    "restarts, shrinking": [0.0034199, 0.0813592, 0.277778, 0.474196, 0.606975],
}

every_schedule = pytest.mark.parametrize("name", SCHEDULES)


@every_schedule
def test_steps_below_zero(name: str) -> None:
    found = [SCHEDULES[name](step) for step in STEPS]
    with np.errstate(over="ignore"):  # Keras computes in float32
        in_float32 = np.array(found, np.float32)
    np.testing.assert_allclose(in_float32, KERAS[name], rtol=2e-5, atol=1e-7)
    assert all(type(rate) is float for rate in found)


@every_schedule
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_steps_below_zero_against_keras(name: str) -> None:
    keras = pytest.importorskip("keras")
    theirs = keras.optimizers.schedules.deserialize(schedules.serialize(SCHEDULES[name]))
    for step in [*STEPS, -7, -20, 0, 3, 8]:
        expected = float(theirs(np.float32(step)))
        np.testing.assert_allclose(
            np.float32(SCHEDULES[name](step)), expected, rtol=2e-5, atol=1e-7
        )


def test_a_warm_up_of_ones_own() -> None:
    """np.where evaluates both branches, also where the step has not come to the second one."""
    after = schedules.CosineDecayRestarts(0.5, 10)

    class WarmUp(schedules.LearningRateSchedule):
        def __call__(self, step: int) -> float:
            return float(np.where(step < 50, 0.01 * step, after(step - 50)))

    optimizer = fo.SGD(learning_rate=WarmUp())
    optimizer.build([np.ones(3)])
    assert optimizer.learning_rate == 0.0
    for _ in range(50):
        optimizer.apply([np.ones(3)])
    assert optimizer.learning_rate == 0.5


def test_a_rate_that_is_none_is_refused_by_the_step() -> None:
    class Shifted(schedules.LearningRateSchedule):
        def __call__(self, step: int) -> float:
            return float(SCHEDULES["restarts"](step - 1000))

    w = np.ones(3)
    optimizer = fo.SGD(learning_rate=Shifted())
    optimizer.build([w])
    with pytest.raises(ValueError, match="^learning_rate: expected a finite number >= 0, found "):
        optimizer.apply([np.ones(3)])
    assert (w == 1).all()
    assert optimizer.iterations == 0


@every_schedule
@pytest.mark.parametrize(
    "step",
    [math.nan, math.inf, -math.inf, np.array([1.0, math.nan])],
    ids=lambda step: type(step).__name__ + str(getattr(step, "shape", "")),
)
def test_steps_that_are_not_finite(name: str, step: Any) -> None:
    with pytest.raises(ValueError, match="^step: expected a finite number, found "):
        SCHEDULES[name](step)


class Tensor:
    """What NumPy sees of a tensor of another library."""

    dtype = "its own"

    def __init__(self, array: Any) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.array


@every_schedule
@pytest.mark.parametrize(
    "dtype", [np.int32, np.uint8, np.int64, np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
)
@pytest.mark.parametrize("shape", [(60,), (3, 20), (2, 3, 10), (0,), (0, 4)])
def test_arrays(name: str, shape: tuple[int, ...], dtype: Any) -> None:
    schedule = SCHEDULES[name]
    steps = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    expected = np.array([schedule(float(step)) for step in steps.ravel()]).reshape(shape)
    for given in (steps, steps[::-1][::-1], np.asfortranarray(steps), Tensor(steps)):
        rates = schedule(given)
        assert type(rates) is np.ndarray
        assert (rates.dtype, rates.shape) == (np.float64, shape)
        assert rates.tobytes() == expected.tobytes()
    if shape == (60,):
        assert schedule(steps.tolist()).tobytes() == expected.tobytes()
        assert schedule(range(60)).tobytes() == expected.tobytes()


@every_schedule
@pytest.mark.parametrize(
    "step",
    [np.int64(5), np.float32(5), np.array(5), np.array(5.0), Tensor(np.array(5))],
    ids=lambda step: type(step).__name__ + str(getattr(step, "shape", "")),
)
def test_scalars_of_numpy(name: str, step: Any) -> None:
    rate = SCHEDULES[name](step)
    assert isinstance(rate, np.float64)
    assert rate == SCHEDULES[name](5)


@every_schedule
@pytest.mark.parametrize(
    "step",
    [
        None,
        "5",
        True,
        2j,
        ["5"],
        np.array([True]),
        np.array(["5"]),
        np.array([2j]),
        {5},
    ],
    ids=lambda step: type(step).__name__ + str(getattr(step, "shape", "")),
)
def test_of_another_type(name: str, step: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="^step: expected "):
        SCHEDULES[name](step)


def test_pytorch_and_jax() -> None:
    torch = pytest.importorskip("torch")
    jax = pytest.importorskip("jax")
    schedule = SCHEDULES["cosine"]
    expected = schedule(np.arange(30))
    for steps in (torch.arange(30), jax.numpy.arange(30)):
        assert schedule(steps).tobytes() == expected.tobytes()
