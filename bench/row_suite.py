"""The suite of row gradients: tables and rows of many sizes, the two meanings, and the dense step."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import row_figures
from fusedopt.bench.results import Results
from fusedopt.bench.suite import Suite, Task
from fusedopt.bench.timing import Effort
from row_steps import (
    PEERS,
    SORTED,
    UNIFORM,
    ZIPF,
    RowWorkload,
    measure,
    measure_dense,
    measure_variants,
    workload_of,
)

NORMAL = Effort(rounds=15, piece_seconds=0.002, budget_seconds=1.0)
RULE = "AdamW"
ROWS, ROW_SIZE, TOUCHED = 10**6, 64, 4096
ROW_SIZES = (16, 64, 256)
TOUCHES = (16, 256, 4096, 65_536, 10**6)
TABLES = (10**4, 10**5, 10**6, 3_162_278)
NEARLY_ALL = 0.95
# Of tables of as many elements, whatever their rows.
ELEMENTS, SHORT_AND_LONG = 2**24, (8, 16, 64, 256)
SHARES = (0.05, 0.1, 0.2, 0.4)
QUICK_ROWS, QUICK_TOUCHED, QUICK_ROW_SIZES = 1000, 100, (16, 20)
QUICK_TOUCHES, QUICK_TABLES = (16, 1000), (200, 1000)
QUICK_ELEMENTS = 2**18
# More rows than this make other libraries' copies of them large.
MOST_OF_PEERS = 65_536

VARIANTS: dict[str, dict[str, Any]] = {
    "lazy": {},
    "caught_up": {"row_updates": "caught_up"},
    "rowwise": {"rowwise": True},
    "rowwise, caught_up": {"rowwise": True, "row_updates": "caught_up"},
}


def tasks(arguments: argparse.Namespace) -> Iterator[Task]:
    """List everything that a run measures."""
    quick = arguments.quick
    rows, touched = (QUICK_ROWS, QUICK_TOUCHED) if quick else (ROWS, TOUCHED)

    def against_peers(one: RowWorkload) -> Task:
        peers = PEERS if one.touched <= MOST_OF_PEERS and one.row_size <= ROW_SIZE else []
        return Task(one.section, one.name, partial(measure, workload=one, peers=peers))

    for row_size in QUICK_ROW_SIZES if quick else ROW_SIZES:
        yield against_peers(workload_of("row sizes", RULE, rows, row_size, touched))
    for count in QUICK_TOUCHES if quick else TOUCHES:
        yield against_peers(workload_of("touched", RULE, rows, ROW_SIZE, count))
    for count in (touched,) if quick else (touched, MOST_OF_PEERS):
        for kind in (SORTED, ZIPF):
            yield against_peers(workload_of("order", RULE, rows, ROW_SIZE, count, kind))
    for count in QUICK_TABLES if quick else TABLES:
        one = workload_of("tables", RULE, count, ROW_SIZE, touched)
        yield Task(one.section, one.name, partial(measure, workload=one, peers=[]))
    for kind in (SORTED, UNIFORM):
        one = workload_of("nearly all", RULE, rows, ROW_SIZE, int(NEARLY_ALL * rows), kind)
        yield Task(one.section, one.name, partial(measure_dense, workload=one))
    elements = QUICK_ELEMENTS if quick else ELEMENTS
    for row_size, share in product(SHORT_AND_LONG, SHARES):
        count = elements // row_size
        one = workload_of("shares", RULE, count, row_size, round(share * count))
        yield Task(one.section, one.name, partial(measure_dense, workload=one))
    for rule in ("AdamW", "Adagrad"):
        for kind in (UNIFORM, ZIPF):
            one = workload_of("meanings", rule, rows, ROW_SIZE, touched, kind)
            yield Task(
                one.section,
                f"{rule}, {one.name}",
                partial(measure_variants, workload=one, variants=VARIANTS),
            )


def draw(results: Results, path: Path) -> None:
    import row_picture

    row_picture.draw(results, path)


ROW_SUITE = Suite(
    program="python bench/rows.py",
    description="Measure steps on some rows of large tables, in minutes.",
    effort=NORMAL,
    peers=PEERS,
    quick_packages=("numpy",),
    libraries=("numpy", "torch"),
    sections=list(row_figures.SECTIONS),
    tasks=tasks,
    tables=row_figures.tables,
    blocks={
        "rows": row_figures.page,
        "row_goals": row_figures.goals_and_source,
        "row_shares": row_figures.shares_and_source,
    },
    draw=draw,
)
