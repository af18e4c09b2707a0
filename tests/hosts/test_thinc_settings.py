"""How fusedopt.thinc is configured: arguments, names in configurations, schedules, settings out of range."""

from __future__ import annotations

import doctest
import importlib
import importlib.metadata
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

thinc = pytest.importorskip("thinc.api")
ft = pytest.importorskip("fusedopt.thinc")

RULES = ["Adam", "RAdam", "SGD"]
# thinc 8 keeps numbers, and thinc 9 schedules, which are asked in every call.
KEEPS_NUMBERS = isinstance(thinc.Adam().learn_rate, float)
CONFIG = """
[optimizer]
@optimizers = "Adam.v1"
beta1 = 0.8
L2 = 0.01
grad_clip = 1
L2_is_weight_decay = true
use_averages = true

[optimizer.learn_rate]
@schedules = "warmup_linear.v1"
warmup_steps = 5
total_steps = 20
initial_rate = 0.1
"""


def train(optimizer: Any, steps: int = 30) -> list[Any]:
    """Train two parameters, and return the weights and averages after each step."""
    random = np.random.default_rng(3)
    weights = {(1, "W"): np.ones((3, 4), np.float32), (2, "b"): np.ones(5, np.float32)}
    found = []
    for step in range(steps):
        for key, w in weights.items():
            optimizer(key, w, random.normal(size=w.shape).astype(np.float32))
            found += [w.copy(), optimizer.averages[key].copy()]
        if step % 7 == 0 and not KEEPS_NUMBERS:
            optimizer.last_score = step / 10
        optimizer.step_schedules()
    return found


def assert_same(ours: list[Any], theirs: list[Any]) -> None:
    for found, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_the_arguments_and_defaults_are_those_of_thinc(rule: str) -> None:
    ours = inspect.signature(getattr(ft, rule)).parameters
    theirs = inspect.signature(getattr(thinc, rule)).parameters
    assert {name: (one.kind, one.default) for name, one in ours.items()} == {
        name: (one.kind, one.default) for name, one in theirs.items()
    }
    assert list(ours) == list(theirs)


@pytest.mark.parametrize("module", ["optimizer", "registered"])
def test_examples_of_the_docstrings(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"fusedopt.thinc.{module}"))
    assert result.attempted > 0
    assert result.failed == 0


def test_the_optimizer_is_one_of_thincs() -> None:
    optimizer = ft.Adam()
    assert isinstance(optimizer, thinc.Optimizer)
    assert inspect.signature(type(optimizer)) == inspect.signature(thinc.Optimizer)
    with pytest.raises(AttributeError):
        optimizer.learning_rate = 0.1


def test_a_configuration_changes_one_line() -> None:
    theirs = thinc.registry.resolve(thinc.Config().from_str(CONFIG))["optimizer"]
    changed = CONFIG.replace('"Adam.v1"', '"fusedopt.Adam.v1"')
    ours = thinc.registry.resolve(thinc.Config().from_str(changed))["optimizer"]
    assert type(ours) is ft.Optimizer
    assert_same(train(ours), train(theirs))


@pytest.mark.parametrize("rule", RULES)
def test_a_configuration_is_filled_with_the_defaults(rule: str) -> None:
    filled = [
        thinc.registry.fill({"one": {"@optimizers": name, "learn_rate": 0.5}})["one"]
        for name in (f"fusedopt.{rule}.v1", f"{rule}.v1")
    ]
    assert filled[0] == filled[1] | {"@optimizers": f"fusedopt.{rule}.v1"}


@pytest.mark.parametrize("wrong", [{"learn_rate": "fast"}, {"betas": 0.9}])
def test_a_configuration_with_a_slip_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((thinc.ConfigValidationError, ValueError), match=next(iter(wrong))):
        thinc.registry.resolve({"one": {"@optimizers": "fusedopt.Adam.v1", **wrong}})


@pytest.mark.parametrize("rule", RULES)
def test_a_registry_can_look_up_no_annotation_that_is_a_string(rule: str) -> None:
    kinds = {type(annotation) for annotation in getattr(ft, rule).__annotations__.values()}
    assert kinds
    assert str not in kinds


def test_a_configuration_needs_no_import() -> None:
    found = {
        one.name: one.value for one in importlib.metadata.entry_points(group="thinc_optimizers")
    }
    expected = {f"fusedopt.{rule}.v1": f"fusedopt.thinc:{rule}" for rule in RULES}
    assert expected.items() <= found.items()
    code = (
        "import sys\n"
        "from thinc.api import registry\n"
        "assert 'fusedopt' not in sys.modules\n"
        "print(type(registry.resolve({'one': {'@optimizers': 'fusedopt.Adam.v1'}})['one']).__module__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.strip() == "fusedopt.thinc.optimizer"


def test_fusedopt_does_not_import_thinc() -> None:
    code = "import sys, fusedopt; assert not {'thinc', 'fusedopt.thinc'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_without_thinc_the_message_says_what_to_install() -> None:
    code = "import sys; sys.modules['thinc'] = None; import fusedopt.thinc"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300
    )
    assert (
        "fusedopt.thinc: expected thinc, found none; install the extra fusedopt[thinc]"
        in done.stderr
    )


