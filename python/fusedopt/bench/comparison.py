"""Two runs next to each other. Only ratios within one run mean anything: machines wander."""

from __future__ import annotations

from dataclasses import dataclass

from fusedopt.bench.results import FUSEDOPT, Middle, Results
from fusedopt.bench.tables import Table, thread_count

TOLERANCE = 0.1
Key = tuple[str, str, str, int]
"""Section, rule, elements, threads."""


@dataclass
class Comparison:
    """Each measurement's ratio to the limit in an old and in a new run."""

    shared: dict[Key, tuple[Middle, Middle]]
    alone: list[Key]
    """In one of the runs only."""
    doubtful: set[Key]
    """Not to be believed in one of the runs at least."""

    def slower(self, tolerance: float) -> dict[Key, tuple[float, float]]:
        """Find what has become slower by more than a share of the old ratio, beyond the noise."""
        above = self._above(tolerance)
        return {key: pair for key, pair in above.items() if not self._is_noise(key)}

    def noisy(self, tolerance: float) -> dict[Key, tuple[float, float]]:
        """Find what looks as if it were slower, but is not to be believed."""
        above = self._above(tolerance)
        return {key: pair for key, pair in above.items() if self._is_noise(key)}

    def _above(self, tolerance: float) -> dict[Key, tuple[float, float]]:
        return {
            key: (old.median, new.median)
            for key, (old, new) in self.shared.items()
            if new.median > old.median * (1 + tolerance)
        }

    def _is_noise(self, key: Key) -> bool:
        old, new = self.shared[key]
        return key in self.doubtful or new.low <= old.high


def compare(old: Results, new: Results) -> Comparison:
    """Put two runs next to each other."""
    before, after = _ratios(old), _ratios(new)
    shared = {key: (before[key], after[key]) for key in before if key in after}
    alone = sorted(before.keys() ^ after.keys())
    return Comparison(shared, alone, _doubtful(old) | _doubtful(new))


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
    columns = ["rule", "elements", "threads", "old / limit", "new / limit", "change"]
    return Table(title, columns, rows, texts=3)


def _ratios(results: Results) -> dict[Key, Middle]:
    return {
        (one.section, one.label, one.name, threads): ratio
        for one in results.measurements
        for threads in one.thread_counts
        if (ratio := one.middle(FUSEDOPT, threads)) is not None
    }


def _doubtful(results: Results) -> set[Key]:
    return {
        (one.section, one.label, one.name, threads)
        for one in results.measurements
        for threads in one.thread_counts
        if one.is_doubtful(FUSEDOPT, threads)
    }
