"""Text in rows and columns, on a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import rich.box
import rich.console
import rich.table

from fusedopt.bench.results import WIDEST, Entry

MISSING = "-"
DOUBTFUL = "?"
ABOUT_DOUBTFUL = (
    "? is not to be believed: the machine was busy, or the middle half of the rounds spans more than "
    f"{WIDEST:.0%} of the median."
)
ABOUT_RATIOS = (
    "A ratio is the median of the ratios of all rounds, because a machine's speed wanders between rounds. "
    "So it can differ from the quotient of the two times, which are medians themselves."
)
WIDTH_OF_A_FILE = 160


def console() -> rich.console.Console:
    """Make one that does not squeeze tables into a file's 80 columns."""
    made = rich.console.Console()
    if not made.is_terminal:
        made.width = WIDTH_OF_A_FILE
    return made


@dataclass
class Table:
    """Text in rows and columns."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    texts: int = 1
    """So many columns are text, the others numbers."""

    def markdown(self) -> str:
        """Write it as a pipe table, without the title."""
        rule = ["---"] * self.texts + ["---:"] * (len(self.columns) - self.texts)
        return (
            "\n".join(f"| {' | '.join(line)} |" for line in (self.columns, rule, *self.rows)) + "\n"
        )

    def rich(self) -> rich.table.Table:
        """Make it ready for a console."""
        table = rich.table.Table(title=self.title, title_justify="left", box=rich.box.SIMPLE)
        for position, column in enumerate(self.columns):
            table.add_column(column, justify="left" if position < self.texts else "right")
        for row in self.rows:
            table.add_row(*row)
        return table


def times(entry: Entry) -> str:
    """Write median and minimum in a unit that suits them."""
    median, minimum = entry.median, entry.minimum
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6), ("ns", 1e9)):
        if median * factor >= 1:
            return f"{median * factor:.3g} ({minimum * factor:.3g}) {unit}"
    return MISSING


def marked(text: str, is_doubtful: bool) -> str:
    """Mark a figure that is not to be believed."""
    return text + DOUBTFUL if is_doubtful else text


def legend(tables: Iterable[Table]) -> list[str]:
    """Explain the mark, if a table has it."""
    cells = (cell for table in tables for row in table.rows for cell in row)
    return [ABOUT_DOUBTFUL] if any(cell.endswith(DOUBTFUL) for cell in cells) else []


def thread_count(threads: int) -> str:
    """Write a number of threads."""
    return f"{threads} thread{'s' if threads > 1 else ''}"
