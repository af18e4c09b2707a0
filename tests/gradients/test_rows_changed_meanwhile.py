"""Row indices that change while a step reads them: it steps or refuses, and writes only within the table."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from machine import HAS_THREADS
from reference import Array

ROWS, MARGIN, WIDTH = 1000, 2000, 4
WRONG = [ROWS, -1, ROWS + MARGIN - 1, -MARGIN, 2**31 - 1, -(2**31)]


class Fenced:
    """A table in the middle of a larger array, of which nothing else may change."""

    def __init__(self, dtype: Any = np.float32) -> None:
        self.larger = np.full((MARGIN + ROWS + MARGIN, WIDTH), 7, dtype)
        self.table = self.larger[MARGIN:-MARGIN]

    def is_whole(self) -> bool:
        return bool((self.larger[:MARGIN] == 7).all() and (self.larger[-MARGIN:] == 7).all())


class Writer:
    """A thread that puts wrong rows into an array of indices and takes them out again."""

    def __init__(self, indices: Array) -> None:
        self.indices = indices
        self.is_over = False
        self.thread = threading.Thread(target=self.write)

    def write(self) -> None:
        places = np.arange(0, self.indices.size, 7)
        right = self.indices[places].copy()
        number = 0
        while not self.is_over:
            self.indices[places] = WRONG[number % len(WRONG)]
            self.indices[places] = right
            number += 1

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.is_over = True
        self.thread.join()


def was_taken(call: Callable[[], Any]) -> bool:
    """Whether the call found no wrong row."""
    try:
        call()
    except ValueError as error:
        if "expected row indices from 0 to 999" in str(error):
            return False
        raise
    return True


@pytest.mark.parametrize("row_updates", ["lazy", "caught_up"])
@pytest.mark.parametrize("index_dtype", [np.int32, np.int64])
@pytest.mark.parametrize("threads", [1, 2] if HAS_THREADS else [1])
def test_indices_that_another_thread_writes(
    threads: int, index_dtype: Any, row_updates: str
) -> None:
    fenced = Fenced()
    optimizer = fo.Adam(row_updates=row_updates)
    optimizer.build({"table": fenced.table})
    rng = np.random.default_rng(0)
    indices = rng.integers(0, ROWS, 20_000).astype(index_dtype)
    gradient = fo.RowGradient(np.ones((indices.size, WIDTH), np.float32), indices)
    before, steps = fo.get_num_threads(), 0
    fo.set_num_threads(threads)
    try:
        with Writer(indices):
            for _ in range(60):
                weights = fenced.table.copy()
                if was_taken(lambda: optimizer.apply([gradient])):
                    steps += 1
                else:
                    assert np.array_equal(fenced.table, weights)
                was_taken(lambda: optimizer.catch_up("table", indices))
                assert fenced.is_whole()
    finally:
        fo.set_num_threads(before)
    assert optimizer.iterations == steps
    optimizer.apply([gradient])  # the writer is gone
    assert fenced.is_whole()


class Shifting:
    """Says something else each time it is asked."""

    def __init__(self, first: list[int], later: list[int]) -> None:
        self.first, self.later, self.times = first, later, 0

    @property
    def values(self) -> Array:
        return np.ones((2, WIDTH), np.float32)

    @property
    def indices(self) -> Array:
        self.times += 1
        return np.array(self.first if self.times == 1 else self.later)


@pytest.mark.parametrize("rows", [[0, 1], [0, ROWS]])
def test_indices_that_are_never_the_same_twice(rows: list[int]) -> None:
    fenced = Fenced()
    optimizer = fo.SGD(learning_rate=1.0)
    optimizer.build([fenced.table])
    with pytest.raises(ValueError, match="found"):
        for wrong in WRONG[:4]:
            optimizer.apply([Shifting(rows, [wrong, wrong])])
            assert fenced.is_whole()
            optimizer.apply([fo.RowGradient(np.ones((1, WIDTH)), np.array([wrong]))])
    assert fenced.is_whole()


@pytest.mark.parametrize("wrong", [*WRONG, 2**40, 2**63 - 1, -(2**63), 2**32, 2**32 + 5])
@pytest.mark.parametrize("position", [0, 1, 4])
def test_wrong_rows_are_named(wrong: int, position: int) -> None:
    fenced = Fenced()
    optimizer = fo.Adam()
    optimizer.build({"table": fenced.table})
    indices = np.array([3, 999, 0, 3, 5])
    indices[position] = wrong
    whole = fenced.larger.copy()
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        optimizer.apply({"table": fo.RowGradient(np.ones((5, WIDTH)), indices)})
    said = str(caught.value)
    assert "gradient of variable 0 ('table')" in said
    assert "1000 rows" in said
    assert f"found {wrong} at position {position}" in said
    assert np.array_equal(fenced.larger, whole)
    assert optimizer.iterations == 0
