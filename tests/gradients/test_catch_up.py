"""`catch_up`: which rows it gives what they have missed, and what it refuses."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from reference import Array


def rule(**options: Any) -> Any:
    return fo.SGD(1.0, momentum=0.5, row_updates="caught_up", **options)


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "rule": rule,
    "multi": lambda: fo.MultiOptimizer(
        fo.OptimizerMap(fo.SGD(1.0), {"table": rule(), "other": rule()})
    ),
    "loss_scale": lambda: fo.LossScaleOptimizer(rule(), initial_scale=1.0),
    "multi_in_loss_scale": lambda: fo.LossScaleOptimizer(
        fo.MultiOptimizer(fo.OptimizerMap(rule())), initial_scale=1.0
    ),
}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
pytestmark = pytest.mark.filterwarnings("ignore:optimizer_map. no variable's name matches")

# Rows 0, 1 and 2 of `table` are touched in steps 1, 2 and 3, all by a gradient of 1.
BEHIND = [-1.0, -1.0, -1.0, 0.0]
PRESENT = [-1.75, -1.5, -1.0, 0.0]


def behind(make: Callable[[], Any]) -> tuple[Any, Array, Array]:
    table, other = np.zeros((4, 1)), np.zeros((4, 1))
    optimizer = make()
    optimizer.build({"table": table, "other": other})
    for row in range(3):
        rows = fo.RowGradient(np.ones((1, 1)), np.array([row]))
        optimizer.apply({"table": rows, "other": rows})
    assert table.T.tolist() == other.T.tolist() == [BEHIND]
    return optimizer, table, other


def column(table: Array) -> Any:
    return table[:, 0].tolist()


@every_optimizer
def test_all_rows(make: Callable[[], Any]) -> None:
    optimizer, table, other = behind(make)
    optimizer.catch_up()
    assert column(table) == column(other) == PRESENT
    optimizer.catch_up()
    assert column(table) == column(other) == PRESENT
    assert optimizer.iterations == 3


@every_optimizer
@pytest.mark.parametrize("by_name", [False, True])
def test_one_variable(make: Callable[[], Any], by_name: bool) -> None:
    optimizer, table, other = behind(make)
    optimizer.catch_up("table" if by_name else table)
    assert column(table) == PRESENT
    assert column(other) == BEHIND
    optimizer.catch_up(variable=other[:] if not by_name else "other", indices=None)
    assert column(other) == PRESENT


@every_optimizer
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("rows", [[], [1], [3, 0], [2, 0, 2, 0, 0], [0, 1, 2, 3]], ids=str)
def test_some_rows(make: Callable[[], Any], rows: list[int], dtype: Any) -> None:
    optimizer, table, other = behind(make)
    optimizer.catch_up("table", np.array(rows, dtype))
    expected = [PRESENT[i] if i in rows else BEHIND[i] for i in range(4)]
    assert column(table) == expected
    assert column(other) == BEHIND
    optimizer.catch_up()
    assert column(table) == PRESENT


def test_indices_that_are_no_plain_arrays() -> None:
    for indices in (memoryview(np.array([1, 0])), np.array([0, 5, 1])[::2], np.arange(2)[::-1]):
        optimizer, table, _ = behind(rule)
        optimizer.catch_up("table", indices)
        assert column(table) == [*PRESENT[:2], *BEHIND[2:]]


@every_optimizer
def test_steps_go_on_alike(make: Callable[[], Any]) -> None:
    (optimizer, table, _), (plain, other, _) = behind(make), behind(make)
    optimizer.catch_up("table", np.array([0]))
    optimizer.catch_up()
    rows = fo.RowGradient(np.ones((2, 1)), np.array([3, 0]))
    for each in (optimizer, plain):
        each.apply({"table": rows, "other": rows})
        each.catch_up()
    assert column(table) == column(other) == [-2.875, -1.75, -1.5, -1.0]


@every_optimizer
def test_what_reads_a_variable_sees_it_caught_up(make: Callable[[], Any], tmp_path: Path) -> None:
    def saved(optimizer: Any) -> None:
        pytest.importorskip("safetensors")
        optimizer.save(tmp_path / "file", variables=True)

    readers: list[Callable[[Any], Any]] = [
        lambda optimizer: optimizer.variables,
        lambda optimizer: optimizer.named_variables(),
        lambda optimizer: optimizer.save_own_variables({}),
        lambda optimizer: optimizer.set_weights([x.copy() for x in optimizer.variables]),
        lambda optimizer: optimizer.finalize_variable_values(optimizer._core.arrays),
        copy.copy,
        copy.deepcopy,
        pickle.dumps,
        saved,
    ]
    for reader in readers:
        optimizer, table, other = behind(make)
        reader(optimizer)
        assert column(table) == column(other) == PRESENT


@every_optimizer
def test_a_dense_gradient_finds_every_row_caught_up(make: Callable[[], Any]) -> None:
    optimizer, table, other = behind(make)
    optimizer.apply({"table": np.zeros((4, 1)), "other": np.zeros((4, 1))})
    assert column(table) == column(other) == [-1.875, -1.75, -1.5, 0.0]


@every_optimizer
@pytest.mark.parametrize("way", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(make: Callable[[], Any], way: Callable[[Any], Any]) -> None:
    optimizer, table, _ = behind(make)
    new = way(optimizer)
    array = dict(zip(new._core.names, new._core.arrays, strict=True))["table"]
    assert column(array) == column(table) == PRESENT
    rows = fo.RowGradient(np.ones((1, 1)), np.array([3]))
    for each in (optimizer, new):
        each.apply({"table": rows, "other": rows})
        each.catch_up("table", np.array([0, 1, 2, 3]))
    assert not np.shares_memory(array, table)
    assert column(array) == column(table) == [-1.875, -1.75, -1.5, -1.0]


@every_optimizer
def test_stateless_apply(make: Callable[[], Any]) -> None:
    optimizer, table, other = behind(make)
    rows = fo.RowGradient(np.ones((1, 1)), np.array([3]))
    state = [np.array(x) for x in optimizer.variables]
    new, _ = optimizer.stateless_apply(state, [rows, rows], [table, other])
    assert column(table) == PRESENT
    assert column(new[0]) == column(new[1]) == [-1.875, -1.75, -1.5, -1.0]


@every_optimizer
def test_loaded_state_has_missed_nothing(make: Callable[[], Any], tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    (optimizer, table, _), (new, other, _) = behind(make), behind(make)
    optimizer.save(tmp_path / "file", variables=True)
    rows = fo.RowGradient(np.ones((1, 1)), np.array([3]))
    new.apply({"table": rows, "other": rows})
    new.load(tmp_path / "file")
    assert column(other) == PRESENT
    new.catch_up()
    assert column(other) == column(table) == PRESENT
    for each in (optimizer, new):
        each.apply({"table": rows, "other": rows})
        each.catch_up()
    assert column(other) == column(table) == [-1.875, -1.75, -1.5, -1.0]


def test_lazy_rows_miss_nothing() -> None:
    optimizer, table, _ = behind(lambda: fo.SGD(1.0, momentum=0.5))
    optimizer.catch_up()
    optimizer.catch_up("table")
    optimizer.catch_up("table", np.array([0]))
    assert column(table) == BEHIND


# Refused


REFUSED: dict[str, tuple[tuple[Any, ...], type[Exception], str]] = {
    "name": (("tabel",), ValueError, "expected names given to build ('table', 'other'), found"),
    "array": ((np.zeros((4, 1)),), ValueError, "variable: expected one that was given to build"),
    "no_array": (([1.0],), TypeError, "catch_up: variable: expected a numpy.ndarray"),
    "no_variable": ((None, np.zeros(1, int)), ValueError, "indices: expected with a variable"),
    "large": (("table", np.array([0, 4])), ValueError, "from 0 to 3"),
    "negative": (("table", np.array([-1])), ValueError, "from 0 to 3"),
    "float": (("table", np.array([0.0])), TypeError, "indices: expected int32 or int64"),
    "bool": (("table", np.ones(4, bool)), TypeError, "numpy.flatnonzero"),
    "list": (("table", [0, 1]), TypeError, "indices: expected a numpy.ndarray"),
    "rank": (("table", np.zeros((1, 2), int)), ValueError, "one dimension"),
    "scalar": (("table", np.array(0)), ValueError, "one dimension"),
    "masked": (("table", np.ma.MaskedArray([0])), TypeError, "without a mask"),
    "order": (("table", np.array([0], ">i8")), TypeError, "native byte order"),
}


@pytest.mark.parametrize("name", REFUSED)
@every_optimizer
def test_refused(make: Callable[[], Any], name: str) -> None:
    given, error, message = REFUSED[name]
    optimizer, table, other = behind(make)
    with pytest.raises(error) as caught:
        optimizer.catch_up(*given)
    assert message in str(caught.value)
    assert str(caught.value).startswith("catch_up: ")
    assert column(table) == column(other) == BEHIND


def test_lazy_refuses_the_same() -> None:
    for name, (given, error, message) in REFUSED.items():
        optimizer, _, _ = behind(lambda: fo.SGD(1.0, momentum=0.5))
        with pytest.raises(error) as caught:
            optimizer.catch_up(*given)
        assert message in str(caught.value), name


@every_optimizer
def test_before_build(make: Callable[[], Any]) -> None:
    optimizer = make()
    for given in ((), (np.ones(2),), ("table", np.zeros(1, int))):
        with pytest.raises(ValueError, match="catch_up: the optimizer is not built"):
            optimizer.catch_up(*given)


def test_a_name_where_variables_have_none() -> None:
    optimizer = rule()
    optimizer.build([np.zeros((4, 1))])
    with pytest.raises(ValueError, match="catch_up: variable: expected an array, .* found '0'"):
        optimizer.catch_up("0")


def test_inside_an_evaluation() -> None:
    table = np.zeros((4, 1))
    optimizer = fo.SGD(1.0, use_ema=True)
    optimizer.build([table])
    with (
        optimizer.evaluation_weights(),
        pytest.raises(ValueError, match="catch_up: expected the w"),
    ):
        optimizer.catch_up()


def test_a_variable_that_has_moved() -> None:
    optimizer, table, _ = behind(rule)
    table.shape = (2, 2)
    with pytest.raises(ValueError, match=r"variable 0 \('table'\): expected shape"):
        optimizer.catch_up()