def halving(start: float) -> Iterator[float]:
    while True:
        yield start
        start /= 2


SCHEDULES: dict[str, Callable[[], dict[str, Any]]] = {
    "a list": lambda: {"learn_rate": [0.1, 0.2, 0.05]},
    "a generator": lambda: {"learn_rate": halving(0.1)},
    "one that ends": lambda: {"learn_rate": (one for one in (0.1, 0.01))},
    "from zero": lambda: {"learn_rate": thinc.warmup_linear(0.1, 3, 20), "L2": 0.1},
    "everything": lambda: {
        "learn_rate": thinc.compounding(0.001, 0.1, 1.2),
        "L2": [0.0, 0.1, 0.2],
        "beta1": thinc.compounding(0.5, 0.9, 1.1),
        "beta2": thinc.decaying(0.999, 1e-3),
        "eps": halving(1e-2),
        "grad_clip": [1.0, 0.0, 0.5],
    },
}


@pytest.mark.parametrize("rule", ["Adam", "RAdam"])
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("is_decay", [True, False])
def test_schedules(rule: str, name: str, is_decay: bool) -> None:
    ours, theirs = (
        getattr(each, rule)(**SCHEDULES[name](), L2_is_weight_decay=is_decay)
        for each in (ft, thinc)
    )
    assert_same(train(ours), train(theirs))


@pytest.mark.skipif(KEEPS_NUMBERS, reason="schedules with arguments are thinc 9's")
def test_a_schedule_sees_the_step_the_key_and_the_last_score() -> None:
    def rate(schedule: Any, step: int, *, key: Any, last_score: Any) -> float:
        seen.append((step, key, last_score))
        return 0.1 / key[0] / (step + 1) * (1.0 if last_score is None else last_score[1] + 0.5)

    runs, calls = [], []
    for make in (ft.Adam, thinc.Adam):
        seen: list[Any] = []
        runs.append(train(make(thinc.Schedule("mine", rate))))
        calls.append(seen)
    assert_same(*runs)
    assert set(calls[0]) == set(calls[1])


@pytest.mark.parametrize("rule", RULES)
def test_a_setting_that_is_assigned_acts_from_the_next_call_on(rule: str) -> None:
    """thinc 9 itself does not take a number here."""
    ours, fresh = getattr(ft, rule)(0.1), getattr(ft, rule)(0.02)
    ours.learn_rate = 0.02
    assert_same(train(ours), train(fresh))


@pytest.mark.parametrize("schedule", ["hello", [], iter(())])
def test_a_schedule_without_values_is_refused(schedule: Any) -> None:
    with pytest.raises(ValueError, match="learn_rate"):
        ft.Adam(schedule)


REFUSED = [
    ("learn_rate", [-0.1, np.nan, np.inf], {}),
    ("L2", [-0.1, np.nan, np.inf], {}),
    ("learn_rate \\* L2", [10.0], {"L2": 0.1}),
    ("b1", [-0.1, 1.0, np.nan], {}),
    ("beta1", [0.0], {}),
    ("b2", [-0.1, 1.0, np.nan], {}),
    ("beta2", [1.0 - 1e-9], {}),
    ("eps", [-1e-8, 0.0, np.nan], {}),
    ("grad_clip", [-1.0, np.nan, np.inf], {}),
    ("lr_scale", [-1.0, np.nan], {}),
]
REFUSED_VALUES = [
    pytest.param(name, value, others, id=f"{name}={value}")
    for name, values, others in REFUSED
    for value in values
]
ARGUMENTS = {"b1": "beta1", "b2": "beta2", "learn_rate \\* L2": "learn_rate"}


@pytest.mark.parametrize(("name", "value", "others"), REFUSED_VALUES)
def test_a_setting_out_of_its_range_is_refused_before_anything_changes(
    name: str, value: float, others: dict[str, Any]
) -> None:
    argument = ARGUMENTS.get(name, name)
    in_call = {"lr_scale": value} if argument == "lr_scale" else {}
    optimizer = ft.Adam(**others, **({} if in_call else {argument: value}))
    w, g = np.ones(3, np.float32), np.full(3, 0.1, np.float32)
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        optimizer((1, "W"), w, g, **in_call)
    assert (w == 1.0).all()
    assert (g == np.float32(0.1)).all()
    assert not any((optimizer.nr_update, optimizer.mom1, optimizer.mom2, optimizer.averages))


def test_a_setting_that_fails_changes_nothing() -> None:
    class NoNumber:
        def __float__(self) -> float:
            raise RuntimeError("no rate today")

    optimizer = ft.Adam()
    w, g = np.ones(3, np.float32), np.full(3, 0.1, np.float32)
    optimizer((1, "W"), w, g.copy())
    before = w.copy()
    for name in ("grad_clip", "learn_rate", "L2"):
        setattr(optimizer, name, NoNumber())
        with pytest.raises(RuntimeError, match="no rate today"):
            optimizer((1, "W"), w, g)
        setattr(optimizer, name, 0.5)
    assert (w == before).all()
    assert (g == np.float32(0.1)).all()
    assert optimizer.nr_update == {(1, "W"): 1}
