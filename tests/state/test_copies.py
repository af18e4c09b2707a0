"""Copies and pickles of optimizers and maps go on bit for bit. They are tied to the copies of their variables."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import OPTIONS, RULES
from copies import (
    SHAPES,
    WAYS,
    WRAPPED,
    Model,
    assert_same_future,
    bits,
    both,
    cloudpickled,
    gradients,
    multi,
    rule,
    state,
    variables,
    way,
)


@way
@pytest.mark.parametrize("name", RULES)
def test_a_rule_goes_on(name: str, way: Any) -> None:
    variant = RULES[name][-1]
    for built in (True, False):
        model = Model(rule(name, **{**variant, **OPTIONS["everything"]}), built)
        model.optimizer.name = "mine"
        model.optimizer.learning_rate = 0.0123
        other = way(model)
        assert other.optimizer.learning_rate == 0.0123
        if not built:
            for each in (model, other):
                each.optimizer.build(each.weights)
        assert_same_future(model, other)


@way
@pytest.mark.parametrize("name", ["SGD", "RMSprop"])
@pytest.mark.parametrize("wrap", [None, fo.LossScaleOptimizer, fo.MultiOptimizer])
def test_a_momentum_that_rests_goes_on(name: str, wrap: Any, way: Any) -> None:
    """Its slot is still there, and takes part again once the momentum does."""
    inner = rule(name, momentum=0.9)
    given = fo.OptimizerMap(inner) if wrap is fo.MultiOptimizer else inner
    model = Model(wrap(given) if wrap else inner)
    inner.momentum = 0.0
    other = way(way(model))
    assert_same_future(model, other)
    for each in (model.optimizer, other.optimizer):
        part = getattr(each, "inner_optimizer", each)
        part = getattr(part, "optimizers", [part])[0]
        assert part.momentum == part.get_config()["momentum"] == 0.0
        part.momentum = 0.5
    assert_same_future(model, other)


@way
@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("built", [True, False], ids=["built", "unbuilt"])
def test_a_wrapper_goes_on(name: str, built: bool, way: Any) -> None:
    model = Model(WRAPPED[name](), built)
    if built:
        model.optimizer.apply({**gradients(7), "head/bias": np.array(np.nan, np.float32)})
    other = way(model)
    if not built:
        for each in (model, other):
            each.optimizer.build(each.weights)
    assert_same_future(model, other)


@both
@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_goes_on(option: str, way: Any) -> None:
    model = Model(fo.AdamW(**{"weight_decay": 0.1, **OPTIONS[option]}), steps=5)
    assert_same_future(model, way(model))


@pytest.mark.parametrize("name", [*RULES, *WRAPPED])
def test_a_shallow_copy_has_state_of_its_own_on_the_same_variables(name: str) -> None:
    model = Model(WRAPPED[name]() if name in WRAPPED else rule(name, use_ema=True))
    other = copy.copy(model.optimizer)
    assert state(other) == state(model.optimizer)
    assert type(other) is type(model.optimizer)
    before, weights = state(other), bits(model.weights)
    model.step(9)
    assert state(other) == before
    after, weights_after = state(model.optimizer), bits(model.weights)
    for array, value in zip(model.weights.values(), weights.values(), strict=True):
        array[...] = np.frombuffer(value, array.dtype).reshape(array.shape)
    other.apply(gradients(9))
    assert bits(model.weights) == weights_after
    assert state(other) == after


def test_a_shallow_copy_has_parts_of_its_own() -> None:
    optimizer = multi()
    optimizer.build(variables())
    other = copy.copy(optimizer)
    assert list(other.optimizer_map) == list(optimizer.optimizer_map)
    assert all(a is not b for a, b in zip(other.optimizers, optimizer.optimizers, strict=True))
    assert other.optimizer_map["head/bias"] is other.optimizers[1]
    assert copy.copy(fo.LossScaleOptimizer(optimizer)).inner_optimizer is not optimizer


@both
def test_containers_stay_tied(way: Any) -> None:
    weights = [np.ones(3, np.float32), np.ones(2, np.float16)]
    optimizer = fo.Adam(0.1)
    optimizer.build(weights)
    for holder in ([weights, optimizer], {"o": optimizer, "w": weights}, (optimizer, weights)):
        copied = way(holder)
        values = list(copied.values()) if isinstance(copied, dict) else copied
        arrays = next(value for value in values if isinstance(value, list))
        mine = next(value for value in values if isinstance(value, fo.Adam))
        mine.apply([np.ones(3), np.ones(2)])
        assert all((array < 1).all() for array in arrays)
        assert (weights[0] == 1).all()


class Parameter:
    """Shares its memory, as tensors of other libraries do."""

    def __init__(self, values: list[float]) -> None:
        self.data = np.array(values, np.float32)

    @property
    def __array_interface__(self) -> Any:
        return self.data.__array_interface__


@both
def test_objects_that_share_memory_stay_tied(way: Any) -> None:
    parameter = Parameter([1, 2])
    optimizer = fo.SGD(1.0)
    optimizer.build([parameter])
    optimizer, parameter = way((optimizer, parameter))
    optimizer.apply([np.ones(2)])
    assert parameter.data.tolist() == [0, 1]


class Holder:
    def __init__(self) -> None:
        self.rate = 0.5
        self.weights = np.ones(2)
        self.optimizer = fo.SGD(self.current_rate)
        self.optimizer.build([self.weights])

    def current_rate(self) -> float:
        return self.rate


@way
def test_a_rate_bound_to_the_holder_is_the_copy_s(way: Any) -> None:
    first = Holder()
    second = way(first)
    alone = way(first.optimizer)  # drags a holder of its own along
    second.rate = 0.25
    second.optimizer.apply([np.ones(2)])
    assert second.weights.tolist() == [0.75, 0.75]
    assert first.weights.tolist() == [1, 1]
    assert alone.learning_rate == 0.5


class Warmed(fo.SGD):
    """A constructor, attributes and a slot of its own, and a rate bound to itself."""

    __slots__ = ("__secret", "label")

    def __init__(self, peak: float) -> None:
        super().__init__(peak, momentum=0.9)
        self.learning_rate = self.warm
        self.peak = peak
        self.history: list[Any] = [self]
        self.label = "mine"
        self.__secret = 3

    def warm(self) -> float:
        return self.peak / (1 + self.iterations)

    @property
    def secret(self) -> int:
        return self.__secret


class Logged(fo.LossScaleOptimizer):
    def __init__(self, inner: Any, log: list[str]) -> None:
        super().__init__(inner)
        self.log = log


class Labelled(fo.OptimizerMap):
    label = ""


class Grouped(fo.MultiOptimizer):
    def __init__(self, label: str) -> None:
        members = Labelled(Warmed(0.3), {"head/.*": fo.Adam()})
        members.label = label
        super().__init__(members)
        self.label = label


@way
@pytest.mark.parametrize("built", [True, False], ids=["built", "unbuilt"])
def test_subclasses_keep_their_own(built: bool, way: Any) -> None:
    model = Model(Warmed(0.2), built)
    other = way(model)
    mine = other.optimizer
    assert (mine.peak, mine.label, mine.secret) == (0.2, "mine", 3)
    assert mine.history[0] is mine
    mine.peak = 0.1
    assert mine.learning_rate == model.optimizer.learning_rate / 2
    mine.peak = 0.2
    if built:
        assert_same_future(model, other)


@way
def test_subclasses_of_wrappers_keep_their_own(way: Any) -> None:
    model = Model(Logged(Grouped("g"), ["x"]))
    other = way(model)
    mine = other.optimizer
    assert (type(mine), mine.log, mine.inner_optimizer.label) == (Logged, ["x"], "g")
    assert type(mine.inner_optimizer.optimizer_map) is Labelled
    assert mine.inner_optimizer.optimizer_map.label == "g"
    assert_same_future(model, other)


def test_stateless_apply_knows_subclasses_with_constructors_of_their_own() -> None:
    model = Model(Warmed(0.2))
    weights, optimizer = bits(model.weights), state(model.optimizer)
    updated, _ = model.optimizer.stateless_apply(
        model.optimizer.variables, list(gradients(5).values()), list(model.weights.values())
    )
    assert (bits(model.weights), state(model.optimizer)) == (weights, optimizer)
    model.step(5)
    for array, w in zip(updated[:2], model.weights.values(), strict=False):  # without master copies
        assert array.tobytes() == w.tobytes()


@way
@pytest.mark.parametrize("order", range(6))
def test_parts_of_a_wrapper_are_its_parts_in_any_order(order: int, way: Any) -> None:
    group = multi()
    outer = fo.LossScaleOptimizer(group)
    model = Model(outer)
    member = group.optimizers[0]
    holders = [
        [member, group, outer],
        [outer, group, member],
        [group.optimizer_map, group],
        [group, group.optimizer_map],
        [{"member": member}, outer],
        [model.weights, member, outer],
    ]
    pair = [model, holders[order]]
    copied, holder = way(pair if order % 2 else pair[::-1])[:: 1 if order % 2 else -1]
    mine = copied.optimizer.inner_optimizer
    assert mine.optimizers[0] is mine.optimizer_map["dense/kernel"]
    for part in holder:
        if isinstance(part, fo.Nadam):
            assert part is mine.optimizers[0]
        if isinstance(part, fo.MultiOptimizer):
            assert part is mine
        if isinstance(part, fo.OptimizerMap):
            assert part is mine.optimizer_map
    assert_same_future(model, copied)


@way
def test_a_part_alone_can_be_used(way: Any) -> None:
    group = multi()
    model = Model(group)
    member = way(group.optimizers[0])
    assert member.iterations == 3
    assert state(member) == state(group.optimizers[0])
    member.apply([np.ones(SHAPES[i]) for i in range(3)])
    inner = way(fo.LossScaleOptimizer(model.optimizer).inner_optimizer)
    inner.apply(gradients(0))
    assert inner.iterations == 4
    assert model.optimizer.iterations == 3
    del group, model.optimizer
    assert way(member).iterations == 4


def test_functions_that_refer_to_the_wrapper_do_not_matter() -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    inner = fo.SGD(lambda: 1 / outer.dynamic_scale)
    outer = fo.LossScaleOptimizer(inner, 4.0)
    outer.build([np.ones(2)])
    for first, second in ((inner, outer), (outer, inner)):
        parts = pickle.loads(cloudpickle.dumps([first, second]))
        mine, around = parts if first is inner else parts[::-1]
        assert around.inner_optimizer is mine
        assert mine.learning_rate == 0.25
        around.apply([np.array([np.nan, 0])])
        assert mine.learning_rate == 0.5
        assert inner.learning_rate == 0.25


def test_what_pickle_cannot_take_is_its_own_error() -> None:
    optimizer = fo.SGD(lambda: 0.5)
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(optimizer)
    assert copy.deepcopy(optimizer).learning_rate == 0.5
    assert cloudpickled(optimizer).learning_rate == 0.5


def test_a_copy_of_another_format_is_refused() -> None:
    make, arguments, saved = fo.SGD().__reduce__()
    for wrong in (saved | {"format": 2}, {}, None):
        with pytest.raises(ValueError, match="SGD: expected a copy of format 1, found"):
            make(*arguments).__setstate__(wrong)


@pytest.mark.parametrize("name", ["rule", *WRAPPED])
def test_what_a_failed_load_has_left_is_not_copied(name: str) -> None:
    model = Model(WRAPPED[name]() if name in WRAPPED else fo.Adam())
    counts = [
        array
        for key, array in model.optimizer.named_variables().items()
        if key.rpartition("/")[2] == "iteration" and not key.startswith("loss_scale/")
    ]
    counts[-1][...] = -1
    for each in (copy.copy, *WAYS.values()):
        with pytest.raises(ValueError, match="copy: expected a whole state, found an iteration"):
            each(model.optimizer)


def test_excluded_variables_stay_excluded() -> None:
    weights = [np.ones(2, np.float32) for _ in range(3)]
    for built in (True, False):
        optimizer = fo.SGD(0.5, weight_decay=0.5)
        optimizer.exclude_from_weight_decay([weights[1]])
        if built:
            optimizer.build(weights)
        optimizer, copies = copy.deepcopy((optimizer, weights))
        optimizer.build(copies)
        optimizer.apply([np.zeros(2)] * 3)
        assert [array[0] for array in copies] == [0.75, 1, 0.75]


def test_counters_of_an_unbuilt_optimizer_are_kept() -> None:
    optimizer = fo.Adam()
    optimizer.variables[0][...] = 7
    assert pickle.loads(pickle.dumps(optimizer)).iterations == 7
