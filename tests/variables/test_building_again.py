"""Building again with more variables: old ones go on bit for bit, and new ones start as in a first build."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import fusedopt as fo
import ml_dtypes
import numpy as np
import pytest
from cases import CASES, VARIANTS, Case

OLD = {"dense/kernel": np.float32, "dense/bias": np.float64, "half/kernel": np.float16}
NEW = {"body/kernel": np.float32, "body/half": ml_dtypes.bfloat16, "body/wide": np.float64}


def weights(dtypes: dict[str, Any], seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    made = {name: random.normal(size=(4, 5)).astype(dtype) for name, dtype in dtypes.items()}
    return made | {f"empty/{seed}": np.zeros((0, 3))}


def gradients(variables: dict[str, Any], seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    # In one order, so that a variable has the same gradient beside any others.
    return {name: random.normal(size=w.shape) for name, w in sorted(variables.items())}


def mixed(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Old and new ones, in another order."""
    return dict(sorted((old | new).items()))


def make(case: Case) -> fo.Optimizer:
    optimizer: fo.Optimizer = getattr(fo, case.rule)(**case.arguments)
    return optimizer


def several(case: Case) -> fo.Optimizer:
    return fo.MultiOptimizer(
        fo.OptimizerMap(make(case), {".*kernel": fo.AdamW(use_ema=True), "idle/.*": fo.Nadam()})
    )


WRAPPERS: dict[str, Callable[[Case], fo.Optimizer]] = {
    "alone": make,
    "scaled": lambda case: fo.LossScaleOptimizer(make(case), dynamic_growth_steps=2),
    "several": several,
    "several, scaled": lambda case: fo.LossScaleOptimizer(several(case)),
}


def state(optimizer: fo.Optimizer) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in optimizer._core.state()}


def listed(optimizer: fo.Optimizer) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in optimizer.named_variables().items()}


def of(names: Any, found: dict[str, bytes]) -> dict[str, bytes]:
    return {key: value for key, value in found.items() if key.endswith(tuple(names))}


def bits(variables: dict[str, Any]) -> dict[str, bytes]:
    return {name: w.tobytes() for name, w in variables.items()}


pytestmark = pytest.mark.filterwarnings(
    "ignore:optimizer_map. no variable's name", "ignore:No gradient for"
)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("case", VARIANTS, ids=str)
def test_every_rule_goes_on(case: Case, wrapper: str) -> None:
    check_going_on(WRAPPERS[wrapper](case), WRAPPERS[wrapper](case), WRAPPERS[wrapper](case), 3)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.rule in {"Adam", "Adafactor", "Lamb"}], ids=str
)
@pytest.mark.parametrize("steps", [0, 3])
def test_every_option_goes_on(case: Case, steps: int) -> None:
    check_going_on(make(case), make(case), make(case), steps)


