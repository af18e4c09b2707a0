"""Steps on state that a host keeps: a stand-in for a host, with NumPy arrays, against the formulas once more."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import numpy as np
import pytest
from cases import TORCH_RULES
from fusedopt import _core
from reference import TORCH_RULES as FORMULAS
from reference import Array
from sample_arrays import BFLOAT16, numbers, same_bits

VARIANTS = [(rule, variant) for rule, variants in TORCH_RULES.items() for variant in variants]
SHAPES = [(), (7,), (3, 5), (0, 4), (40, 60)]


class Parameter:
    """What a host's parameter is to a step: a gradient, and memory."""

    def __init__(self, array: Array, grad: Any = None) -> None:
        self.array = array
        self.grad = grad

    @property
    def __array_interface__(self) -> dict[str, Any]:
        interface: dict[str, Any] = self.array.__array_interface__
        return interface


def slot_names(rule: str, settings: dict[str, Any]) -> list[str]:
    known = FORMULAS[rule]
    a = {**known.defaults, **settings}
    return [name for group in known.slots(a, np.zeros(1)) for name in group]


def new_state(rule: str, settings: dict[str, Any], array: Array, step: Any) -> dict[str, Any]:
    dtype = np.float64 if array.dtype == np.float64 else np.float32
    start = settings.get("initial_accumulator_value", 0.0)
    state: dict[str, Any] = {"step": step}
    for name in slot_names(rule, settings):
        state[name] = np.full(array.shape, start if name == "sum" else 0.0, dtype)
    if rule == "TorchNAdam":
        state["mu_product"] = np.ones((), np.float32)
    return state


class Host:
    """Parameters of one rule with their state."""

    def __init__(self, rule: str, dtype: Any = np.float32, **settings: Any) -> None:
        self.rule = rule
        self.settings = {**FORMULAS[rule].defaults, **settings}
        self.parameters = [
            Parameter(numbers(shape, dtype, seed)) for seed, shape in enumerate(SHAPES)
        ]
        self.state: dict[Any, dict[str, Any]] = {}
        self.core = _core.HostedStep(rule)

    def fill(self, parameters: list[Any]) -> None:
        for p in parameters:
            self.state[p] = new_state(self.rule, self.settings, p.array, np.zeros((), np.float32))

    def set_gradients(self, seed: int) -> None:
        for p in self.parameters:
            p.grad = numbers(p.array.shape, p.array.dtype, seed := seed + 1)

    def run(self, **options: Any) -> tuple[bool, float | None, list[Any]]:
        return self.core.run([(self.parameters, self.settings)], self.state, **options)

    def step(self, **options: Any) -> float | None:
        stepped, norm, missing = self.run(**options)
        if missing:
            assert (stepped, norm) == (False, None)
            self.fill(missing)
            stepped, norm, missing = self.run(**options)
        assert stepped
        assert not missing
        return norm

    def snapshot(self) -> list[Any]:
        arrays = [p.array.tobytes() for p in self.parameters]
        kept = [
            {name: np.asarray(value).tobytes() for name, value in self.state.get(p, {}).items()}
            for p in self.parameters
        ]
        return [arrays, kept]


