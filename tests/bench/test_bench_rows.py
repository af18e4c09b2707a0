"""The benchmark of row gradients: its limit, what its steps touch, who takes part, and its goals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
import row_figures
import row_suite
from bench_runs import CHECKOUT, PNG, python
from fusedopt.bench.results import FUSEDOPT, LIMIT, Entry, Measurement, Results, load
from fusedopt.bench.workload import Array
from fusedopt.runtime import _core
from row_steps import (
    DENSE,
    PEERS,
    PLAIN_LOOP,
    SORTED,
    UNIFORM,
    ZIPF,
    RowWorkload,
    built,
    fusedopt,
    rows_of,
    touched_of,
    workload_of,
)


@pytest.mark.parametrize("level", fo.show_config()["levels_supported"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("ahead", [0, 3])
@pytest.mark.parametrize("row_size", [1, 16, 37, 1100])
def test_a_plain_row_loop_writes_the_rows_that_it_is_given(
    level: str, count: int, ahead: int, row_size: int
) -> None:
    tables = [np.ones((50, row_size), np.float32) for _ in range(count)]
    values = np.ones((30, row_size), np.float32)
    values[7] = np.inf
    rows = np.random.default_rng(0).permutation(50)[:30].astype(np.int64)
    positions = np.arange(30)[::-1].copy()
    in_use, threads = _core.level(), _core.num_threads()
    _core.set_level(level)
    _core.set_num_threads(2)
    try:
        _core.PlainRowLoop(tables, values, rows, positions, ahead)()
    finally:
        _core.set_level(in_use)
        _core.set_num_threads(threads)
    # It adds 0 x, which infinity makes NaN.
    expected = np.ones((50, row_size), np.float32)
    expected[rows[positions == 7]] = np.nan
    for table in tables:
        np.testing.assert_array_equal(table, expected)


TABLE = np.zeros((4, 3), np.float32)
NUMBERS = np.arange(2)


@pytest.mark.parametrize(
    ("tables", "values", "rows", "positions", "message"),
    [
        ([], TABLE, NUMBERS, NUMBERS, "1 to 5 tables"),
        ([TABLE] * 6, TABLE, NUMBERS, NUMBERS, "1 to 5 tables"),
        ([TABLE], TABLE, NUMBERS, NUMBERS[:1], "a position for each row"),
        ([TABLE], TABLE[:, :2].copy(), NUMBERS, NUMBERS, "rows as long as"),
        ([TABLE[0]], TABLE, NUMBERS, NUMBERS, "two dimensions"),
        ([TABLE], TABLE[0], NUMBERS, NUMBERS, "two dimensions"),
        ([TABLE], TABLE, NUMBERS + 3, NUMBERS, "from 0 to 3, found 4"),
        ([TABLE], TABLE, NUMBERS, NUMBERS - 1, "from 0 to 3, found -1"),
        ([TABLE[:, ::2]], TABLE, NUMBERS, NUMBERS, "incompatible"),
        ([TABLE.astype(np.float64)], TABLE, NUMBERS, NUMBERS, "incompatible"),
    ],
    ids=range(10),
)
def test_a_plain_row_loop_refuses_other_arrays(
    tables: list[Array], values: Array, rows: Array, positions: Array, message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        _core.PlainRowLoop(tables, values, rows, positions, 0)


def test_the_steps_of_a_table_touch_all_its_rows_once() -> None:
    for kind in (UNIFORM, SORTED):
        one = workload_of("", "AdamW", 100, 4, 20, kind)
        assert sorted(np.concatenate(one.indices)) == list(range(100))
        is_ascending = [bool((np.diff(step) > 0).all()) for step in one.indices]
        assert is_ascending == [kind == SORTED] * 5
        assert one.elements == 80
        assert one.values.shape == (20, 4)
        assert (touched_of(measurement_of(one)), rows_of(measurement_of(one))) == (20, 100)


def test_a_zipf_law_has_frequent_rows() -> None:
    one = workload_of("", "AdamW", 1000, 4, 500, ZIPF)
    counts = np.sort(np.bincount(np.concatenate(one.indices), minlength=1000))[::-1]
    # The first of a thousand has a share of 1 / 7.49, the tenth a tenth of that.
    assert counts[0] / counts.sum() == pytest.approx(1 / 7.485, rel=0.05)
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.1)
    assert one.elements < 500 * 4


def measurement_of(one: RowWorkload) -> Measurement:
    return Measurement(one.section, one.label, one.name, one.elements, 1, 28, LIMIT)


@pytest.mark.parametrize("kind", [UNIFORM, ZIPF])
@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peer_takes_the_same_steps(peer: Any, kind: str) -> None:
    pytest.importorskip(peer.package)
    # SparseAdam has no decay.
    arguments = {"weight_decay": 0.0 if peer.package == "torch" else 0.1}
    one = replace(workload_of("", "AdamW", 50, 6, 20, kind), arguments=arguments)
    optimizer, (ours, *_) = built(one)
    (before,), (theirs,) = one.variables(), one.variables()
    steps = [fusedopt(one, optimizer), peer.prepare(one, theirs)]
    for step in steps:
        for _ in range(5):
            step()
    error = np.abs(np.asarray(theirs) - ours)
    assert error.max() < 1e-3 * np.abs(ours - before).max()
    assert (ours != before).any()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one quick run, which has written everything that it can write."""
    folder = tmp_path_factory.mktemp("rows")
    words = "--quick --threads 1 2 --rounds 1 --peers numpy"
    files = [
        f"--{kind}={folder / name}"
        for kind, name in (("json", "run.json"), ("markdown", "run.md"), ("plot", "run.png"))
    ]
    done = python("rows.py", *words.split(), *files, folder=CHECKOUT)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_quick_run_measures_every_section(run: Path) -> None:
    results = load(run / "run.json")
    assert {one.section for one in results.measurements} == row_figures.SECTIONS.keys()
    loops = [f"{PLAIN_LOOP}, {ahead} rows ahead" for ahead in (0, 2, 4, 8, 16)]
    for one in results.measurements:
        for threads in (1, 2):
            limit = one.find(LIMIT, threads)
            found = [one.find(loop, threads) for loop in loops]
            assert limit is not None
            assert limit.median == min(entry.median for entry in found if entry)
    (variants,) = {tuple(one.names) for one in results.of("meanings")}
    assert variants == (LIMIT, *loops, *row_suite.VARIANTS)
    for section in ("nearly all", "shares"):
        assert all(one.baseline == DENSE for one in results.of(section))
    assert all("lazy NumPy" in one.names for one in results.of("order"))
    assert (run / "run.png").read_bytes().startswith(PNG)


