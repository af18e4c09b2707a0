"""`row_updates="caught_up"`: in the end a table is what dense steps with zeros would have made of it."""

from __future__ import annotations

import copy
import pickle
from typing import Any, NamedTuple

import fusedopt as fo
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Array
from rows import dense
from training import bits

ROWS, SHAPE = 6, (6, 3)
pytestmark = pytest.mark.filterwarnings("ignore:No gradient for")
# The same programs in every run. What has failed once is kept by a test of its own, not by a database.
settings.register_profile("rows", derandomize=True, database=None, deadline=None, max_examples=25)
settings.load_profile("rows")


class Touch(NamedTuple):
    """Steps with a gradient of these rows."""

    rows: list[int]
    times: int


class Dense(NamedTuple):
    """A step with a dense gradient of the table."""


class Without(NamedTuple):
    """A step without a gradient of the table, which is none for it."""


class Assign(NamedTuple):
    """An assignment to one of the hyperparameters."""

    number: int
    value: float


class CatchUp(NamedTuple):
    """Some rows are caught up, or all of them."""

    rows: list[int] | None


class Read(NamedTuple):
    """The state is listed."""


class Copy(NamedTuple):
    """A copy goes on, by `deepcopy` or by `pickle`."""

    pickled: bool


class SaveAndLoad(NamedTuple):
    """Another optimizer on a copy of the variables loads the state and goes on next to the first."""


SomeRows = st.lists(st.integers(0, ROWS - 1), max_size=4)
Times = st.sampled_from([1, 1, 1, 1, 5, 40])
Events = st.one_of(
    st.builds(Touch, SomeRows, Times),
    st.builds(Touch, SomeRows, Times),
    st.builds(Dense),
    st.builds(Without),
    st.builds(Assign, st.integers(0, 2), st.sampled_from([0.3, 0.7, 0.99])),
    st.builds(CatchUp, st.none() | SomeRows),
    st.builds(Read),
    st.builds(Copy, st.booleans()),
    st.builds(SaveAndLoad),
)
Programs = st.lists(Events, min_size=3, max_size=25)


class Case(NamedTuple):
    """An optimizer, and the hyperparameter of its rule that is assigned in mid-training."""

    rule: str
    arguments: dict[str, Any]
    momentum: str

    def __str__(self) -> str:
        return (
            f"{self.rule}({','.join(f'{name}={value}' for name, value in self.arguments.items())})"
        )


EXACT = [
    Case("SGD", {}, "weight_decay"),
    Case("SGD", {"momentum": 0.9}, "momentum"),
    Case("SGD", {"momentum": 0.9, "nesterov": True}, "momentum"),
    Case("Adagrad", {}, "epsilon"),
    Case("RMSprop", {}, "rho"),
    Case("RMSprop", {"centered": True}, "rho"),
    Case("RMSprop", {"momentum": 0.9}, "momentum"),
    Case("RMSprop", {"momentum": 0.9, "centered": True}, "rho"),
    Case("Adadelta", {"epsilon": 1e-3}, "rho"),
    Case("Lion", {}, "beta_2"),
]
"""Equal to dense steps but for rounding."""
OF_ADAM = [
    Case("Adam", {}, "beta_1"),
    Case("AdamW", {"amsgrad": True}, "beta_2"),
    Case("Adamax", {}, "beta_2"),
    Case("Nadam", {}, "beta_1"),
    Case("Yogi", {"initial_accumulator_value": 0.0}, "beta_2"),
]
"""Equal to dense steps in their slots, and in the decay of rows without a momentum."""
OPTIONS: list[dict[str, Any]] = [
    {"learning_rate": 0.1, "weight_decay": 0.1},
    {
        "learning_rate": fo.schedules.ExponentialDecay(0.1, 4, 0.5),
        "weight_decay": 0.3,
        "clipnorm": 1.0,
    },
    {"learning_rate": 0.1, "global_clipnorm": 1.0},
]


class Model:
    """A table, another variable, and the optimizer that updates both."""

    def __init__(self, case: Case, dtype: Any, **options: Any) -> None:
        rng = np.random.default_rng(0)
        self.weights = {
            "table": rng.standard_normal(SHAPE).astype(dtype),
            "other": np.ones(2, dtype),
        }
        self.optimizer = getattr(fo, case.rule)(**case.arguments, **options)
        self.optimizer.exclude_from_weight_decay(var_names=["other"])
        self.optimizer.build(self.weights)

    def loaded(self) -> Model:
        """Another one with the same weights, whose optimizer has loaded the state."""
        store: dict[str, Any] = {}
        self.optimizer.save_own_variables(store)
        other = copy.copy(self)
        other.weights = copy.deepcopy(self.weights)
        other.optimizer = type(self.optimizer).from_config(self.optimizer.get_config())
        other.optimizer.exclude_from_weight_decay(var_names=["other"])
        other.optimizer.build(other.weights)
        other.optimizer.load_own_variables(store)
        return other

    def step(self, gradient: Any) -> None:
        self.optimizer.apply({"table": gradient, "other": np.ones(2)})

    def assign(self, name: str, value: float) -> None:
        setattr(self.optimizer, name, value)

    def everything(self) -> list[Array]:
        state = self.optimizer.variables
        return [*self.weights.values(), *state]


