"""Learning rates and betas that are functions are called once per update. If one misbehaves, nothing changes."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import RULES
from subject import Subject
from training import Halving, Schedule, gradients, new_variables, wrapped_or_not


@pytest.mark.parametrize(
    ("options", "updates"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6]),
        ({"weight_decay": 0.1, "use_ema": True, "clipnorm": 1.0}, [0, 1, 2, 3, 4, 5, 6]),
        ({"gradient_accumulation_steps": 2}, [1, 3, 5]),
        ({"gradient_accumulation_steps": 3, "weight_decay": 0.1, "use_ema": True}, [2, 5]),
    ],
    ids=str,
)
@pytest.mark.parametrize("rule", RULES)
@wrapped_or_not
def test_functions_are_called_once_in_each_update(
    wrap: Callable[[Any], Any], rule: str, options: dict[str, Any], updates: list[int]
) -> None:
    schedule = Halving(0.1)
    calls: list[str] = []

    def beta(name: str) -> Callable[[], float]:
        def function() -> float:
            calls.append(name)
            return 0.5

        return function

    parameters = inspect.signature(getattr(fo, rule)).parameters
    arguments = {name: beta(name) for name in ("beta_1", "beta_2") if name in parameters}
    optimizer = wrap(getattr(fo, rule)(learning_rate=schedule, **arguments, **options))
    optimizer.build(new_variables())
    assert schedule.seen == []
    for step in range(7):
        optimizer.apply(gradients(step))
    assert schedule.seen == updates
    assert sorted(calls) == sorted([*arguments] * len(updates))


def test_schedule_is_not_called_in_a_skipped_step() -> None:
    schedule = Halving()
    optimizer = fo.LossScaleOptimizer(fo.SGD(learning_rate=schedule))
    optimizer.build([np.zeros(1)])
    for gradient in (1.0, math.inf, math.nan, 1.0):
        optimizer.apply([np.array([gradient])])
    assert schedule.seen == [0, 1]


def test_schedule_decides_each_step() -> None:
    w = np.zeros(1)
    optimizer = fo.SGD(learning_rate=Halving())
    optimizer.build([w])
    for _ in range(4):
        optimizer.apply([np.ones(1)])
    assert w.tolist() == [-(1 + 0.5 + 0.25 + 0.125)]
    assert optimizer.learning_rate == 0.5**4


@pytest.mark.parametrize("cls", [fo.Adam, fo.AdamW])
def test_betas_that_are_functions(cls: Any) -> None:
    one, two = np.ones(3), np.ones(3)
    number = cls(beta_1=0.8, beta_2=0.95)
    function = cls(beta_1=lambda: 0.8, beta_2=lambda: 0.95)
    number.build([one])
    function.build([two])
    for step in range(3):
        for optimizer in (number, function):
            optimizer.apply([np.full(3, 1.0 + step)])
    assert one.tobytes() == two.tobytes()


# Refused


class Rate:
    """A learning rate that is good until it is told otherwise."""

    def __init__(self) -> None:
        self.answer: Any = None

    def __call__(self) -> Any:
        return 0.1 if self.answer is None else self.answer()


def fail() -> None:
    raise KeyError("rate of the day")


Made = tuple[Any, Rate | Schedule]


def with_callable(**options: Any) -> Made:
    rate = Rate()
    return fo.Adam(learning_rate=rate, **options), rate


def with_schedule(**options: Any) -> Made:
    rate = Schedule()
    return fo.SGD(learning_rate=rate, momentum=0.9, **options), rate


def with_loss_scale(**options: Any) -> Made:
    rate = Schedule()
    inner = fo.RMSprop(learning_rate=rate, **options)
    return fo.LossScaleOptimizer(inner, initial_scale=8.0, dynamic_growth_steps=2), rate


def with_beta(name: str) -> Callable[..., Made]:
    def make(**options: Any) -> Made:
        rate = Rate()
        arguments: dict[str, Any] = {"learning_rate": 0.1, "beta_1": 0.9, "beta_2": 0.9, name: rate}
        return fo.AdamW(**arguments, **options), rate

    return make


MAKERS: dict[str, Callable[..., Made]] = {
    "callable": with_callable,
    "schedule": with_schedule,
    "loss_scale": with_loss_scale,
    "beta_1": with_beta("beta_1"),
    "beta_2": with_beta("beta_2"),
}


@contextlib.contextmanager
def misbehaving(maker: str, error: type[Exception], *parts: str, **options: Any) -> Iterator[Any]:
    """A step whose function misbehaves must raise `error` and leave no trace."""
    (optimizer, rate), (twin, _) = MAKERS[maker](**options), MAKERS[maker](**options)
    subject, untouched = Subject("", optimizer, steps=3), Subject("", twin, steps=3)
    before = subject.everything()
    yield subject, rate
    with pytest.raises(error) as caught:
        subject.step()
    assert type(caught.value) is error
    assert [part for part in parts if part not in str(caught.value)] == [], caught.value
    assert subject.everything() == before
    rate.answer = None
    subject.step()
    untouched.step()
    assert subject.everything() == untouched.everything()


@pytest.mark.parametrize("options", [{}, {"use_ema": True, "gradient_accumulation_steps": 2}])
@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize(
    ("answer", "error", "found"),
    [
        (fail, KeyError, "rate of the day"),
        (lambda: math.nan, ValueError, "found nan"),
        (lambda: math.inf, ValueError, "found inf"),
        (lambda: -0.5, ValueError, "found -0.5"),
        (lambda: "0.1", TypeError, "found '0.1'"),
        (lambda: None, TypeError, "found None"),
        (lambda: 1j, TypeError, "found 1j"),
        (lambda: np.ones(2), TypeError, "found array([1., 1.])"),
    ],
    ids=["raises", "nan", "inf", "negative", "str", "none", "complex", "array"],
)
def test_function_that_gives_no_number(
    maker: str, answer: Any, error: type[Exception], found: str, options: dict[str, Any]
) -> None:
    name = maker if maker.startswith("beta") else "learning_rate"
    parts = [found] if error is KeyError else [f"{name}: expected", found]
    with misbehaving(maker, error, *parts, **options) as (_, rate):
        rate.answer = answer


@pytest.mark.parametrize("maker", ["beta_1", "beta_2"])
@pytest.mark.parametrize("value", [1.0, 1, 1.5])
def test_beta_function_out_of_range(maker: str, value: float) -> None:
    with misbehaving(maker, ValueError, f"{maker}: expected a number in [0, 1)") as (_, rate):
        rate.answer = lambda: value


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize(
    "action",
    [
        lambda s: s.step(),
        lambda s: s.optimizer.apply(s.gradients()[:1], s.variables[:1]),
        lambda s: s.optimizer.finalize_variable_values(s.variables),
        lambda s: s.optimizer.set_weights([np.array(v) * 0 + 1 for v in s.optimizer.variables]),
        lambda s: setattr(s.optimizer, "learning_rate", Rate()),
    ],
    ids=["apply", "subset", "finalize", "set_weights", "learning_rate"],
)
def test_function_that_changes_its_optimizer(maker: str, action: Callable[[Subject], Any]) -> None:
    with misbehaving(maker, ValueError, "of its own step", use_ema=True) as (subject, rate):

        def answer() -> float:
            action(subject)
            return 0.1

        rate.answer = answer


@pytest.mark.parametrize("maker", MAKERS)
def test_function_that_reads_its_optimizer_is_welcome(maker: str) -> None:
    optimizer, rate = MAKERS[maker]()
    subject = Subject("", optimizer)
    seen = []

    def answer() -> float:
        seen.append((optimizer.iterations, optimizer.built, len(optimizer.variables)))
        return 0.1

    rate.answer = answer
    subject.step()
    assert seen == [(3, True, len(optimizer.variables))]
