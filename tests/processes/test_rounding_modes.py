"""The caller's rounding mode changes no result, and is the same after every call."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import VARIANTS, Case

libm = ctypes.CDLL("ucrtbase" if os.name == "nt" else ctypes.util.find_library("m"))
if os.name == "nt":
    MODES = {"upward": 0x200, "downward": 0x100, "toward zero": 0x300}
elif platform.machine() in ("aarch64", "arm64"):
    MODES = {"upward": 0x400000, "downward": 0x800000, "toward zero": 0xC00000}
else:
    MODES = {"upward": 0x800, "downward": 0x400, "toward zero": 0xC00}

SCHEDULES: dict[str, fo.schedules.LearningRateSchedule] = {
    "exponential": fo.schedules.ExponentialDecay(0.1, 7, 0.3),
    "exponential, subnormal": fo.schedules.ExponentialDecay(1e-300, 7, 0.3),
    "inverse time": fo.schedules.InverseTimeDecay(0.1, 7, 0.3),
    "polynomial": fo.schedules.PolynomialDecay(0.1, 333, power=0.7),
    "polynomial, cycle": fo.schedules.PolynomialDecay(0.1, 33, power=2.0, cycle=True),
    "piecewise": fo.schedules.PiecewiseConstantDecay([7, 70], [0.1, 0.01, 0.001]),
    "cosine": fo.schedules.CosineDecay(0.1, 333, 0.1, warmup_target=0.3, warmup_steps=33),
    "restarts": fo.schedules.CosineDecayRestarts(0.1, 7, m_mul=0.9),
    "restarts, even": fo.schedules.CosineDecayRestarts(0.1, 7, t_mul=1.0, m_mul=0.9),
}


@contextmanager
def rounding(mode: int) -> Iterator[None]:
    before = libm.fegetround()
    assert libm.fesetround(mode) == 0
    try:
        yield
        assert libm.fegetround() == mode, "the caller's mode has changed"
    finally:
        libm.fesetround(before)


def assert_same_in_every_mode(compute: Callable[[], Any]) -> None:
    expected = compute()
    for name, mode in MODES.items():
        with rounding(mode):
            found = compute()
        assert repr(found) == repr(expected), name  # a NaN, too


def test_the_modes_are_modes() -> None:
    third = 1.0 / float(libm.fegetround() + 3)
    one = third * 3.0
    for mode in MODES.values():
        with rounding(mode):
            assert libm.fegetround() == mode
    with rounding(MODES["upward"]):
        assert float(np.float64(1.0) + np.float64(1e-300)) > one


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name: str) -> None:
    schedule: Any = SCHEDULES[name]
    assert_same_in_every_mode(lambda: [schedule(step) for step in range(-20, 400)])
    assert_same_in_every_mode(lambda: schedule(np.arange(-20, 400)).tolist())
    assert_same_in_every_mode(lambda: fo.SGD(learning_rate=schedule).learning_rate)


@pytest.mark.parametrize("case", VARIANTS, ids=str)
def test_steps_with_a_schedule(case: Case) -> None:
    start, g = np.linspace(-1, 1, 50), np.linspace(-1, 2, 50, dtype=np.float32)

    def compute() -> list[bytes]:
        w = start.copy()
        rate = fo.schedules.CosineDecay(0.1, 30, warmup_target=0.3, warmup_steps=3)
        optimizer = getattr(fo, case.rule)(learning_rate=rate, clipnorm=0.7, **case.arguments)
        optimizer.build([w])
        for _ in range(7):
            optimizer.apply([g])
        return [w.tobytes(), *(v.tobytes() for v in optimizer.variables)]

    assert_same_in_every_mode(compute)


@pytest.mark.parametrize("scale", [3.0, 49.0, 1000.1])
def test_loss_scales(scale: float) -> None:
    losses = [0.1, np.float32(0.1), np.float64(0.1), np.array([0.1, 0.7]), np.float16(0.1)]

    def compute() -> list[Any]:
        fixed = fo.SGD(loss_scale_factor=scale)
        dynamic = fo.LossScaleOptimizer(fo.SGD(), initial_scale=scale)
        several = fo.MultiOptimizer(fo.OptimizerMap(fo.SGD()), loss_scale_factor=scale)
        return [
            np.asarray(optimizer.scale_loss(loss)).tolist()
            for optimizer in (fixed, dynamic, several)
            for loss in losses
        ]

    assert_same_in_every_mode(compute)


def test_loaded_state() -> None:
    """float64 values are rounded to float32 slots, and Nadam's product is computed again."""

    def compute() -> list[bytes]:
        w = np.ones(3, np.float32)
        optimizer = fo.LossScaleOptimizer(fo.Nadam())
        optimizer.build([w])
        values = [np.array(v) for v in optimizer.variables]
        values[4] = np.array(30)
        values[-2:] = [np.full(3, 0.1), np.full(3, 0.7)]
        optimizer.set_weights(values)
        optimizer.apply([np.ones(3, np.float32)])
        return [w.tobytes(), *(v.tobytes() for v in optimizer.variables)]

    assert_same_in_every_mode(compute)


def test_functions_of_the_user_run_in_the_users_mode() -> None:
    seen = []

    class Own(fo.schedules.LearningRateSchedule):
        def __call__(self, step: int) -> float:
            seen.append(libm.fegetround())
            return 0.1

    def own() -> float:
        seen.append(libm.fegetround())
        return 0.5

    for mode in MODES.values():
        seen.clear()
        with rounding(mode):
            for rate in (Own(), own):
                optimizer = fo.Adam(learning_rate=rate, beta_1=own)
                optimizer.build([np.ones(3)])
                optimizer.apply([np.ones(3)])
                assert optimizer.learning_rate > 0
        assert seen == [mode] * 6