def check_going_on(
    grown: fo.Optimizer, alone: fo.Optimizer, fresh: fo.Optimizer, steps: int
) -> None:
    old, new, copy, others = weights(OLD, 1), weights(NEW, 2), weights(OLD, 1), weights(NEW, 2)
    grown.build(old)
    alone.build(copy)
    fresh.build(others)
    for k in range(steps):
        grown.apply(gradients(old, k))
        alone.apply(gradients(copy, k))
    before, values = state(grown), bits(new)
    grown.build(mixed(old, new))
    assert of(new, listed(grown)) == of(new, listed(fresh))
    assert of(new, state(grown)).keys() == of(new, state(fresh)).keys()
    assert of(old, state(grown)) == of(old, before)
    counters = {key: value for key, value in before.items() if not key.endswith(tuple(old))}
    assert {key: state(grown)[key] for key in counters} == counters
    assert bits(new) == values
    for k in range(steps, steps + 3):
        grown.apply({**gradients(old, k), **dict.fromkeys(new)})
        alone.apply(gradients(copy, k))
    assert bits(old) == bits(copy)
    assert of(old, state(grown)) == of(old, state(alone))


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("case", VARIANTS, ids=str)
def test_old_and_new_step_as_if_built_together(case: Case, wrapper: str) -> None:
    grown, together = WRAPPERS[wrapper](case), WRAPPERS[wrapper](case)
    old, new = weights(OLD, 1), weights(NEW, 2)
    grown.build(old)
    for k in range(3):
        grown.apply(gradients(old, k))
    everything = mixed(old, new)
    grown.build(everything)
    copy = {name: w.copy() for name, w in everything.items()}
    together.build(copy)
    assert [name for name, _ in grown._core.state()] == [n for n, _ in together._core.state()]
    together._core.set_state([array for _, array in grown._core.state()])
    for k in range(3, 7):
        grown.apply(gradients(everything, k))
        together.apply(gradients(copy, k))
    assert bits(everything) == bits(copy)
    assert state(grown) == state(together)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_stateless_steps_know_all_variables(wrapper: str) -> None:
    optimizer = WRAPPERS[wrapper](Case("Adam", {"use_ema": True}, ""))
    variables = {"dense/kernel": np.ones((2, 3)), "dense/bias": np.ones(3)}
    optimizer.build(variables)
    optimizer.apply(gradients(variables, 1))
    variables = {"new/bias": np.ones(4), **variables}
    optimizer.build(variables)
    optimizer.apply(gradients(variables, 2))
    given = [gradients(variables, 3)[name] for name in variables]
    found, after = optimizer.stateless_apply(
        [array.copy() for array in optimizer.variables],
        given,
        [w.copy() for w in variables.values()],
    )
    optimizer.apply(given)
    assert [w.tobytes() for w in found] == list(bits(variables).values())
    assert [w.tobytes() for w in after] == [w.tobytes() for w in optimizer.variables]


