"""What a run has measured, as plain data that goes to a file and back."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

LIMIT = "limit"
FUSEDOPT = "fusedopt"
WHOLE = "float32 slots"
"""Fusedopt's step on float32 variables and slots, next to one that keeps fewer bits."""
NO_THREADS = 0
WIDEST = 0.2
"""A figure is not to be believed if the middle half of its rounds spans more than this share of the median."""
FEWEST_ROUNDS = 5
"""The quartiles of fewer say little."""
MEANS_NOTHING = (
    "These figures mean nothing: --quick only shows that the benchmarks run. Measure without it."
)


@dataclass(frozen=True)
class Middle:
    """The middle half of some rounds' figures."""

    low: float
    median: float
    high: float

    @property
    def is_wide(self) -> bool:
        """Whether the rounds differ too much."""
        return self.high - self.low > WIDEST * self.median


def middle(values: list[float]) -> Middle:
    """Find the quartiles; too few values have no width."""
    median = statistics.median(values)
    if len(values) < FEWEST_ROUNDS:
        return Middle(median, median, median)
    low, _, high = statistics.quantiles(values, method="inclusive")
    return Middle(low, median, high)


@dataclass
class Entry:
    """One contestant's times of one step, a round each; NaN for a round it sat out."""

    name: str
    threads: int
    """0 for a library that has none."""
    seconds: list[float]
    doubt: str = ""
    """Why its times are not to be believed, as far as the machine showed it."""

    @property
    def times(self) -> list[float]:
        """Of the rounds it ran in."""
        return [time for time in self.seconds if not math.isnan(time)]

    @property
    def median(self) -> float:
        """The typical time."""
        return statistics.median(self.times)

    @property
    def minimum(self) -> float:
        """The shortest time, which other programs disturb least."""
        return min(self.times)

    @property
    def is_doubtful(self) -> bool:
        """Whether its times are not to be believed."""
        return bool(self.doubt) or middle(self.times).is_wide

    def ratio_to(self, other: Entry) -> Middle:
        """Compare the rounds in which both ran."""
        return middle(
            [
                mine / theirs
                for mine, theirs in zip(self.seconds, other.seconds, strict=True)
                if not math.isnan(mine + theirs)
            ]
        )


@dataclass
class Measurement:
    """One workload: everyone's times in the same rounds."""

    section: str
    label: str
    name: str
    elements: int
    tensors: int
    bytes: float | None
    """Moved by a step, per element; None if they say nothing about its time."""
    baseline: str
    """The entry that the others are compared with; without it there are times alone."""
    entries: list[Entry] = field(default_factory=list)

    def find(self, name: str, threads: int) -> Entry | None:
        """Look an entry up. Who uses no threads stands in every column."""
        for entry in self.entries:
            if entry.name == name and entry.threads in (threads, NO_THREADS):
                return entry
        return None

    def ratio(self, name: str, threads: int) -> float | None:
        """Compare times of the same rounds with the baseline's."""
        found = self.middle(name, threads)
        return found.median if found else None

    def middle(self, name: str, threads: int) -> Middle | None:
        """Find the ratio as `ratio` does, and how much the rounds differ."""
        entry, base = self.find(name, threads), self.find(self.baseline, threads)
        return entry.ratio_to(base) if entry and base else None

    def is_doubtful(self, name: str, threads: int) -> bool:
        """Whether a ratio is not to be believed."""
        found = self.middle(name, threads)
        both = (self.find(who, threads) for who in (name, self.baseline))
        is_busy = any(one.doubt for one in both if one)
        return is_busy or (found is not None and found.is_wide)

    @property
    def names(self) -> list[str]:
        """Who was timed."""
        return list(dict.fromkeys(entry.name for entry in self.entries))

    @property
    def thread_counts(self) -> list[int]:
        """The numbers of threads, smallest first."""
        return sorted({entry.threads for entry in self.entries} - {NO_THREADS})


@dataclass
class Results:
    """One run of the benchmarks."""

    environment: dict[str, str]
    threads: list[int]
    measurements: list[Measurement] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    is_quick: bool = False
    busy: list[str] = field(default_factory=list)
    """Why timings of a quick run are not to be believed. Its figures are not marked: none of them means anything."""
    more: dict[str, Any] = field(default_factory=dict)
    """What a suite has measured besides times, by name, as JSON knows it."""

    @property
    def doubts(self) -> list[str]:
        """What a reader must know before the figures."""
        said = [MEANS_NOTHING] if self.is_quick else []
        entries = [entry for one in self.measurements for entry in one.entries]
        busy = [*self.busy, *(entry.doubt for entry in entries if entry.doubt)]
        if busy:
            example = max(dict.fromkeys(busy), key=busy.count)
            said.append(
                f"The machine was busy during {len(busy)} of {len(entries)} timings, so do not believe them. "
                f"For example, {example}. Measure again on a quiet machine."
            )
        return said

    def of(self, section: str) -> list[Measurement]:
        """Look a section up."""
        return [one for one in self.measurements if one.section == section]

    def require_same(self, again: Results) -> None:
        """Raise ValueError unless a later run is of the same program on the same machine."""
        before, after = ({**run.environment, "threads": run.threads} for run in (self, again))
        for what in before.keys() - {"date"}:
            if before[what] != after[what]:
                raise ValueError(f"expected a run with {what} {after[what]}, found {before[what]}")

    def mended(self, again: Results, sections: Collection[str]) -> Results:
        """Take these sections from a later run."""
        kept = [one for one in self.measurements if one.section not in sections]
        return Results(
            again.environment,
            again.threads,
            kept + again.measurements,
            self.absent | again.absent,
            self.is_quick or again.is_quick,
            self.busy + again.busy,
            self.more | again.more,
        )


def save(results: Results, path: Path) -> None:
    """Write a file that `load` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = _without_nan(asdict(results))
    more = found.pop("more")
    plain = {"doubts": results.doubts, **found, **more}
    path.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> Results:
    """Read a file that `save` wrote."""
    plain = json.loads(path.read_text(encoding="utf-8"))
    plain.pop("doubts", None)  # derived from the others, for whoever reads the file
    for measurement in plain["measurements"]:
        measurement["entries"] = [
            Entry(**entry | {"seconds": [_number(time) for time in entry["seconds"]]})
            for entry in measurement["entries"]
        ]
    plain["measurements"] = [Measurement(**one) for one in plain["measurements"]]
    known = {one.name for one in fields(Results)}
    more = {name: plain.pop(name) for name in plain.keys() - known}
    return Results(**plain, more=more)


def _number(time: float | None) -> float:
    return math.nan if time is None else time


def _without_nan(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