class Pair:
    """A model whose rows are caught up, copies that go on next to it, and one whose steps are all dense."""

    def __init__(self, case: Case, dtype: Any, options: dict[str, Any]) -> None:
        self.case, self.dtype, self.options = case, dtype, options
        self.models = [Model(case, dtype, row_updates="caught_up", **options)]
        self.whole = Model(case, dtype, **options)
        self.touched = np.zeros(ROWS, bool)

    def play(self, program: list[Any]) -> None:
        for number, event in enumerate(program):
            rng = np.random.default_rng(number)
            if isinstance(event, Touch | Dense | Without):
                for _ in range(event.times if isinstance(event, Touch) else 1):
                    self._step(event, rng)
            elif isinstance(event, Assign):
                self._assign(event)
            elif isinstance(event, CatchUp):
                rows = None if event.rows is None else np.array(event.rows, np.int32)
                for model in self.models:
                    model.optimizer.catch_up(*([] if rows is None else ["table", rows]))
            elif isinstance(event, Copy):
                way = (
                    copy.deepcopy
                    if not event.pickled
                    else lambda model: pickle.loads(pickle.dumps(model))
                )
                self.models.append(way(self.models[0]))
            elif isinstance(event, SaveAndLoad):
                self.models.append(self.models[0].loaded())
            # A copy and its original are both caught up, and a listing is more of that.
            if isinstance(event, Read | Copy | SaveAndLoad):
                self.compare_copies()
            del self.models[3:]

    def _step(self, event: Touch | Dense | Without, rng: np.random.Generator) -> None:
        gradient: Any = None
        whole: Any = None
        if isinstance(event, Dense):
            gradient = whole = rng.standard_normal(SHAPE).astype(self.dtype)
            self.touched[:] = True
        elif isinstance(event, Touch):
            values = rng.standard_normal((len(event.rows), *SHAPE[1:])).astype(self.dtype)
            gradient = fo.RowGradient(values, np.array(event.rows, np.int64))
            whole = dense(gradient, SHAPE)
            self.touched[event.rows] = True
        for model in self.models:
            model.step(gradient)
        self.whole.step(whole)

    def _assign(self, event: Assign) -> None:
        name, value = [
            ("learning_rate", 0.1 * event.value),
            ("weight_decay", 0.1 * event.value),
            (self.case.momentum, event.value),
        ][event.number]
        if name == "learning_rate" and not isinstance(self.options[name], float):
            return
        for model in [*self.models, self.whole]:
            model.assign(name, value)

    def compare_copies(self) -> None:
        first, *others = (bits(model.everything()) for model in self.models)
        for other in others:
            assert other == first


def close(dtype: Any) -> dict[str, float]:
    return {"rtol": 1e-9, "atol": 1e-11} if dtype == np.float64 else {"rtol": 2e-4, "atol": 2e-5}


@pytest.mark.parametrize(
    ("options", "dtype"), list(zip(OPTIONS, [np.float64, np.float64, np.float32], strict=True))
)
@pytest.mark.parametrize("case", EXACT, ids=str)
@given(program=Programs)
def test_equal_to_dense_steps(
    case: Case, options: dict[str, Any], dtype: Any, program: list[Any]
) -> None:
    pair = Pair(case, dtype, options)
    pair.play(program)
    pair.compare_copies()
    mine, its = pair.models[0].everything(), pair.whole.everything()
    for number, (x, y) in enumerate(zip(mine, its, strict=True)):
        np.testing.assert_allclose(x, y, err_msg=str(number), **close(dtype))


@pytest.mark.parametrize("options", OPTIONS[:2])
@pytest.mark.parametrize("case", OF_ADAM, ids=str)
@given(program=Programs)
def test_slots_and_decay_of_adam_and_its_kin(
    case: Case, options: dict[str, Any], program: list[Any]
) -> None:
    pair = Pair(case, np.float64, options)
    pair.play(program)
    pair.compare_copies()
    mine, its = pair.models[0], pair.whole
    for x, y in zip(mine.optimizer.variables, its.optimizer.variables, strict=True):
        np.testing.assert_allclose(x, y, **close(np.float64))
    rest = ~pair.touched
    np.testing.assert_allclose(
        mine.weights["table"][rest], its.weights["table"][rest], **close(np.float64)
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sign_lasts_until_the_momentum_is_zero(dtype: Any) -> None:
    """Numbers below the smallest normal one are zero in a step, and Lion moves no longer once beta_1 m is."""
    case = Case("Lion", {"beta_2": 0.1}, "beta_2")
    pair = Pair(case, dtype, {"learning_rate": 0.1, "weight_decay": 0.01})
    pair.play([Touch([0, 1, 2], 1), Touch([1], 30), Touch([], 330), Touch([3], 5)])
    mine, its = pair.models[0].everything(), pair.whole.everything()
    for x, y in zip(mine, its, strict=True):
        np.testing.assert_allclose(x, y, **close(dtype))
