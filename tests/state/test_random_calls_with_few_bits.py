"""Any sequence of calls: copies and files go on with the same bits, zero stays zero, and no update is too large."""

from __future__ import annotations

import copy
import pickle
import tempfile
from pathlib import Path
from typing import Any

import fusedopt as fo
import ml_dtypes
import numpy as np
import pytest
from fusedopt import _core
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from random_calls import run_calls

pytest.importorskip("safetensors")
pytestmark = [
    pytest.mark.filterwarnings("ignore:No gradient for"),
    pytest.mark.usefixtures("restore_runtime"),
]

Shapes = dict[str, tuple[tuple[int, ...], Any]]
FIRST: Shapes = {
    "table": ((6, 128), np.float32),
    "kernel": ((37, 31), np.float32),
    "brain": ((3, 70), ml_dtypes.bfloat16),
    "double": ((5,), np.float64),
}
LATER: Shapes = {"half": ((129,), np.float16), "odd": ((4, 10), np.float32)}
IDLE = 3  # every so many elements never have a gradient
LARGEST = 7.3  # times the rate: sqrt of what v >= k m^2 lets m / sqrt(v) become, with Adam's betas


def options(dtype: Any) -> dict[str, Any]:
    named: Any = {"kernel": dtype, "brain": dtype}
    return {"slot_dtype": dtype, "slot_dtypes": named, "seed": 11}


def adam(dtype: Any) -> Any:
    return fo.Adam(0.01, epsilon=1e-20, **options(dtype))


def several(dtype: Any) -> Any:
    named: Any = {"kernel": dtype}
    members = fo.OptimizerMap(
        fo.SGD(0.1, momentum=0.9, slot_dtype="bfloat16", master=False, seed=4),
        {
            "table": fo.Adagrad(0.1, slot_dtype=dtype),
            "kernel": fo.Lion(0.1, slot_dtypes=named, seed=5),
        },
    )
    return fo.LossScaleOptimizer(fo.MultiOptimizer(members), initial_scale=1.0)


KINDS: dict[str, Any] = {
    "adam": adam,
    "amsgrad": lambda dtype: fo.AdamW(0.01, amsgrad=True, use_ema=True, **options(dtype)),
    "accumulation": lambda dtype: fo.Yogi(
        0.01, gradient_accumulation_steps=2, global_clipnorm=1.0, **options(dtype)
    ),
    "muon": lambda dtype: fo.Muon(0.01, ns_steps=2, **options(dtype)),
    "without master": lambda dtype: fo.Adamax(0.01, master=False, **options(dtype)),
    "several": several,
}
BOUNDED = {"adam"}
TAKES_ROWS = {"adam", "amsgrad", "without master"}
KEEPS_ZEROS = {"adam", "amsgrad", "without master", "several"}
"""Muon's products move what has no gradient, and Yogi's slots begin above zero."""


def new_weights(shapes: Shapes) -> dict[str, Any]:
    rng = np.random.default_rng(len(shapes))
    return {
        name: np.array(rng.normal(size=shape)).astype(dtype)
        for name, (shape, dtype) in shapes.items()
    }