class Expected:
    """The same parameters, stepped by the formulas."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.arrays = [p.array.copy() for p in host.parameters]
        self.slots = [new_state(host.rule, host.settings, array, 0) for array in self.arrays]
        self.counts = [0] * len(self.arrays)

    def step(self) -> None:
        settings = self.host.settings
        for i, p in enumerate(self.host.parameters):
            if p.grad is None:
                continue
            self.counts[i] += 1
            with np.errstate(all="ignore"):
                FORMULAS[self.host.rule].formula(
                    self.arrays[i], p.grad, self.slots[i], settings,
                    settings["learning_rate"], self.counts[i],
                )  # fmt: skip

    def check(self) -> None:
        for p, array, slots, count in zip(
            self.host.parameters, self.arrays, self.slots, self.counts, strict=True
        ):
            assert same_bits(p.array, array)
            kept = self.host.state.get(p, {})
            for name, value in slots.items():
                if name != "step" and count:
                    assert same_bits(np.asarray(kept[name]), np.asarray(value)), name
            if count and self.host.rule != "TorchSGD":
                assert kept["step"] == count
            elif self.host.rule == "TorchSGD":
                assert "step" not in kept


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("rule", "variant"), VARIANTS)
def test_steps_have_the_bits_of_the_formulas(
    rule: str, variant: dict[str, Any], dtype: Any
) -> None:
    host = Host(rule, dtype, **variant)
    expected = Expected(host)
    for t in range(5):
        host.set_gradients(100 * t)
        host.parameters[t % 3].grad = None  # joins late, or skips
        host.step()
        expected.step()
        expected.check()


def test_the_state_that_is_missing_is_named_and_nothing_done() -> None:
    host = Host("TorchAdamW")
    host.set_gradients(1)
    host.parameters[1].grad = None
    before = host.snapshot()
    wanted = [p for p in host.parameters if p.grad is not None]
    assert host.run() == (False, None, wanted)
    host.fill(wanted)
    del host.state[wanted[2]]["exp_avg_sq"]
    host.state[wanted[0]]["step"] = None
    assert host.run() == (False, None, [wanted[0], wanted[2]])
    assert host.snapshot()[0] == before[0]


def test_what_a_setting_makes_needless_may_be_missing() -> None:
    host = Host("TorchSGD", momentum=0.0)
    host.set_gradients(1)
    assert host.core.run([(host.parameters, host.settings)], {}) == (True, None, [])
    host = Host("TorchRMSprop", momentum=0.0)
    host.set_gradients(1)
    host.step()
    host.settings["momentum"] = 0.9
    wanted = list(host.parameters)
    assert host.run() == (False, None, wanted)
    for p in wanted:
        host.state[p]["momentum_buffer"] = np.zeros_like(p.array)
    assert host.run() == (True, None, [])


@pytest.mark.parametrize("first", [0, 0.0, np.zeros(()), np.zeros(1, np.float32), np.float64(0.0)])
def test_counts_are_written_in_place_or_replaced(first: Any) -> None:
    parameter = Parameter(np.ones(3), np.ones(3))
    state = {parameter: new_state("TorchAdam", {"amsgrad": False}, parameter.array, first)}
    core = _core.HostedStep("TorchAdam")
    for count in (1, 2):
        assert core.run([([parameter], {"learning_rate": 0.1})], state)[0]
        now = state[parameter]["step"]
        assert now == count
        assert (now is first) == isinstance(first, np.ndarray)
        assert isinstance(now, (np.ndarray, int if isinstance(first, int) else float))


def test_dampening_spares_the_first_gradient() -> None:
    parameter = Parameter(np.zeros(3), np.full(3, 2.0))
    state = {parameter: {"momentum_buffer": np.zeros(3), "step": 0}}
    core = _core.HostedStep("TorchSGD")
    groups = [([parameter], {"learning_rate": 1.0, "momentum": 0.5, "dampening": 0.5})]
    core.run(groups, state)
    assert state[parameter]["momentum_buffer"].tolist() == [2.0] * 3
    assert list(state[parameter]) == ["momentum_buffer"]
    core.run(groups, state)
    assert state[parameter]["momentum_buffer"].tolist() == [2.0] * 3
    core.run([([parameter], groups[0][1] | {"dampening": 0.0})], state)
    assert state[parameter]["momentum_buffer"].tolist() == [3.0] * 3


def test_groups_and_their_settings_are_read_anew_in_each_call() -> None:
    core = _core.HostedStep("SGD")
    parameters = [Parameter(np.zeros(2), np.ones(2)) for _ in range(3)]
    state = {p: {"step": 0} for p in parameters}
    first, second = {"learning_rate": 1.0}, {"learning_rate": 2.0, "maximize": True}
    groups = [(parameters[:1], first), ([], {"learning_rate": 0.0}), (parameters[1:], second)]
    core.run(groups, state)
    assert [p.array[0] for p in parameters] == [-1.0, 2.0, 2.0]
    first["learning_rate"] = 3.0
    del second["maximize"]
    core.run(groups, state)
    assert [p.array[0] for p in parameters] == [-4.0, 0.0, 0.0]
    first["weight_decay"] = 0.25
    core.run([(parameters, first)], state)
    assert [p.array[0] for p in parameters] == [-4.0 * 0.25 - 3.0, -3.0, -3.0]
    core.run([], state)


def test_memory_that_has_moved_is_found() -> None:
    host = Host("TorchAdamW")
    expected = Expected(host)
    for t in range(4):
        host.set_gradients(100 * t)
        host.step(max_norm=1e9)
        expected.step()
        expected.check()
        for p in host.parameters:
            p.array = p.array.copy()
            state = {name: value.copy() for name, value in host.state[p].items()}
            host.state[p] = state if t % 2 else dict(reversed(state.items()))
        if t == 1:
            host.state = dict(reversed(host.state.items()))
        if t == 2:
            host.state = {Parameter(np.ones(1)): {}, **host.state}


def test_the_norm_is_that_of_all_groups() -> None:
    host, scaled = Host("TorchAdam", np.float64), Host("TorchAdam", np.float64)
    for one in (host, scaled):
        one.set_gradients(1)
    squares = sum(float(np.sum(np.square(p.grad))) for p in host.parameters)
    norm = host.step(max_norm=0.5, unscale=0.25)
    assert norm == pytest.approx(0.25 * np.sqrt(squares), rel=1e-12)
    assert scaled.step(unscale=0.25 * (0.5 / (norm + 1e-6))) is None
    assert host.snapshot() == scaled.snapshot()


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_gradient_that_is_not_finite_changes_nothing(bad: float) -> None:
    host = Host("TorchNAdam")
    host.set_gradients(1)
    host.step()
    host.parameters[4].grad[3, 3] = bad
    before = host.snapshot()
    assert host.run(skip_nonfinite=True) == (False, None, [])
    stepped, norm, missing = host.run(skip_nonfinite=True, max_norm=1.0)
    assert not stepped
    assert not np.isfinite(norm)  # type: ignore[arg-type]
    assert missing == []
    assert host.snapshot() == before
    assert host.run()[0]
    assert host.snapshot() != before


def test_averages_and_master_copies_are_kept_under_their_keys() -> None:
    half = Parameter(np.ones(5, np.float16), np.full(5, 1e-5, np.float16))
    full = Parameter(np.ones(5, np.float32), np.full(5, 1e-5, np.float32))
    state: dict[Any, dict[str, Any]] = {p: {"step": 0} for p in (half, full)}
    core = _core.HostedStep("SGD")
    groups = [([half, full], {"learning_rate": 1.0, "ema_momentum": 0.5})]
    keys = {"average_key": "ema", "master_key": "copy"}
    assert core.run(groups, state, **keys)[2] == [half, full]
    for p in (half, full):
        state[p]["ema"] = np.zeros(5, np.float32)
    assert core.run(groups, state, **keys)[2] == [half]
    state[half]["copy"] = np.ones(5, np.float32)
    for _ in range(3):
        assert core.run(groups, state, **keys)[0]
    expected = np.float32(1.0)
    for _ in range(3):
        expected -= np.float32(np.float16(1e-5))
    assert state[half]["copy"].tolist() == [expected] * 5
    assert half.array.tolist() == [np.float16(expected)] * 5
    assert 0.87 < state[full]["ema"][0] < 0.88
    full.grad = None  # stands still, but its average moves
    before = full.array.copy()
    assert core.run(groups, state, **keys)[0]
    assert 0.93 < state[full]["ema"][0] < 0.94
    assert same_bits(full.array, before)


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BFLOAT16], ids=str)
def test_a_variable_of_16_bits_without_a_master_copy_rounds_at_random(dtype: Any) -> None:
    class Half(Parameter):
        """NumPy's interface cannot describe bfloat16."""

        __array_interface__ = property()  # type: ignore[assignment]

        def __array__(self, *_: Any, **__: Any) -> Array:
            return self.array

    def run(seed: int) -> Array:
        parameter = Half(np.ones(4000, dtype), np.full(4000, 1e-4, np.float32))
        core = _core.HostedStep("SGD")
        groups = [([parameter], {"learning_rate": 1.0})]
        assert core.run(groups, {parameter: {"step": 0}}, seed=seed)[0]
        return parameter.array

    first = run(1)
    assert same_bits(run(1), first)
    assert not same_bits(run(2), first)
    step = 1.0 - float(first.min())
    assert set(first.astype(float)) == {1.0, 1.0 - step}
    assert float(np.mean(1.0 - first.astype(float))) == pytest.approx(1e-4, rel=0.3)