@pytest.mark.parametrize("overwrite", [None, 5])
@pytest.mark.parametrize("case", list(VARIANTS), ids=str)
def test_a_new_average_starts_at_the_value(case: Case, overwrite: int | None) -> None:
    def build(variables: dict[str, Any]) -> fo.Optimizer:
        options = {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": overwrite}
        optimizer: fo.Optimizer = getattr(fo, case.rule)(**case.arguments, **options)
        optimizer.build(variables)
        return optimizer

    old, new = weights(OLD, 1), weights(NEW, 2)
    grown = build(old)
    for k in range(3):
        grown.apply(gradients(old, k))
    grown.build(mixed(old, new))
    before = {name: w.astype(np.float64) for name, w in new.items()}
    grown.apply(gradients(mixed(old, new), 3))
    found = dict(grown._core.state())
    for name, w in new.items():
        master = found.get(f"master/{name}", w)
        expected = 0.9 * before[name] + 0.1 * np.asarray(master, np.float64)
        np.testing.assert_allclose(found[f"average/{name}"], expected, rtol=1e-5, atol=1e-6)
    other = {name: w.copy() for name, w in new.items()}
    grown.build(mixed(old, new) | {"late": (late := np.full(3, 7.0))})
    grown.finalize_variable_values(mixed(old, new) | {"late": late})
    assert (late == 7).all()
    assert bits(new) != bits(other) or overwrite == 4


def test_an_average_written_by_hand_is_kept() -> None:
    """As state from elsewhere may come, through the live views."""
    w = np.ones(3)
    optimizer = fo.SGD(0.0, use_ema=True, ema_momentum=0.5)
    optimizer.build({"w": w})
    state = optimizer.named_variables()
    state["iteration"][...] = 10
    state["average/w"][...] = 3
    optimizer.apply([np.ones(3)])
    assert (state["average/w"] == 2).all()


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_views_stay_live(wrapper: str) -> None:
    case = Case("Adafactor", {"use_ema": True, "gradient_accumulation_steps": 2}, "")
    optimizer = WRAPPERS[wrapper](case)
    variables = weights(OLD, 1)
    optimizer.build(variables)
    views = optimizer.named_variables()
    for k in range(3):
        variables = {f"more/{k}": np.ones((40, 50)), **variables}
        optimizer.build(variables)
        optimizer.apply(gradients(variables, k))
        now = optimizer.named_variables()
        for name, view in views.items():
            assert view.tobytes() == now[name].tobytes(), name
            assert view.size == 0 or np.shares_memory(view, now[name]), name
    del optimizer, now
    gc.collect()
    assert all(np.isfinite(np.asarray(view, np.float64)).all() for view in views.values())


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_same_variables_change_nothing(wrapper: str, recwarn: Any) -> None:
    optimizer = WRAPPERS[wrapper](VARIANTS[0])
    old = weights(OLD, 1)
    optimizer.build(old)
    optimizer.apply(gradients(old, 1))
    before, views = state(optimizer), optimizer.variables
    recwarn.clear()
    optimizer.build(old)
    optimizer.build(list(old.values()))
    optimizer.build([w[:] for w in old.values()])
    assert not recwarn.list
    assert state(optimizer) == before
    assert all(
        a.ctypes.data == b.ctypes.data for a, b in zip(views, optimizer.variables, strict=True)
    )


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("named", [True, False], ids=["named", "in order"])
def test_another_order(wrapper: str, named: bool) -> None:
    optimizer = WRAPPERS[wrapper](Case("Adam", {}, ""))
    a, b = np.ones(3), np.full(4, 2.0)
    optimizer.build({"a": a, "b": b} if named else [a, b])
    optimizer.apply([np.ones(3), np.ones(4)])
    c = np.zeros(2)
    optimizer.build({"c": c, "b": b, "a": a} if named else [c, b, a])
    optimizer.apply([np.ones(2), np.ones(4), np.ones(3)])
    optimizer.build([a, c, b])
    optimizer.apply([np.ones(3), np.ones(2), np.ones(4)])
    expected = [np.ones(3), np.full(4, 2.0)]
    other = WRAPPERS[wrapper](Case("Adam", {}, ""))
    other.build({"a": expected[0], "b": expected[1]} if named else expected)
    for _ in range(3):
        other.apply([np.ones(3), np.ones(4)])
    assert [a.tobytes(), b.tobytes()] == [w.tobytes() for w in expected]
    if named:
        optimizer.apply({"b": np.ones(4), "c": np.ones(2)})
        assert optimizer._core.names == ["a", "c", "b"]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_refusals_change_nothing(wrapper: str) -> None:
    optimizer = WRAPPERS[wrapper](Case("Adam", {"use_ema": True}, ""))
    old = weights(OLD, 1)
    w = old["dense/kernel"]
    optimizer.build(old)
    optimizer.apply(gradients(old, 1))
    new = {"new": np.ones(3)}
    locked = np.ones(3)
    locked.flags.writeable = False
    inside = next(
        array for name, array in optimizer._core.state() if "momentum/dense/kernel" in name
    )
    missing = {name: v for name, v in old.items() if name != "dense/bias"}
    cases: list[tuple[Any, type[Exception], str]] = [
        (new, ValueError, "built already, on 4 variables.*variable 0 .'dense/kernel'. missing"),
        (missing | new, ValueError, "variable 1 .'dense/bias'. missing.*give it too"),
        (list(missing.values()), ValueError, "variable 1 .'dense/bias'. missing"),
        ({}, ValueError, "built already, on 4 variables"),
        (old | {"new": locked}, ValueError, "'new'.*read-only"),
        (old | {"new": np.ones(3, int)}, TypeError, "'new'"),
        (old | {"new": w[:2]}, ValueError, "'new'.*overlapping"),
        (old | {"new": inside}, ValueError, "'new'.*apart from the optimizer's state"),
        (
            {("renamed" if n == "dense/bias" else n): v for n, v in old.items()} | new,
            ValueError,
            "variable 1 .'renamed'.: expected the name 'dense/bias'",
        ),
        (
            {("other" if n == "dense/bias" else n): v for n, v in old.items()},
            ValueError,
            "expected the name 'dense/bias'",
        ),
        (
            old | {"dense/kernel": w.reshape(-1)} | new,
            ValueError,
            r"'dense/kernel'.*float32 of shape \(4, 5\).*shape \(20,\)",
        ),
        (old | {"dense/kernel": w.view(np.int32)} | new, TypeError, "dense/kernel"),
    ]
    for given, error, message in cases:
        before, values, views = state(optimizer), bits(old), optimizer.variables
        with pytest.raises(error, match=message):
            optimizer.build(given)
        assert state(optimizer) == before
        assert bits(old) == values
        assert optimizer._core.names == list(old)
        assert len(views) == len(optimizer.variables)
    optimizer.apply(gradients(old, 2))
    optimizer.build(old | new)
    optimizer.apply(gradients(old | new, 3))


def test_names_given_later() -> None:
    a, b, c = (np.ones(3) for _ in range(3))
    optimizer = fo.Adam()
    optimizer.build([a, b])
    optimizer.build({"a": a, "b": b})
    optimizer.apply({"b": np.ones(3)})
    optimizer.build([a, b, c])
    assert optimizer._core.names == ["a", "b", "2"]
    optimizer.apply({"2": np.ones(3)})
    optimizer.build({"c": c, "b": b, "a": a})
    assert [n for n, _ in optimizer.named_variables().items()][2::2] == [
        f"momentum/{n}" for n in "cba"
    ]
    with pytest.raises(ValueError, match="expected the name 'c'"):
        optimizer.build({"d": c, "b": b, "a": a})


def test_a_position_is_no_second_name() -> None:
    a, b = np.ones(3), np.ones(3)
    optimizer = fo.Adam()
    optimizer.build({"1": a})
    with pytest.raises(ValueError, match="variable 1: expected a name.*'1'"):
        optimizer.build([a, b])
    optimizer.build([b, a])
    assert optimizer._core.names == ["0", "1"]


def decay(optimizer: fo.Optimizer, variables: list[Any]) -> list[bool]:
    for w in variables:
        w[...] = 1
    optimizer.apply([np.zeros(w.shape) for w in variables])
    return [bool((w < 1).all()) for w in variables]


def test_exclusions_by_pattern_serve_new_variables() -> None:
    optimizer = fo.AdamW(weight_decay=0.5, learning_rate=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    old = {"a/kernel": np.ones(3), "a/bias": np.ones(3)}
    optimizer.build(old)
    new = {"b/bias": np.ones(3), "b/kernel": np.ones(3)}
    optimizer.build(new | old)
    assert decay(optimizer, [*new.values(), *old.values()]) == [False, True, True, False]
    values = [np.ones(3) for _ in range(4)]
    after, _ = optimizer.stateless_apply(optimizer.variables, [np.zeros(3)] * 4, values)
    assert [bool((w < 1).all()) for w in after] == [False, True, True, False]


def test_new_variables_are_excluded_before_the_build_that_takes_them() -> None:
    optimizer = fo.AdamW(weight_decay=0.5, learning_rate=0.1)
    a, b, c, d = (np.ones(3) for _ in range(4))
    optimizer.exclude_from_weight_decay([a])
    optimizer.build([a, b])
    for wrong in ([a], [a, c], []):
        with pytest.raises(ValueError, match="expected before build"):
            optimizer.exclude_from_weight_decay(wrong)
    with pytest.raises(ValueError, match="expected before build"):
        optimizer.exclude_from_weight_decay([c], ["bias"])
    optimizer.exclude_from_weight_decay([c])
    with pytest.raises(ValueError, match="expected variables given to build"):
        optimizer.build([a, b, d])
    optimizer.build([a, b, c, d])
    assert decay(optimizer, [a, b, c, d]) == [False, True, False, True]
    optimizer.build([d, c, b, a, np.ones(3)])
    assert decay(optimizer, optimizer._core.arrays) == [True, False, True, False, True]


def test_patterns_of_members_serve_new_variables() -> None:
    inner = fo.AdamW(weight_decay=0.5, learning_rate=0.1)
    inner.exclude_from_weight_decay(var_names=["bias"])
    optimizer = fo.MultiOptimizer(fo.OptimizerMap(inner, {"sgd/.*": fo.SGD(weight_decay=0.5)}))
    old = {"kernel": np.ones(3), "bias": np.ones(3)}
    with pytest.warns(UserWarning, match="no variable's name matches 'sgd"):
        optimizer.build(old)
    new = {"sgd/bias": np.ones(3), "more/bias": np.ones(3)}
    optimizer.build(new | old)
    assert decay(optimizer, [*new.values(), *old.values()]) == [True, False, True, False]


def test_a_member_takes_no_variables_by_itself() -> None:
    inner = fo.Adam()
    optimizer = fo.MultiOptimizer(fo.OptimizerMap(inner))
    w = np.ones(3)
    optimizer.build({"w": w})
    inner.build({"w": w})
    with pytest.raises(ValueError, match="on the MultiOptimizer around"):
        inner.build({"w": w, "new": np.ones(3)})
    optimizer.build({"new": np.ones(3), "w": w})
    assert inner._variable_names() == ["new", "w"]
    inner.apply({"w": np.ones(3)})


def test_a_name_that_changes_muons_formula() -> None:
    w = np.ones((3, 3))
    optimizer = fo.Muon()
    optimizer.build([w])
    with pytest.raises(ValueError, match="'embedding'.*exclusions"):
        optimizer.build({"embedding": w})
    optimizer.build({"kernel": w, "embedding": np.ones((3, 3))})


def test_a_step_cannot_build() -> None:
    def rate() -> float:
        with pytest.raises(ValueError, match="build: called by a function of its own step"):
            optimizer.build([w, np.ones(2)])
        return 0.1

    w = np.ones(3)
    optimizer = fo.SGD(rate)
    optimizer.build([w])
    optimizer.apply([np.ones(3)])


def test_moved_memory_is_found() -> None:
    w = np.ones(3)
    optimizer = fo.SGD(momentum=0.9)
    optimizer.build({"w": w})
    w.__setstate__(np.zeros(200).__reduce__()[2])
    with pytest.raises(ValueError, match="'w'.*moved"):
        optimizer.build({"w": w, "new": np.ones(3)})


@pytest.mark.parametrize("wrapper", ["alone", "several"])
def test_building_while_others_step(wrapper: str) -> None:
    optimizer = WRAPPERS[wrapper](Case("Adam", {}, ""))
    variables = {"w": np.ones(50)}
    optimizer.build(variables)
    stop, failures, steps = threading.Event(), [], [0]

    def step() -> None:
        while not stop.is_set():
            try:
                optimizer.apply({"w": np.ones(50)})
                steps[0] += 1
            except ValueError as error:
                if "built again meanwhile; call it again" not in str(error):
                    failures.append(error)

    threads = [threading.Thread(target=step) for _ in range(2)]
    for thread in threads:
        thread.start()
    for k in range(60):
        variables = {f"new/{k}": np.ones(50), **variables}
        optimizer.build(variables)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert optimizer.variables[0] > 0
    assert all((variables[f"new/{k}"] == 1).all() for k in range(60))


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("names", ["ab", "ba", "a", "b"])
def test_a_call_by_name_that_another_build_overtakes(wrapper: str, names: str) -> None:
    class Building:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            optimizer.build({"b": b, "a": a})
            return np.ones(3)

    a, b = np.ones(3), np.ones(3)
    optimizer = WRAPPERS[wrapper](Case("SGD", {}, ""))
    optimizer.build({"a": a, "b": b})
    with pytest.raises(ValueError, match="found them built again meanwhile; call it again"):
        optimizer.apply({name: Building() for name in names})
    assert (a == 1).all()
    assert (b == 1).all()
    assert optimizer.iterations == 0
    gradient = dict.fromkeys("ab", np.ones(3)) | {"b": np.zeros(3)}
    optimizer.apply(gradient)
    assert (a < 1).all()
    assert (b == 1).all()


def test_other_objects_stay_known() -> None:
    class Shared:
        def __init__(self) -> None:
            self.array = np.ones(4, np.float32)

        @property
        def __array_interface__(self) -> Any:
            return self.array.__array_interface__

    a, b = Shared(), Shared()
    optimizer = fo.SGD(1.0)
    optimizer.build([a])
    optimizer.build([b, a])
    optimizer.apply([np.zeros(4), np.ones(4)])
    assert (a.array == 0).all()
    assert (b.array == 1).all()
