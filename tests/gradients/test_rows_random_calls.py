"""Any sequence of calls of the whole face, with gradients of rows between others, has the bits of the reference."""

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
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from random_calls import run_calls
from reference import Array, MultiReference, Reference, ScaledReference
from rows import PICKS, assert_same, row_gradient
from sample_arrays import same_bits

pytestmark = pytest.mark.filterwarnings("ignore:No gradient for")

Shapes = dict[str, tuple[tuple[int, ...], Any]]
FIRST: Shapes = {
    "a/table": ((6, 3), np.float32),
    "b/table": ((8, 16), np.float16),
    "c/bias": ((5,), np.float64),
    "d/kernel": ((3, 2), ml_dtypes.bfloat16),
}
LATER: Shapes = {"e/table": ((4, 2, 2), np.float32), "f/gain": ((), np.float32)}
GRADIENT_DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
ROW_UPDATES = ["lazy", "caught_up"]

Arguments = tuple[str, dict[str, Any]]
TABLES: Arguments = ("AdamW", {"weight_decay": 0.1, "amsgrad": True})
OTHERS: Arguments = ("SGD", {"momentum": 0.9, "weight_decay": 0.1})
KINDS: dict[str, list[Arguments]] = {
    "adam": [("Adam", {"weight_decay": 0.1, "global_clipnorm": 2.0})],
    "nesterov": [("SGD", {"momentum": 0.9, "nesterov": True, "clipvalue": 0.4})],
    "rmsprop": [("RMSprop", {"momentum": 0.5, "centered": True, "clipnorm": 1.0})],
    "lion": [("Lion", {"weight_decay": 0.2, "skip_nonfinite": True})],
    "averages": [("Adadelta", {"use_ema": True, "ema_overwrite_frequency": 3})],
    "several": [TABLES, OTHERS],
}


def optimizer_of(kind: str, scaled: bool, row_updates: str) -> Any:
    members = [
        getattr(fo, name)(**arguments, row_updates=row_updates) for name, arguments in KINDS[kind]
    ]
    for member in members:
        member.exclude_from_weight_decay(var_names=["bias"])
    made = members[0]
    if len(members) > 1:
        made = fo.MultiOptimizer(
            fo.OptimizerMap(members[1], {".*table": members[0]}), global_clipnorm=3.0
        )
    return fo.LossScaleOptimizer(made, 16.0, 3) if scaled else made


def new_weights(shapes: Shapes) -> dict[str, Array]:
    rng = np.random.default_rng(3)
    return {name: np.array(rng.standard_normal(s), t) for name, (s, t) in shapes.items()}


VALUES = np.ones((2, 3), np.float32)
REFUSED: list[tuple[Any, type[Exception], str]] = [
    (fo.RowGradient(VALUES, np.array([0, 6])), ValueError, "found 6 at position 1"),
    (fo.RowGradient(VALUES, np.array([-1, 6])), ValueError, "found -1 at position 0"),
    (fo.RowGradient(VALUES, np.array([0, 1, 2])), ValueError, "indices"),
    (fo.RowGradient(VALUES[:, :2], np.array([0, 1])), ValueError, "shape"),
    (fo.RowGradient(VALUES, np.array([0.0, 1.0])), TypeError, "float64"),
    (fo.RowGradient(VALUES, np.array([True, False])), TypeError, "bool"),
    (fo.RowGradient(VALUES, np.array([[0, 1]])), ValueError, "indices"),
    (fo.RowGradient(VALUES.astype(np.int32), np.array([0, 1])), TypeError, "int32"),
]
"""Gradients of rows of `a/table`, and a part of what is said of each."""