def test_layouts_are_those_of_the_parameter() -> None:
    plain, turned = Host("TorchAdamW"), Host("TorchAdamW")
    for host in (plain, turned):
        host.set_gradients(1)
        host.step()
    for p in turned.parameters:
        p.array = p.array.copy(order="F")
        state = turned.state[p]
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = state[name].copy(order="F")
    for _ in range(2):
        plain.step()
        turned.step()
    for a, b in zip(plain.parameters, turned.parameters, strict=True):
        assert np.array_equal(a.array, b.array)


class Moving(Parameter):
    """Moves the memory of an array when it is asked for its own."""

    other: Array

    @property
    def __array_interface__(self) -> dict[str, Any]:
        size = self.other.size
        self.other.resize(1 << 20, refcheck=False)
        self.other.resize(size, refcheck=False)
        interface: dict[str, Any] = self.array.__array_interface__
        return interface


def test_memory_is_looked_up_after_the_last_code_of_the_caller() -> None:
    first, moving = Parameter(np.zeros(1000), np.ones(1000)), Moving(np.zeros(9), np.ones(9))
    sums = [np.zeros(p.array.shape) for p in (first, moving)]
    moving.other, before = sums[0], sums[0].ctypes.data
    state = {p: {"step": 0, "sum": s} for p, s in zip((first, moving), sums, strict=True)}
    core = _core.HostedStep("TorchAdagrad")
    assert core.run([([first, moving], {"learning_rate": 1.0})], state)[0]
    assert sums[0].ctypes.data != before
    assert set(sums[0]) == set(sums[1]) == {1.0}