class Calls(RuleBasedStateMachine):
    kind: str
    dtype: str

    @initialize()
    def start(self) -> None:
        self.optimizer, self.weights = self._new(FIRST)
        self.twin, self.twin_weights = self._new(FIRST)
        self.first = {name: w.copy() for name, w in self.weights.items()}

    def _new(self, shapes: Shapes) -> tuple[Any, dict[str, Any]]:
        optimizer, weights = KINDS[self.kind](self.dtype), new_weights(shapes)
        optimizer.build(weights)
        return optimizer, weights

    # Steps of both

    def _gradients(self, powers: list[int | None], seed: int) -> dict[str, Any]:
        rng = np.random.default_rng(seed)
        found: dict[str, Any] = {}
        for (name, w), power in zip(self.weights.items(), powers, strict=False):
            if power is None:
                continue
            spread = 10.0 ** rng.uniform(power - 3, power, w.shape)
            gradient = (spread * rng.choice([-1, 1], w.shape)).astype(np.float32)
            gradient.reshape(-1)[::IDLE] = 0
            found[name] = gradient
        return found

    @rule(
        powers=st.lists(st.sampled_from([None, -6, -2, 0, 3]), min_size=6, max_size=6),
        seed=st.integers(0, 999),
        threads=st.integers(1, 3),
        level=st.integers(0, 9),
    )
    def step(self, powers: list[int | None], seed: int, threads: int, level: int) -> None:
        powers[0] = powers[0] or 0
        gradients = self._gradients(powers, seed)
        before = {name: w.astype(np.float64) for name, w in self.weights.items()}
        levels = _core.supported_levels()
        fo.set_num_threads(threads)
        _core.set_level(levels[level % len(levels)])
        self.optimizer.apply(gradients)
        fo.set_num_threads(1)
        _core.set_level(levels[0])
        self.twin.apply(gradients)
        if self.kind in BOUNDED:
            rate = float(self.optimizer.learning_rate)
            for name in ("table", "kernel", "double"):
                moved = np.abs(self.weights[name].astype(np.float64) - before[name]).max()
                assert moved <= rate * LARGEST + np.abs(before[name]).max() * 2.0**-23, name

    @precondition(lambda self: self.kind in TAKES_ROWS)
    @rule(rows=st.lists(st.integers(0, 5), max_size=4), seed=st.integers(0, 99))
    def step_of_rows(self, rows: list[int], seed: int) -> None:
        values = self._gradients([0], seed)["table"][rows]
        gradient = fo.RowGradient(values, np.array(rows, np.int64))
        self.optimizer.apply({"table": gradient})
        self.twin.apply({"table": gradient})

    @precondition(lambda self: self.kind in TAKES_ROWS and self.dtype == "float8")
    @rule()
    def refused_rows(self) -> None:
        before = self._bits(self.optimizer, self.weights)
        rows = fo.RowGradient(np.ones((1, 31), np.float32), np.array([2]))
        with pytest.raises(ValueError, match=r"kernel.*64.*31.*bfloat16"):
            self.optimizer.apply({"kernel": rows, "table": np.ones((6, 128), np.float32)})
        assert self._bits(self.optimizer, self.weights) == before

    # Both are changed alike

    @rule(value=st.sampled_from([0.0, 0.003, 0.02]))
    def assign_rate(self, value: float) -> None:
        for each in (self.optimizer, self.twin):
            for part in self._members(each):
                part.learning_rate = value

    @rule(value=st.sampled_from([0, 1, 2**62]))
    def assign_seed(self, value: int) -> None:
        for each in (self.optimizer, self.twin):
            for part in self._members(each):
                part.seed = value

    def _members(self, optimizer: Any) -> list[Any]:
        return list(optimizer.inner_optimizer.optimizers) if self.kind == "several" else [optimizer]

    @precondition(lambda self: "half" not in self.weights)
    @rule()
    def build_more(self) -> None:
        for optimizer, weights in (
            (self.optimizer, self.weights),
            (self.twin, self.twin_weights),
        ):
            weights |= new_weights(LATER)
            optimizer.build(weights)
        self.first |= new_weights(LATER)

    @rule()
    def set_what_is_listed(self) -> None:
        """What a list has is set again: numbers move to a neighbour at most, and alike."""
        values = [np.array(array) for array in self.optimizer.variables]
        for each in (self.optimizer, self.twin):
            each.set_weights(values)

    # One goes on elsewhere

    @rule()
    def go_on_with_a_copy(self) -> None:
        self.optimizer, self.weights = copy.deepcopy((self.optimizer, self.weights))

    @rule()
    def go_on_with_what_was_pickled(self) -> None:
        self.optimizer, self.weights = pickle.loads(pickle.dumps((self.optimizer, self.weights)))

    @rule(extra_steps=st.integers(0, 2))
    def go_on_with_what_was_saved(self, extra_steps: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.optimizer.save(Path(folder) / "state", variables=True)
            shapes = FIRST | LATER if "half" in self.weights else FIRST
            self.optimizer, self.weights = self._new(shapes)
            for step in range(extra_steps):
                self.optimizer.apply(self._gradients([0] * 6, step))
            self.optimizer.load(Path(folder) / "state")

    @rule()
    def whole_slots_take_the_numbers_exactly(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.optimizer.save(Path(folder) / "state", variables=True)
            whole = KINDS[self.kind]("float32")
            whole.build({name: w.copy() for name, w in self.weights.items()})
            whole.load(Path(folder) / "state", convert_slots=True)
        own = self.optimizer.named_variables()
        assert list(own) == list(whole.named_variables())
        for name, array in whole.named_variables().items():
            np.testing.assert_array_equal(array, own[name], err_msg=name)

    # What must hold

    def _bits(self, optimizer: Any, weights: dict[str, Any]) -> dict[str, bytes]:
        state = {name: array.tobytes() for name, array in optimizer._core.state()}
        return state | {f"variable/{name}": w.tobytes() for name, w in weights.items()}

    @invariant()
    def both_have_the_same_bits(self) -> None:
        if hasattr(self, "optimizer"):
            mine = self._bits(self.optimizer, self.weights)
            expected = self._bits(self.twin, self.twin_weights)
            assert mine.keys() == expected.keys()
            assert [name for name in mine if mine[name] != expected[name]] == []

    @precondition(lambda self: self.kind in KEEPS_ZEROS)
    @rule()
    def zero_stays_zero(self) -> None:
        slots = {
            name: array
            for name, array in self.optimizer.named_variables().items()
            if name.rpartition("/")[0].endswith(("momentum", "velocity", "velocity_hat", "norm"))
        }
        assert len(slots) >= len(self.weights) - 1  # Adagrad's begins above zero
        for name, array in slots.items():
            assert not array.reshape(-1)[::IDLE].any(), name

    @precondition(lambda self: self.kind == "adam")
    @rule()
    def weights_without_gradients_stand_still(self) -> None:
        for name, w in self.weights.items():
            assert (w.reshape(-1)[::IDLE] == self.first[name].reshape(-1)[::IDLE]).all(), name

    def teardown(self) -> None:
        if hasattr(self, "optimizer"):
            if self.kind in KEEPS_ZEROS:
                self.zero_stays_zero()
            self.both_have_the_same_bits()


@pytest.mark.parametrize("dtype", ["bfloat16", "float8"])
@pytest.mark.parametrize("kind", KINDS)
def test_any_sequence_of_calls(kind: str, dtype: str) -> None:
    run_calls(Calls, examples=8, most_calls=20, kind=kind, dtype=dtype)
