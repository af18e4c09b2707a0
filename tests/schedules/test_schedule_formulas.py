"""Every schedule against its formula, as one would write it on paper, with exact fractions for steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import fusedopt as fo
import pytest
from schedule_cases import ARGUMENTS, CLASSES, RECORDING, combinations, make

# Some combinations have warmup_steps that do nothing.
pytestmark = pytest.mark.filterwarnings("ignore:warmup_steps. no effect")

FAR = [10**6, 10**9, 10**12]


def _exponential(
    s: Any,
    initial_learning_rate: float,
    decay_steps: float,
    decay_rate: float,
    staircase: bool = False,
) -> float:
    p = Fraction(s) / Fraction(decay_steps)
    return float(initial_learning_rate * decay_rate ** float(p // 1 if staircase else p))


def _inverse_time(
    s: Any,
    initial_learning_rate: float,
    decay_steps: float,
    decay_rate: float,
    staircase: bool = False,
) -> float:
    p = Fraction(s) / Fraction(decay_steps)
    return float(
        Fraction(initial_learning_rate) / (1 + Fraction(decay_rate) * (p // 1 if staircase else p))
    )


def _polynomial(
    s: Any,
    initial_learning_rate: float,
    decay_steps: float,
    end_learning_rate: float = 0.0001,
    power: float = 1.0,
    cycle: bool = False,
) -> float:
    end = Fraction(decay_steps)
    while cycle and end < s:
        end *= math.ceil(s / end)
    p = min(Fraction(s) / end, Fraction(1))
    return float(
        (initial_learning_rate - end_learning_rate) * float(1 - p) ** power + end_learning_rate
    )


def _piecewise_constant(s: Any, boundaries: list[float], values: list[float]) -> float:
    for boundary, value in zip(boundaries, values, strict=False):
        if s <= boundary:
            return value
    return values[-1]


def _wave(p: Fraction) -> float:
    """(1 + cos(pi p)) / 2 without its cancellation near p = 1."""
    return math.sin(math.pi * float(1 - p) / 2) ** 2


def _cosine(
    s: Any,
    initial_learning_rate: float,
    decay_steps: float,
    alpha: float = 0.0,
    warmup_target: float | None = None,
    warmup_steps: float = 0,
) -> float:
    start, first = initial_learning_rate, Fraction(0)
    if warmup_target is not None:
        start, first = warmup_target, Fraction(warmup_steps)
        if s < first:
            before = Fraction(initial_learning_rate)
            return float(before + (Fraction(warmup_target) - before) * s / first)
    p = min((s - first) / Fraction(decay_steps), Fraction(1))
    return start * ((1 - alpha) * _wave(p) + alpha)


def _periods(first: Fraction, t_mul: Fraction) -> Iterator[tuple[int, Fraction, Fraction]]:
    """Number, start and length of each period, exactly."""
    start, length = Fraction(0), first
    for i in itertools.count():
        yield i, start, length
        start, length = start + length, length * t_mul


def _decimal(value: float) -> Fraction:
    """What was meant: 1.1 is eleven tenths."""
    return Fraction(repr(value))


def _cosine_restarts(
    s: Any,
    initial_learning_rate: float,
    first_decay_steps: float,
    t_mul: float = 2.0,
    m_mul: float = 1.0,
    alpha: float = 0.0,
) -> float:
    first, factor = _decimal(first_decay_steps), _decimal(t_mul)
    if factor < 1 and s >= first / (1 - factor):
        return initial_learning_rate * alpha
    if factor == 1:
        i = s // first
        p = s / first - i
    else:
        i, p = next(
            (i, (s - start) / length)
            for i, start, length in _periods(first, factor)
            if s < start + length
        )
    return initial_learning_rate * ((1 - alpha) * m_mul**i * _wave(p) + alpha)


FORMULAS: dict[str, Callable[..., float]] = {
    "ExponentialDecay": _exponential,
    "InverseTimeDecay": _inverse_time,
    "PolynomialDecay": _polynomial,
    "PiecewiseConstantDecay": _piecewise_constant,
    "CosineDecay": _cosine,
    "CosineDecayRestarts": _cosine_restarts,
}


def marks(arguments: dict[str, Any]) -> list[Any]:
    """The steps where something begins or ends."""
    length = arguments.get("decay_steps", arguments.get("first_decay_steps", 0))
    first = arguments.get("warmup_steps", 0)
    found = [first, *(first + length * k for k in (1, 2, 3, 10, 1000)), length]
    found += arguments.get("boundaries", [])
    if "t_mul" in arguments:
        periods = _periods(_decimal(length), _decimal(arguments["t_mul"]))
        found += [start for _, start, _ in itertools.islice(periods, 12)]
    return found


def steps_around(arguments: dict[str, Any]) -> list[Any]:
    steps = {*range(30), *FAR}
    for mark in marks(arguments):
        steps |= {math.floor(mark) + d for d in (-1, 0, 1, 2)}
        if float(mark) == mark:
            steps.add(mark)  # fractional ones too
    return sorted(step for step in steps if step >= 0)


def _tolerance(
    formula: Callable[..., float], step: Any, arguments: dict[str, Any], value: float
) -> float:
    """Some roundings; far away also what some roundings of the step move the value by."""
    tolerance = 1e-12 * abs(value) + 1e-15
    if step > 10**5:
        moved = Fraction(1, 2**46)
        for nearby in (step * (1 - moved), step * (1 + moved)):
            tolerance += abs(formula(nearby, **arguments) - value)
    return tolerance


@pytest.mark.parametrize("name", CLASSES)
def test_formula(name: str) -> None:
    formula = FORMULAS[name]
    for arguments in combinations(name):
        schedule = make(name, **arguments)
        for step in steps_around(arguments):
            actual = schedule(step)
            assert type(actual) is float
            try:
                expected = formula(step, **arguments)
            except OverflowError:
                assert not math.isfinite(actual), (arguments, step)
                continue
            tolerance = _tolerance(formula, step, arguments, expected)
            assert abs(actual - expected) <= tolerance, (arguments, step)


def test_every_schedule_is_tested() -> None:
    assert set(CLASSES) == set(FORMULAS) == set(ARGUMENTS)
    assert set(CLASSES) == {case["class"] for case in RECORDING["cases"]}


@pytest.mark.parametrize("step", [2**53 - 1, 2**53, 2**62, 2**63 - 1, 1e300])
def test_counter_at_its_end(step: float) -> None:
    """Where a step is no longer told from the next, a value is at least one of the schedule's."""
    for name in ("PolynomialDecay", "CosineDecay", "CosineDecayRestarts"):
        for arguments in combinations(name):
            if arguments.get("m_mul", 1.0) > 1.0:
                continue
            schedule = make(name, **arguments)
            names = ("initial_learning_rate", "end_learning_rate", "warmup_target")
            largest = max(arguments.get(argument) or 0.0 for argument in names)
            assert 0.0 <= schedule(step) <= largest * (1.0 + 1e-15), (name, arguments)