def test_a_quick_run_writes_every_table(run: Path) -> None:
    text = (run / "run.md").read_text(encoding="utf-8")
    for title in (*row_figures.SECTIONS.values(), row_figures.LOOPS, "Goals"):
        assert f"## {title}\n" in text
    assert "<!-- row_goals: begin -->" in text
    header = "| elements of a row | 5 % of the rows | 10 % of the rows | 20 % of the rows | 40 % of the rows |"
    rows = text.partition(header)[2].splitlines()[2:6]
    assert [row.split(" | ")[0] for row in rows] == ["| 8", "| 16", "| 64", "| 256"]
    assert all(float(cell) > 0 for row in rows for cell in row.strip("| ").split(" | ")[1:])
    page = text.partition("<!-- rows: begin -->")[2].partition("<!-- rows: end -->")[0]
    tables, _, loops = page.partition(row_figures.LOOPS)
    assert PLAIN_LOOP not in tables
    assert f"{PLAIN_LOOP}, 8 rows ahead" in loops


def test_the_goals() -> None:
    results = Results({}, [2])
    for section, name, times in (
        ("row sizes", "4,096 of 9 rows of 16", {LIMIT: 1.0, FUSEDOPT: 9.0}),
        (
            "row sizes",
            "4,096 of 9 rows of 64",
            {LIMIT: 1.0, FUSEDOPT: 1.3, "SparseAdam": 6.6, "lazy NumPy": 6.0},
        ),
        ("touched", "4,096 of 9 rows of 64", {LIMIT: 1.0, FUSEDOPT: 9.0}),
        ("nearly all", "8 of 9 rows of 64", {LIMIT: 1.0, DENSE: 1.0, FUSEDOPT: 1.2}),
    ):
        entries = [Entry(who, 2, [time, time]) for who, time in times.items()]
        baseline = DENSE if DENSE in times else LIMIT
        results.measurements.append(
            Measurement(section, "AdamW", name, 1, 1, 28, baseline, entries)
        )
    assert [
        (goal.text, goal.bound, goal.unit, goal.is_met(2)) for goal in row_figures.goals(results)
    ] == [
        ("AdamW, 4,096 of 9 rows of 64", 1.3, "times the limit", True),
        ("AdamW, 4,096 of 9 rows of 64", 0.2, "times SparseAdam's time", True),
        ("AdamW, 4,096 of 9 rows of 64", 0.2, "times lazy NumPy's time", False),
        ("AdamW, 8 of 9 rows of 64", 1.15, "times the dense step's time", False),
    ]
