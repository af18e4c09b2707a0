"""Learning rates: the constructor and the setter take and refuse the same, and say what to do."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import fusedopt as fo
import ml_dtypes
import numpy as np
import pytest
from cases import RULES
from training import Halving, wrapped_or_not


def constructed(rate: Any) -> fo.Optimizer:
    return fo.SGD(learning_rate=rate)


def assigned(rate: Any) -> fo.Optimizer:
    optimizer = fo.SGD()
    optimizer.learning_rate = rate
    return optimizer


def assigned_through_a_loss_scale(rate: Any) -> fo.Optimizer:
    optimizer = fo.LossScaleOptimizer(fo.SGD())
    optimizer.learning_rate = rate
    return optimizer


def assigned_in_place_of_a_function(rate: Any) -> fo.Optimizer:
    optimizer = fo.SGD(learning_rate=lambda: 0.5)
    optimizer.learning_rate = rate
    return optimizer


WAYS = [constructed, assigned, assigned_through_a_loss_scale, assigned_in_place_of_a_function]
every_way = pytest.mark.parametrize("way", WAYS)
Way = Callable[[Any], fo.Optimizer]


class Tensor:
    """An array of one element with no more than PyTorch and JAX have in common."""

    def __init__(self, value: Any, shape: tuple[int, ...] = ()) -> None:
        self.value, self.shape = value, shape

    def item(self) -> Any:
        return self.value


def described(value: Any) -> str:
    """Name a parameter alike in every process: without an address."""
    return re.sub(r" at 0x\w+", "", repr(value))


@every_way
@pytest.mark.parametrize(
    "rate",
    [
        0.25,
        Fraction(1, 4),
        np.float16(0.25),
        np.float32(0.25),
        np.float64(0.25),
        ml_dtypes.bfloat16(0.25),
        np.array(0.25),
        np.array([0.25], np.float32),
        np.array([[0.25]]),
        np.array(0.25, ml_dtypes.bfloat16),
        Tensor(0.25),
        Tensor(0.25, (1, 1)),
        lambda: 0.25,
        functools.partial(float, 0.25),
        fo.schedules.PiecewiseConstantDecay([1], [0.25, 0.5]),
    ],
    ids=described,
)
def test_accepted(way: Way, rate: Any) -> None:
    assert way(rate).learning_rate == 0.25


@every_way
@pytest.mark.parametrize("rate", [1, np.int64(1), np.array(1), Tensor(1)], ids=described)
def test_whole_numbers(way: Way, rate: Any) -> None:
    assert way(rate).learning_rate == 1.0


@every_way
@pytest.mark.parametrize(
    "rate",
    [
        True,
        np.array(True),
        "0.1",
        None,
        np.array([0.1, 0.2]),
        np.zeros(0),
        Tensor(True),
        Tensor(1j),
        [0.1],
    ],
    ids=described,
)
def test_of_another_type(way: Way, rate: Any) -> None:
    with pytest.raises(
        TypeError, match="^learning_rate: expected a real number, (schedule or callable, )?found "
    ):
        way(rate)


@every_way
@pytest.mark.parametrize(
    "rate", [-1.0, math.nan, math.inf, np.array(-1.0), Tensor(math.nan)], ids=described
)
def test_out_of_range(way: Way, rate: Any) -> None:
    with pytest.raises(ValueError, match="^learning_rate: expected a finite number >= 0, found "):
        way(rate)


class OfTheStep:
    def __call__(self, step: int) -> float:
        return 0.1 / (1 + step)


@every_way
@pytest.mark.parametrize(
    "rate",
    [
        lambda step: 0.1,
        OfTheStep(),
        functools.partial(pow, 0.5),
        lambda step, *, scale: 0.1,
    ],
)
def test_functions_of_the_step(way: Way, rate: Any) -> None:
    with pytest.raises(
        TypeError,
        match=r"^learning_rate: expected a callable without arguments.*LearningRateSchedule",
    ):
        way(rate)


@every_way
def test_optional_arguments_are_none(way: Way) -> None:
    assert way(lambda step=0: 0.25).learning_rate == 0.25
    assert way(lambda *steps: 0.25).learning_rate == 0.25


def of_keras() -> Any:
    """A schedule as Keras's are seen from outside."""

    def call(self: Any, step: int) -> float:
        return 0.1

    base = type("LearningRateSchedule", (), {"__module__": "keras.src.optimizers.schedules"})
    return type("Own", (base,), {"__module__": "somewhere", "__call__": call})()


@every_way
def test_schedules_of_keras(way: Way) -> None:
    with pytest.raises(
        TypeError,
        match=r"^learning_rate: .*Keras's Own; build fusedopt\.schedules\.deserialize\(keras",
    ):
        way(of_keras())


def test_the_way_out_of_keras_works() -> None:
    keras = pytest.importorskip("keras")
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 1000, alpha=0.5)
    with pytest.raises(TypeError, match="Keras's CosineDecay"):
        fo.SGD(learning_rate=schedule)
    own = fo.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert fo.SGD(learning_rate=own).learning_rate == 0.1


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_refuses_a_function_of_the_step(rule: str) -> None:
    with pytest.raises(TypeError, match="^learning_rate: expected a callable without arguments"):
        getattr(fo, rule)(learning_rate=lambda step: 0.1)


