"""Two runs beside each other. Only ratios within one run mean anything: machines wander."""

from __future__ import annotations

from dataclasses import dataclass

from fusedopt.bench.results import FUSEDOPT, Results
from fusedopt.bench.tables import Table, thread_count

TOLERANCE = 0.1
Key = tuple[str, str, str, int]
"""Section, rule, elements, threads."""


@dataclass
class Comparison:
    """Each measurement's ratio to the limit in an old and in a new run."""

    shared: dict[Key, tuple[float, float]]
    alone: list[Key]
    """In one of the runs only."""

    def slower(self, tolerance: float) -> dict[Key, tuple[float, float]]:
        """Find what has become slower by more than a share of the old ratio."""
        return {
            key: (old, new)
            for key, (old, new) in self.shared.items()
            if new > old * (1 + tolerance)
        }


def compare(old: Results, new: Results) -> Comparison:
    """Put two runs beside each other."""
    before, after = _ratios(old), _ratios(new)
    shared = {key: (before[key], after[key]) for key in before if key in after}
    return Comparison(shared, sorted(before.keys() ^ after.keys()))


def table(title: str, pairs: dict[Key, tuple[float, float]]) -> Table:
    """Show ratios and their change."""
    rows = [
        [
            label,
            elements,
            thread_count(threads),
            f"{old:.2f}",
            f"{new:.2f}",
            f"{new / old - 1:+.0%}",
        ]
        for (_, label, elements, threads), (old, new) in pairs.items()
    ]
    columns = ["rule", "elements", "threads", "old, of the limit", "new, of the limit", "change"]
    return Table(title, columns, rows, texts=3)


def _ratios(results: Results) -> dict[Key, float]:
    return {
        (one.section, one.label, one.name, threads): ratio
        for one in results.measurements
        for threads in one.thread_counts
        if (ratio := one.ratio(FUSEDOPT, threads)) is not None
    }