def test_formula_of_a_fractional_step() -> None:
    for name in CLASSES:
        arguments = combinations(name)[-1]
        schedule = make(name, **arguments)
        for step in (0.25, 2.5, 3.75, 6.5, 100.125):
            assert schedule(step) == pytest.approx(
                FORMULAS[name](Fraction(step), **arguments), 1e-12
            )


# Ends and boundaries, to the bit


def test_piecewise_boundaries() -> None:
    schedule = fo.schedules.PiecewiseConstantDecay([0, 5, 100], [0.4, 0.3, 0.2, 0.1])
    expected = {0: 0.4, 0.5: 0.3, 5: 0.3, 5.5: 0.2, 6: 0.2, 100: 0.2, 101: 0.1, 10**18: 0.1}
    assert {step: schedule(step) for step in expected} == expected
    assert fo.schedules.PiecewiseConstantDecay([], [0.5])(7) == 0.5
    halves = fo.schedules.PiecewiseConstantDecay([2.5, 7.5], [3, 2, 1])
    assert [halves(step) for step in (2, 3, 7, 8)] == [3.0, 2.0, 2.0, 1.0]


def test_polynomial_ends() -> None:
    once = fo.schedules.PolynomialDecay(0.5, 10, 0.125, power=3.0)
    assert [once(step) for step in (0, 10, 11, 10**12)] == [0.5, 0.125, 0.125, 0.125]
    cycle = fo.schedules.PolynomialDecay(0.5, 10, 0.125, cycle=True)
    assert [cycle(step) for step in (0, 10, 20, 30, 10**12)] == [0.5, *[0.125] * 4]
    assert [cycle(step) for step in (5, 15, 25)] == [0.3125, 0.21875, 0.1875]
    assert cycle(11) == pytest.approx(0.125 + 0.375 * 9 / 20, rel=1e-15)