class Calls(RuleBasedStateMachine):
    """An optimizer and its reference, which go through the same calls."""

    kind = ""
    scaled = False

    @initialize(row_updates=st.sampled_from(ROW_UPDATES))
    def build(self, row_updates: str) -> None:
        if self.kind == "averages":
            row_updates = "lazy"
        self.row_updates = row_updates
        self.assigned: list[tuple[int, str, float]] = []
        self.weights = new_weights(FIRST)
        self.references = [
            Reference(name, **arguments, row_updates=row_updates)
            for name, arguments in KINDS[self.kind]
        ]
        self.expected: Any = self.references[0]
        if len(self.references) > 1:
            self.expected = MultiReference(self.references, [], 3.0)
        self._build_references()
        if self.scaled:
            self.expected = ScaledReference(self.expected, 16.0, 3)
        self.optimizer = self._another()
        self.optimizer.build(self.weights)

    def _another(self) -> Any:
        made = optimizer_of(self.kind, self.scaled, self.row_updates)
        for number, name, value in self.assigned:
            setattr(self._members(made)[number], name, value)
        return made

    def _members(self, optimizer: Any) -> list[Any]:
        inner = optimizer.inner_optimizer if self.scaled else optimizer
        return getattr(inner, "optimizers", [inner])

    def _owner(self, name: str) -> int:
        return int(len(self.references) > 1 and not name.endswith("table"))

    def _owned(self, number: int) -> dict[str, Array]:
        return {name: w for name, w in self.weights.items() if self._owner(name) == number}

    def _build_references(self) -> None:
        for number, reference in enumerate(self.references):
            owned = self._owned(number)
            reference.build(
                list(owned.values()),
                tuple(i for i, name in enumerate(owned) if "bias" in name),
            )
        if len(self.references) > 1:
            self._joint().owners = [self._owner(name) for name in self.weights]

    def _joint(self) -> Any:
        return self.expected.inner if isinstance(self.expected, ScaledReference) else self.expected

    # Steps

    def _gradient(self, name: str, pick: str | None, rng: np.random.Generator) -> Any:
        if pick is None:
            return None
        w = self.weights[name]
        dtype = GRADIENT_DTYPES[rng.integers(4)]
        factor = self.optimizer.dynamic_scale if self.scaled else 1.0
        if pick == "dense" or w.ndim == 0:
            with np.errstate(over="ignore"):
                return np.array(rng.standard_normal(w.shape) * factor, dtype)
        return row_gradient(
            rng, w.shape, pick, dtype, (np.int32, np.int64)[rng.integers(2)], factor
        )

    @rule(
        picks=st.lists(st.sampled_from([None, "dense", *PICKS]), min_size=6, max_size=6),
        how=st.sampled_from(["list", "names", "variables", "pairs"]),
        seed=st.integers(0, 999),
    )
    def step(self, picks: list[str | None], how: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        # Each optimizer needs a gradient.
        picks[0] = picks[0] or "few"
        picks[2] = picks[2] or "dense"
        gradients = {
            name: self._gradient(name, pick, rng)
            for name, pick in zip(self.weights, picks, strict=False)
        }
        order = list(rng.permutation(list(gradients)))
        some = [name for name in order if gradients[name] is not None]
        if how == "list":
            self.optimizer.apply(list(gradients.values()))
        elif how == "names":
            self.optimizer.apply({name: gradients[name] for name in some})
        elif how == "variables":
            self.optimizer.apply([gradients[n] for n in order], [self.weights[n] for n in order])
        else:
            self.optimizer.apply_gradients([(gradients[n], self.weights[n]) for n in some])
        self.expected.apply(list(gradients.values()))

    def _some_gradients(self, of_table: Any) -> list[Any]:
        return [of_table, None, np.ones(5), *[None] * (len(self.weights) - 3)]

    @precondition(lambda self: self.scaled or self.kind == "lion")
    @rule(value=st.sampled_from([np.inf, -np.inf, np.nan]))
    def step_that_is_skipped(self, value: float) -> None:
        values = np.zeros((3, 3), np.float16)
        values[1, 2] = value
        gradients = self._some_gradients(fo.RowGradient(values, np.array([5, 0, 5])))
        self.optimizer.apply(gradients)
        self.expected.apply(gradients)

    @rule(bad=st.sampled_from(REFUSED))
    def refused_step(self, bad: tuple[Any, type[Exception], str]) -> None:
        gradient, error, message = bad
        rest = {name: np.ones(w.shape) for name, w in self.weights.items() if name != "a/table"}
        # What is wrong is seen last.
        with pytest.raises(error) as caught:
            self.optimizer.apply({**rest, "a/table": gradient})
        assert "gradient of variable 0 ('a/table')" in str(caught.value)
        assert message in str(caught.value)

    @rule(rows=st.lists(st.integers(0, 5), max_size=4), by_name=st.booleans())
    def catch_up_rows(self, rows: list[int], by_name: bool) -> None:
        table: Any = "a/table" if by_name else self.weights["a/table"]
        self.optimizer.catch_up(table, np.array(rows, np.int32))
        self.references[0].catch_up(0, np.array(rows, np.int64))

    @rule()
    def catch_up_one(self) -> None:
        self.optimizer.catch_up("b/table")
        self.references[0].catch_up(1)

    @rule()
    def catch_up_all(self) -> None:
        self.optimizer.catch_up()
        self.expected.catch_up()

    @rule(rows=st.sampled_from([[6], [0, -1], [0.5]]))
    def refused_catch_up(self, rows: list[Any]) -> None:
        with pytest.raises((ValueError, TypeError), match="catch_up"):
            self.optimizer.catch_up("a/table", np.array(rows))

    # The rest of the face

    @rule(
        number=st.integers(0, 1),
        name=st.sampled_from(["learning_rate", "weight_decay"]),
        value=st.sampled_from([0.0, 0.01, 0.3]),
    )
    def assign(self, number: int, name: str, value: float) -> None:
        number %= len(self.references)
        setattr(self._members(self.optimizer)[number], name, value)
        self.references[number].a[name] = value
        self.assigned.append((number, name, value))

    @precondition(lambda self: self.kind != "averages" and "f/gain" not in self.weights)
    @rule()
    def build_more(self) -> None:
        self.weights |= new_weights(LATER)
        self.optimizer.build(self.weights)
        self._build_references()

    @rule()
    def go_on_with_a_copy(self) -> None:
        self.optimizer, self.weights = copy.deepcopy((self.optimizer, self.weights))
        self.expected.catch_up()

    @rule()
    def go_on_with_what_was_pickled(self) -> None:
        self.optimizer, self.weights = pickle.loads(pickle.dumps((self.optimizer, self.weights)))
        self.expected.catch_up()

    @rule()
    def go_on_with_what_was_saved(self) -> None:
        # Of 16-bit tables, a file has the master copies, too.
        with tempfile.TemporaryDirectory() as folder:
            self.optimizer.save(Path(folder) / "state")
            self.weights = {name: w.copy() for name, w in self.weights.items()}
            self.optimizer = self._another()
            self.optimizer.build(self.weights)
            self.optimizer.load(Path(folder) / "state")
        for each in (*self.references, self._joint()):
            each.global_norm = None
        self.expected.catch_up()

    @precondition(lambda self: self.kind != "averages")
    @rule()
    def finalize(self) -> None:
        self.optimizer.finalize_variable_values(list(self.weights.values()))
        self.expected.catch_up()

    @rule()
    def stateless_step(self) -> None:
        state = [np.array(x) for x in self.optimizer.variables]
        self.expected.catch_up()
        gradients = self._some_gradients(fo.RowGradient(VALUES, np.array([4, 4])))
        trained, after = self.optimizer.stateless_apply(
            state, gradients, list(self.weights.values())
        )
        assert len(after) == len(state)
        expected, references = copy.deepcopy((self.expected, self.references))
        expected.apply(gradients)
        expected.catch_up()
        for name, w in zip(self.weights, trained, strict=True):
            assert np.asarray(w).tobytes() == self._expected_weight(name, references).tobytes()

    # What must be equal

    def _expected_weight(self, name: str, references: list[Reference]) -> Array:
        number = self._owner(name)
        return references[number].stored()[list(self._owned(number)).index(name)]

    @invariant()
    def weights_are_equal(self) -> None:
        for name, w in getattr(self, "weights", {}).items():
            assert same_bits(w, self._expected_weight(name, self.references)), name

    @rule()
    def all_is_equal(self) -> None:
        for number, reference in enumerate(self.references):
            member = self._members(self.optimizer)[number]
            assert_same(member, list(self._owned(number).values()), reference)
        if self.scaled:
            assert self.optimizer.dynamic_scale == self.expected.scale

    def teardown(self) -> None:
        if hasattr(self, "optimizer"):
            self.all_is_equal()


@pytest.mark.parametrize("scaled", [False, True], ids=["alone", "scaled"])
@pytest.mark.parametrize("kind", KINDS)
def test_any_sequence_of_calls(kind: str, scaled: bool) -> None:
    run_calls(Calls, examples=12, most_calls=25, kind=kind, scaled=scaled)
