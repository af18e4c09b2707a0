"""`set_weights`, `load_own_variables` and live views of the state: what was saved goes on, and nonsense is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import Case
from reference import Array
from subject import OPTIMIZERS, Subject, four_variables, stored
from training import (
    bits,
    every_case,
    every_dtype,
    everything,
    make,
    new_variables,
    take_steps,
    wrapped_or_not,
)


@every_dtype
@every_case
@wrapped_or_not
def test_saved_state_is_continued(wrap: Callable[[Any], Any], case: Case, dtype: str) -> None:
    variables = new_variables(dtype)
    optimizer = wrap(make(case))
    optimizer.build(variables)
    take_steps(optimizer, range(5), dtype)
    store: dict[str, Any] = {}
    optimizer.save_own_variables(store)
    assert list(store) == [str(position) for position in range(len(optimizer.variables))]
    saved = bits(list(store.values()))

    others = [w.copy() for w in variables]
    first, second = wrap(make(case)), wrap(make(case))
    first.build(others)
    first.load_own_variables(store)
    second.build([w.copy() for w in variables])
    second.set_weights([np.array(variable) for variable in optimizer.variables])
    assert bits(first.variables) == bits(second.variables) == bits(optimizer.variables)
    for step in range(5, 9):
        for one in (optimizer, first):
            take_steps(one, range(step, step + 1), dtype)
        assert everything(first, others) == everything(optimizer, variables), f"step {step}"
    assert bits(list(store.values())) == saved, "the store holds copies"


def test_state_is_cast_from_other_widths() -> None:
    w = np.ones(3, np.float32)
    optimizer = fo.LossScaleOptimizer(fo.SGD(momentum=0.5))
    optimizer.build([w])
    values = [
        *(np.int32(0), np.float32(0), np.int16(3), np.float64(4.0)),
        *(np.int32(7), np.float32(0.5), np.array([1.0, 2.0, 3.0], np.float16)),
    ]
    optimizer.set_weights(values)
    assert optimizer.iterations == 7
    assert optimizer.learning_rate == 0.5
    assert optimizer.step_counter == 3
    assert optimizer.dynamic_scale == 4.0
    assert optimizer.variables[-1].tolist() == [1.0, 2.0, 3.0]
    assert optimizer.variables[-1].dtype == np.float32


def test_weights_may_be_the_live_views_themselves() -> None:
    optimizer = fo.Adam()
    variables = new_variables()
    optimizer.build(variables)
    take_steps(optimizer, range(3))
    before = everything(optimizer, variables)
    optimizer.set_weights(optimizer.variables)
    assert everything(optimizer, variables) == before


# Refused


@pytest.mark.parametrize("change", [-1, 1], ids=["fewer", "more"])
def test_number_of_weights(subject: Subject, change: int) -> None:
    weights = stored(subject)
    count = len(weights)
    weights = weights[:-1] if change < 0 else [*weights, weights[-1]]
    with subject.refuses(ValueError, f"expected {count} arrays, found {count + change}"):
        subject.optimizer.set_weights(weights)


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda a: a[..., None], "shape"),
        (lambda a: np.zeros((5, *a.shape), a.dtype), "shape"),
        (lambda a: a.astype(np.int64) if a.dtype.kind == "f" else a.astype(np.float64), "dtype"),
        (lambda a: a.astype(np.complex128), "complex128"),
        (lambda a: a.astype(bool), "bool"),
        (lambda a: a.astype(object), "object"),
        (lambda a: a.astype(str), "<U"),
        (lambda a: None, "object"),
        (lambda a: "text", "<U4"),
        (lambda a: a[None], "shape"),
    ],
    ids=["longer", "outer", "kind", "complex", "bool", "object", "str", "none", "text", "shape"],
)
@pytest.mark.parametrize("position", [0, 1, -1])
def test_kind_and_shape_of_weights(
    subject: Subject, position: int, make: Callable[[Array], Any], found: str
) -> None:
    weights: list[Any] = stored(subject)
    number = position % len(weights)
    weights[number] = make(weights[number])
    with subject.refuses(ValueError, f"array {number} (", "expected", "found", found):
        subject.optimizer.set_weights(weights)
    store = {str(k): value for k, value in enumerate(weights)}
    with subject.refuses(ValueError, f"array {number} (", "expected", "found", found):
        subject.optimizer.load_own_variables(store)


def position_of(subject: Subject, name: str) -> int:
    own = 4 if hasattr(subject.optimizer, "dynamic_scale") else 0
    return {"iteration": own, "learning_rate": own + 1, "step_counter": 2, "dynamic_scale": 3}[name]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iteration", -1),
        ("iteration", -(2**62)),
        ("iteration", np.uint64(2**63 + 1)),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("learning_rate", -0.1),
    ],
)
def test_value_of_weights(subject: Subject, name: str, value: Any) -> None:
    weights: list[Any] = stored(subject)
    weights[position_of(subject, name)] = np.array(value)
    with subject.refuses(ValueError, f"{name}: expected", "found"):
        subject.optimizer.set_weights(weights)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("step_counter", -1),
        ("dynamic_scale", 0.0),
        ("dynamic_scale", -8.0),
        ("dynamic_scale", math.nan),
        ("dynamic_scale", math.inf),
        ("dynamic_scale", 2.0**-127),
        ("dynamic_scale", 1e300),
    ],
)
@pytest.mark.parametrize("kind", ["loss_scale", "loss_scale_accumulation"])
def test_value_of_loss_scale_weights(kind: str, name: str, value: float) -> None:
    subject = Subject(kind)
    weights: list[Any] = stored(subject)
    weights[position_of(subject, name)] = np.array(value)
    with subject.refuses(ValueError, f"{name}", "expected", "found"):
        subject.optimizer.set_weights(weights)


def test_slot_value_that_its_type_cannot_hold() -> None:
    subject = Subject("momentum")
    weights = stored(subject)
    weights[2] = np.full((2, 3), 1e300)
    with subject.refuses(ValueError, "array 2 (momentum/kernel)"):
        subject.optimizer.set_weights(weights)


@pytest.mark.parametrize(
    "change",
    [
        lambda store: store.pop("1"),
        lambda store: store.update({"99": np.zeros(2)}),
        lambda store: store.update({"one": store.pop("1")}),
        lambda store: store.update({1: store.pop("1")}),
        lambda store: store.clear(),
    ],
    ids=["missing", "more", "renamed", "number", "empty"],
)
def test_keys_of_a_store(subject: Subject, change: Callable[[dict[Any, Any]], Any]) -> None:
    store: dict[Any, Any] = {}
    subject.optimizer.save_own_variables(store)
    last = len(store) - 1
    change(store)
    with subject.refuses(ValueError, f"expected the keys '0' to '{last}'", f"found {len(store)}"):
        subject.optimizer.load_own_variables(store)


@pytest.mark.parametrize("store", [None, 5, [], "text", np.zeros(3)], ids=repr)
def test_store_that_is_no_mapping(subject: Subject, store: Any) -> None:
    with subject.refuses(TypeError, "store: expected a mapping", type(store).__name__):
        subject.optimizer.load_own_variables(store)


def test_weights_that_are_no_sequence(subject: Subject) -> None:
    with subject.refuses(TypeError, "weights: expected a sequence", "int"):
        subject.optimizer.set_weights(5)


def test_state_of_another_optimizer(subject: Subject) -> None:
    store: dict[str, Any] = {}
    other = fo.RMSprop(momentum=0.5, centered=True, use_ema=True)
    other.build([*four_variables(), *four_variables()])
    other.save_own_variables(store)
    count = len(stored(subject))
    assert count != len(store)
    with subject.refuses(ValueError, f"'{count - 1}'", f"found {len(store)} keys"):
        subject.optimizer.load_own_variables(store)
    with subject.refuses(ValueError, f"expected {count} arrays, found {len(store)}"):
        subject.optimizer.set_weights(list(store.values()))


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", math.nan),
        ("learning_rate", -1.0),
        ("learning_rate", math.inf),
        ("iteration", -1),
        ("iteration", -7),
    ],
)
def test_nonsense_written_through_a_live_view(kind: str, name: str, value: float) -> None:
    subject = Subject(kind, steps=5)  # the next call is an update, also of accumulated gradients
    view = subject.optimizer.variables[position_of(subject, name)]
    good = view.copy()
    view[...] = value
    before = subject.everything()
    with pytest.raises(ValueError, match=f"{name}: expected .*, found"):
        subject.step()
    assert subject.everything() == before
    view[...] = good
    subject.step()
    assert subject.twin is not None
    subject.twin.step()
    assert subject.everything() == subject.twin.everything()


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, 2.0**-130])
def test_scale_written_through_its_view(value: float) -> None:
    subject = Subject("loss_scale")
    subject.optimizer.variables[3][...] = value
    before = subject.everything()
    with pytest.raises(ValueError, match="dynamic_scale: expected a number from"):
        subject.step()
    assert subject.everything() == before
