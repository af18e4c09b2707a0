"""The tables of the suite of slots in fewer bits, its goals, and the page that holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import instructions
from figures import ABOUT_GOALS, goal_table, page_of, with_goals
from fusedopt.bench import slot_kinds
from fusedopt.bench.costs import bytes_cell, nanoseconds_cell, ratio_cell
from fusedopt.bench.limit import FEWEST_CODED, traffic_of
from fusedopt.bench.report import notes, paragraph
from fusedopt.bench.results import FUSEDOPT, LIMIT, WHOLE, Results
from fusedopt.bench.tables import Table, thread_count
from goals import Goal, Measured, by_threads, ratios

SECTIONS = {"levels": "AdamW", "rules": "Every rule"}
BFLOAT16, FLOAT8, FEWEST = (one.label for one in slot_kinds.workloads("", FEWEST_CODED))
V3, V4 = "x86_64_v3", "x86_64_v4"
# What, on which level, its bound, of what time, and whether on one thread or on all.
BOUNDS = [
    (BFLOAT16, V4, 1.05, LIMIT, False),
    (BFLOAT16, V4, 0.75, WHOLE, False),
    (FLOAT8, V4, 0.65, WHOLE, False),
    (FLOAT8, V4, 0.72, WHOLE, True),
    (FLOAT8, V3, 0.80, WHOLE, False),
    (FEWEST, V4, 0.55, WHOLE, False),
]
STATE_BOUNDS = {BFLOAT16: 4.0, FLOAT8: 2.1}
HOW_TO_READ = (
    "Bytes are what a step moves per element: slots, weights and the gradient. The limit is the plainest loop that "
    "moves them, in the step's own memory. The others are measured in the same rounds. They have float32 weights, "
    "gradients and slots, and `float32 slots` is fusedopt's own step on these."
)


def goals(results: Results) -> Iterator[Goal]:
    """All goals that a run has measured."""
    for label, level, bound, baseline, is_single in BOUNDS:
        for one in results.of("levels"):
            if one.label == label and one.name.endswith(level):
                pairs = [
                    (threads, measured)
                    for threads, measured in ratios([replace(one, baseline=baseline)])
                    if (threads == 1) == is_single
                ]
                measured = by_threads(results, pairs)
                if measured:
                    text = f"{label}, {one.name}"
                    unit = "times the limit" if baseline == LIMIT else f"times that of {WHOLE}"
                    yield Goal(text, bound, unit, measured)
    if results.of("levels"):
        for workload in slot_kinds.workloads("", FEWEST_CODED):
            if workload.label in STATE_BOUNDS:
                kept = traffic_of(workload).kept
                measured = dict.fromkeys(results.threads, Measured(kept, kept))
                text, bound = f"{workload.label}, all state", STATE_BOUNDS[workload.label]
                yield Goal(text, bound, "bytes per element", measured)


def tables(results: Results) -> Iterator[tuple[str, list[Table]]]:
    """List each section's title and tables, and the goals."""
    return with_goals(results, _measured(results), goals(results))


def page(results: Results) -> str:
    """Write everything as one page."""
    measured = list(_measured(results))
    return page_of(results, "python bench/slots.py", goals(results), HOW_TO_READ, measured)


def speed_block(results: Results) -> str:
    """Write the goals, AdamW's figures, and where they were measured."""
    goals_of = goal_table(goals(results), results.threads)
    shown = [_table(results, "levels", threads) for threads in results.threads]
    parts = [goals_of.markdown(), paragraph(ABOUT_GOALS)]
    for table in shown:
        parts += [f"{table.title}:\n", table.markdown()]
    text = (HOW_TO_READ, *notes([goals_of, *shown]), *results.doubts, _source(results))
    return "\n".join([*parts, paragraph(" ".join(text))])


def instructions_block(results: Results) -> str:
    """Write how many instructions a step takes."""
    return "\n".join([instructions.table(results).markdown(), paragraph(_source(results))])


BLOCKS: dict[str, Callable[[Results], str]] = {
    "slots": page,
    "slot_speed": speed_block,
    "slot_instructions": instructions_block,
}


def _source(results: Results) -> str:
    return f"Measured by `python bench/slots.py` on {'; '.join(results.environment.values())}."


def _measured(results: Results) -> Iterator[tuple[str, list[Table]]]:
    for section, title in SECTIONS.items():
        if results.of(section):
            yield title, [_table(results, section, threads) for threads in results.threads]
    table = instructions.table(results)
    if table.rows:
        yield "Instructions", [table]


def _table(results: Results, section: str, threads: int) -> Table:
    found = results.of(section)
    names = dict.fromkeys([LIMIT, WHOLE, *(name for one in found for name in one.names)])
    others = [name for name in names if name != FUSEDOPT]
    rows = [
        [
            one.label,
            one.name,
            bytes_cell(one.bytes),
            nanoseconds_cell(one, FUSEDOPT, threads),
            *(ratio_cell(one, threads, other) for other in others),
        ]
        for one in found
    ]
    columns = ["step", "elements", "bytes", "ns per element", *(f"time / {it}" for it in others)]
    return Table(thread_count(threads), columns, rows, texts=2)