BETAS = [rule for rule in RULES if hasattr(getattr(fo, rule), "beta_1")]


@pytest.mark.parametrize("beta", ["beta_1", "beta_2"])
@pytest.mark.parametrize("rule", BETAS)
def test_betas(rule: str, beta: str) -> None:
    for value in (lambda step: 0.1, OfTheStep(), fo.schedules.CosineDecay(0.5, 10)):
        with pytest.raises(TypeError, match=f"^{beta}: expected a callable without arguments"):
            getattr(fo, rule)(**{beta: value})
    getattr(fo, rule)(**{beta: lambda: 0.5})


def test_a_number_in_place_of_a_schedule() -> None:
    optimizer = fo.SGD(learning_rate=fo.schedules.CosineDecay(0.5, 10))
    with pytest.raises(TypeError, match=r"lambda: 0\.25") as refused:
        optimizer.learning_rate = np.float32(0.25)
    assert "new optimizer with a number" in str(refused.value)
    assert optimizer.learning_rate == 0.5
    optimizer.learning_rate = lambda: 0.25
    assert optimizer.learning_rate == 0.25
    optimizer.learning_rate = 0.125
    assert optimizer.learning_rate == 0.125


def test_pytorch() -> None:
    torch = pytest.importorskip("torch")
    for rate in (
        torch.tensor(0.25),
        torch.tensor([0.25], requires_grad=True),
        torch.tensor(0.25, dtype=torch.bfloat16),
    ):
        for way in WAYS:
            assert way(rate).learning_rate == 0.25


# Assigned over one another


@pytest.mark.parametrize("rate", [0.1, 1, 0, np.float32(0.1), np.float64(0.1), Fraction(1, 10)])
@wrapped_or_not
def test_learning_rate_is_any_real_number(wrap: Callable[[Any], Any], rate: Any) -> None:
    for optimizer in (wrap(fo.SGD(learning_rate=rate)), wrap(fo.SGD())):
        optimizer.learning_rate = rate
        assert optimizer.learning_rate == float(rate)
        assert type(optimizer.learning_rate) is float


@wrapped_or_not
def test_number_onto_a_number_is_assigned(wrap: Callable[[Any], Any]) -> None:
    w = np.zeros(1)
    optimizer = wrap(fo.SGD(learning_rate=0.5))
    optimizer.build([w])
    view = optimizer.variables[-1]
    assert float(view) == 0.5
    optimizer.learning_rate = 2
    assert float(view) == 2.0
    optimizer.apply([np.full(1, optimizer.scale_loss(1.0))])
    assert w.tolist() == [-2.0]


@pytest.mark.parametrize("rate", [Halving(), lambda: 0.25], ids=["schedule", "callable"])
@wrapped_or_not
def test_function_onto_a_number_leaves_the_variables(wrap: Callable[[Any], Any], rate: Any) -> None:
    w = np.zeros(1)
    optimizer = wrap(fo.SGD(learning_rate=0.5, momentum=0.5))
    optimizer.build([w])
    count = len(optimizer.variables)
    optimizer.learning_rate = rate
    assert len(optimizer.variables) == count - 1
    optimizer.apply([np.full(1, optimizer.scale_loss(1.0))])
    assert -w[0] == (1.0 if isinstance(rate, Halving) else 0.25)


@wrapped_or_not
def test_number_onto_a_schedule_is_refused(wrap: Callable[[Any], Any]) -> None:
    optimizer = wrap(fo.SGD(learning_rate=Halving(4.0)))
    with pytest.raises(TypeError, match="expected a schedule or callable in the place of a sched"):
        optimizer.learning_rate = 0.1
    assert optimizer.learning_rate == 4.0
    optimizer.learning_rate = Halving(8.0)
    assert optimizer.learning_rate == 8.0
    optimizer.learning_rate = lambda: 16.0
    assert optimizer.learning_rate == 16.0


@wrapped_or_not
def test_number_onto_a_callable_is_allowed(wrap: Callable[[Any], Any]) -> None:
    w = np.zeros(1)
    optimizer = wrap(fo.SGD(learning_rate=lambda: 1.0))
    optimizer.build([w])
    count = len(optimizer.variables)
    optimizer.apply([np.full(1, optimizer.scale_loss(1.0))])
    optimizer.learning_rate = 0.5
    assert len(optimizer.variables) == count + 1
    optimizer.apply([np.full(1, optimizer.scale_loss(1.0))])
    assert w.tolist() == [-1.5]


@pytest.mark.parametrize(
    ("rate", "advice"),
    [
        ("0.1", "expected a real number, schedule or callable, found '0.1'"),
        ([0.1], r"found \[0.1\]; give one number or a schedule; build takes the variables"),
        ([np.ones(2)], r"found \[array.*\]; build takes the variables"),
        (fo.schedules.CosineDecay, r"; make one, CosineDecay\(\.\.\.\)"),
        (Decimal, "schedule or callable, found <class .*>"),
    ],
)
def test_what_to_give_instead(rate: Any, advice: str) -> None:
    with pytest.raises(TypeError, match=f"^learning_rate: .*{advice}$"):
        fo.SGD(rate)
