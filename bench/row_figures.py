"""The tables of the suite of row gradients, its goals, and the page that holds them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from figures import ABOUT_GOALS, compared, goal_table, page_of, with_goals
from fusedopt.bench.report import paragraph
from fusedopt.bench.results import LIMIT, Measurement, Results
from fusedopt.bench.tables import MISSING, Table, thread_count
from goals import Goal, by_threads, ratios
from row_steps import DENSE, PEERS, PLAIN_LOOP, row_size_of, rows_of, touched_of

SECTIONS = {
    "row sizes": "Rows of several sizes",
    "touched": "Few rows and many",
    "order": "Ascending indices, and a Zipf law with duplicates",
    "tables": "Tables of several sizes",
    "nearly all": "Nearly all rows, beside the dense step",
    "shares": "Some of all rows, beside the dense step",
    "meanings": "Lazy, caught up, and one second moment a row",
}
LOOPS = "The plain loops that the limit is chosen from"
# Times the limit, a peer's time and the dense step's.
BOUND, PEER_BOUND, DENSE_BOUND = 1.3, 0.2, 1.15
# Whose measurement the goals are about.
ROW_SIZE = 64
HOW_TO_READ = (
    "A cell holds the median time of a step, the shortest time in brackets, and the median ratio to the limit, or to "
    "the dense step. The limit is the plainest loop that reads and writes the same rows in the same order and does no "
    "arithmetic, the fastest of several distances of software prefetching (docs/rows.md). It reads the values of a row "
    "once, even if the row has several. Every step touches other rows than the one before, so they come from memory if "
    "the table does not fit in a cache."
)


def goals(results: Results) -> Iterator[Goal]:
    """All goals that a run has measured."""
    for one in results.of("row sizes"):
        if one.name.endswith(f" of {ROW_SIZE}"):
            text = f"{one.label}, {one.name}"
            yield _goal(results, text, one, BOUND, "times the limit")
            for peer in PEERS:
                if peer.name in one.names:
                    against = replace(one, baseline=peer.name)
                    yield _goal(results, text, against, PEER_BOUND, f"times {peer.name}'s time")
    for one in results.of("nearly all"):
        yield _goal(
            results, f"{one.label}, {one.name}", one, DENSE_BOUND, f"times the {DENSE}'s time"
        )


def _goal(results: Results, text: str, one: Measurement, bound: float, unit: str) -> Goal:
    return Goal(text, bound, unit, by_threads(results, ratios([one])))


def tables(results: Results) -> Iterator[tuple[str, list[Table]]]:
    """List each section's title and tables, and the goals."""
    return with_goals(results, _measured(results), goals(results))


def page(results: Results) -> str:
    """Write everything as one page."""
    measured = list(_measured(results))
    return page_of(results, "python bench/rows.py", goals(results), HOW_TO_READ, measured)


def goals_and_source(results: Results) -> str:
    """Write the goals alone, and where they were measured."""
    table = goal_table(goals(results), results.threads)
    return "\n".join([table.markdown(), *map(paragraph, (ABOUT_GOALS, _source(results)))])


def shares_and_source(results: Results) -> str:
    """Write what steps on rows take of the dense step's time, on the fewest threads."""
    found: dict[int, dict[str, str]] = {}
    for one in results.of("shares"):
        share = f"{touched_of(one) / rows_of(one):.0%} of the rows".replace("%", " %")
        ratio = by_threads(results, ratios([one]))[results.threads[0]]
        found.setdefault(row_size_of(one), {})[share] = f"{ratio.median:.2f}"
    columns = list(next(iter(found.values()), {}))
    rows = [
        [str(size), *(cells.get(share, MISSING) for share in columns)]
        for size, cells in found.items()
    ]
    table = Table("Shares", ["elements of a row", *columns], rows)
    return table.markdown() + "\n" + paragraph(_source(results))


def _source(results: Results) -> str:
    return f"Measured by `python bench/rows.py` on {'; '.join(results.environment.values())}."


def _measured(results: Results) -> Iterator[tuple[str, list[Table]]]:
    for section, title in SECTIONS.items():
        found = results.of(section)
        if found:
            yield title, [_table(found, threads, loops=False) for threads in results.threads]
    found = results.of("row sizes")
    if found:
        yield LOOPS, [_table(found, threads, loops=True) for threads in results.threads]


def _table(found: list[Measurement], threads: int, *, loops: bool) -> Table:
    shown = [_with(one, loops=loops) for one in found]
    return compared(thread_count(threads), shown, threads, "gradients of rows")


def _with(one: Measurement, *, loops: bool) -> Measurement:
    """Leave the plain loops out, or all but the plain loops and the limit."""
    entries = [
        entry
        for entry in one.entries
        if entry.name.startswith(PLAIN_LOOP) == loops or (loops and entry.name == LIMIT)
    ]
    return replace(one, baseline=LIMIT if loops else one.baseline, entries=entries)