def test_cosine_ends() -> None:
    schedule = fo.schedules.CosineDecay(0.25, 100, alpha=0.5, warmup_target=1.0, warmup_steps=10)
    assert [schedule(step) for step in (0, 5, 10)] == [0.25, 0.625, 1.0]
    assert [schedule(step) for step in (110, 111, 10**15)] == [0.5] * 3
    no_warmup = fo.schedules.CosineDecay(0.25, 100, warmup_target=1.0)
    assert no_warmup(0) == 1.0
    ignored = fo.schedules.CosineDecay(0.25, 100, warmup_steps=10)
    assert (ignored(0), ignored(100)) == (0.25, 0.0)


@pytest.mark.parametrize("t_mul", [1.0, 1.001, 1.1, 1.2, 1.25, 1.5, 2.0, 3, 7.3, 10.0, 0.9, 0.5])
@pytest.mark.parametrize("first", [1, 3, 10, 49, 1000, 0.1, 3.3])
def test_restart_steps_land_on_the_restart(t_mul: float, first: float) -> None:
    schedule = fo.schedules.CosineDecayRestarts(1.0, first, t_mul, m_mul=0.999)
    for i, start, length in _periods(_decimal(first), _decimal(t_mul)):
        if i > 300 or start > 10**12 or length < 1e-4 * start:
            break
        assert schedule(float(start)) == 0.999**i, (i, float(start))
        middle = float(start + length / 2)
        assert schedule(middle) == pytest.approx(0.999**i / 2, rel=1e-6), (i, middle)


def test_naive_floor_would_miss_restarts() -> None:
    """The test above is about something: the plain formula fails on some of its steps."""
    missed = [
        (t_mul, i)
        for t_mul in (1.1, 1.2, 1.5, 3.0, 10.0)
        for i in range(1, 20)
        if math.floor(math.log(1 + (t_mul**i - 1) / (t_mul - 1) * (t_mul - 1)) / math.log(t_mul))
        != i
    ]
    assert missed


def test_periods_that_shrink_come_to_an_end() -> None:
    schedule = fo.schedules.CosineDecayRestarts(0.5, 10, t_mul=0.5, alpha=0.25)
    assert [schedule(step) for step in (0, 10, 15)] == [0.5] * 3
    assert [schedule(step) for step in (20, 21, 10**9)] == [0.125] * 3
    # 1 / (1 - 0.9) is not quite ten.
    assert fo.schedules.CosineDecayRestarts(0.5, 10, t_mul=0.9)(100) == 0.0


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        (
            "CosineDecay",
            {"initial_learning_rate": 0, "decay_steps": 9, "warmup_target": 1, "warmup_steps": 4},
        ),
        ("ExponentialDecay", {"initial_learning_rate": 1, "decay_steps": 4, "decay_rate": 0.5}),
        ("PolynomialDecay", {"initial_learning_rate": 1, "decay_steps": 4}),
    ],
)
def test_whole_numbers_are_numbers(name: str, arguments: dict[str, Any]) -> None:
    """Keras would compute in integers."""
    whole = make(name, **arguments)
    real = make(name, **{key: float(value) for key, value in arguments.items()})
    assert [whole(step) for step in range(20)] == [real(step) for step in range(20)]
    assert 0 < whole(1) < 1
