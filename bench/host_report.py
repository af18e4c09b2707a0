"""What a program that times fusedopt in its hosts shows: one table, and what a reader must know about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fusedopt.bench import environment, report
from fusedopt.bench.tables import Table, console
from fusedopt.bench.watch import Watch


@dataclass
class Report:
    """The rows of a run, which begins when this is made."""

    name: str
    """Of the program in `bench`, and of its block in Markdown files."""
    title: str
    columns: list[str]
    reading: str
    """How to read the columns."""
    packages: list[str]
    rows: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._environment = environment.describe(self.packages)
        self._watch = Watch()

    def table(self) -> Table:
        return Table(self.title, self.columns, self.rows)

    def show(self, markdown: Iterable[Path]) -> None:
        """Print the table, and write it into Markdown files."""
        notes = (
            f"{self.reading} Measured by `python bench/{self.name}.py` on "
            + "; ".join(self._environment.values())
            + f". Other programs kept {self._watch.others():.1f} processors busy meanwhile, on average."
        )
        text = self.table().markdown() + "\n" + report.paragraph(notes)
        console().print(self.table().rich())
        print(notes)
        for path in markdown:
            report.write(self, path, {self.name: lambda _: text})