def test_a_call_from_within_a_call_has_memory_of_its_own() -> None:
    class Nested(Parameter):
        @property
        def __array_interface__(self) -> dict[str, Any]:
            if self.grad is not None and not nested:
                nested.append(core.run([([inner], {"learning_rate": 1.0})], state)[0])
            interface: dict[str, Any] = self.array.__array_interface__
            return interface

    nested: list[bool] = []
    core = _core.HostedStep("SGD")
    inner, outer = Parameter(np.zeros(3), np.ones(3)), Nested(np.zeros(5), np.ones(5))
    state = {p: {"step": 0} for p in (inner, outer)}
    assert core.run([([outer], {"learning_rate": 2.0})], state)[0]
    assert nested == [True]
    assert inner.array.tolist() == [-1.0] * 3
    assert outer.array.tolist() == [-2.0] * 5


def test_threads_may_share_one_object() -> None:
    core = _core.HostedStep("TorchAdamW")
    hosts = [Host("TorchAdamW") for _ in range(4)]
    alone = Host("TorchAdamW")
    for host in [*hosts, alone]:
        host.core = core
        host.set_gradients(1)
        host.step()
    threads = [threading.Thread(target=lambda h=h: [h.step() for _ in range(50)]) for h in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(50):
        alone.step()
    for host in hosts:
        assert host.snapshot() == alone.snapshot()


def test_nothing_is_kept_after_a_call() -> None:
    host = Host("TorchAdamW")
    host.set_gradients(1)
    host.step()
    parameter = host.parameters[2]
    kept = [weakref.ref(parameter), weakref.ref(host.state[parameter]["exp_avg"])]
    parameter.grad = "no gradient"
    with pytest.raises(TypeError):
        host.run()
    host.parameters.clear()
    host.state.clear()
    del parameter
    gc.collect()
    assert [one() for one in kept] == [None, None]
