"""What fusedopt promises about speed and memory, beside what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fusedopt.bench.results import FUSEDOPT, Measurement, Results
from fusedopt.bench.workload import power_of_two

LARGE = 2**24
# Of the mixed pipeline, by the names of its workloads: where steps are short, a call and many tensors show.
MIXED = {
    "2^20": 1.15,
    "2^24": 1.15,
    "2^26": 1.05,
    "100 of 10,486": 1.15,
    "1,000 of 1,024": 1.3,
    "GPT-2 small, 148 tensors": 1.05,
}
# Others may need more arithmetic than one core hides behind the memory.
RULES_AT_THE_LIMIT = ("AdamW", "Adam", "RMSprop", "SGD")
MICRO = 1e6
# A huge page at either end.
PAGES_MIB = 4.0


@dataclass
class Measured:
    """A median, which counts, and what the shortest times give, which a busy machine disturbs less."""

    median: float
    best: float
    who: str = ""
    """The worst of all, where a goal is for all."""


@dataclass
class Goal:
    """An upper bound and the measured value for each number of threads."""

    text: str
    bound: float
    unit: str
    measured: dict[int, Measured]

    def is_met(self, threads: int) -> bool:
        return self.measured[threads].median <= self.bound


def goals(results: Results) -> Iterator[Goal]:
    """All goals that a run has measured."""
    yield from _large(results)
    yield from _mixed(results)
    yield from _small(results)
    yield from _subnormal(results)
    yield from _memory(results)


def _large(results: Results) -> Iterator[Goal]:
    for one in results.of("sizes"):
        if one.elements >= LARGE and one.label.partition("(")[0] in RULES_AT_THE_LIMIT:
            text = f"{one.label}, {one.name} elements"
            yield Goal(text, 1.05, "of the limit", _by_threads(results, _ratios([one])))


def _mixed(results: Results) -> Iterator[Goal]:
    for one in results.of("mixed"):
        if one.name in MIXED:
            name = one.name if one.tensors > 1 else f"{one.name} elements"
            text = f"mixed pipeline, {one.label}, {name}"
            measured = _by_threads(results, _ratios([one]))
            yield Goal(text, MIXED[one.name], "of the limit", measured)


def _small(results: Results) -> Iterator[Goal]:
    many = [one for one in results.of("tensors") if one.elements == 64 * one.tensors]
    for one in many:
        text = f"{one.label}, {one.name}"
        yield Goal(text, 0.2, "us a tensor", _by_threads(results, _times([one])))
    # Products of matrices are no one sweep, however small.
    swept = [one for one in results.of("sizes") if one.bytes is not None]
    single = [one for one in swept if one.elements == 64]
    if single:
        measured = _by_threads(results, _times(single))
        yield Goal("the slowest rule, one tensor of 64", 2.0, "us a call", measured)


def _subnormal(results: Results) -> Iterator[Goal]:
    ours = [one for one in results.of("subnormal") if one.name.startswith(FUSEDOPT)]
    if ours:
        measured = _by_threads(results, [pair for one in ours for pair in _kinds(one)])
        yield Goal("the worst rule, subnormal numbers", 1.1, "of ordinary ones", measured)


def _memory(results: Results) -> Iterator[Goal]:
    for one in results.growths:
        if one.name == FUSEDOPT:
            beyond = (one.growth_bytes - one.slot_bytes) / 2**20
            text = f"{one.label}, {power_of_two(one.elements)} elements, peak memory beyond slots"
            measured = {results.threads[-1]: Measured(beyond, beyond)}
            yield Goal(text, PAGES_MIB, "MiB", measured)


_Pair = tuple[int, Measured]


def _by_threads(results: Results, pairs: list[_Pair]) -> dict[int, Measured]:
    """For each number of threads the worst; who that is, if there are several."""
    found = {}
    for threads in results.threads:
        mine = [measured for count, measured in pairs if count == threads]
        if mine:
            worst = max(mine, key=lambda measured: measured.median)
            found[threads] = worst if len(mine) > 1 else Measured(worst.median, worst.best)
    return found


def _times(measurements: list[Measurement]) -> list[_Pair]:
    return [
        (
            threads,
            Measured(
                entry.median * MICRO / one.tensors, entry.minimum * MICRO / one.tensors, one.label
            ),
        )
        for one in measurements
        for threads in one.thread_counts
        if (entry := one.find(FUSEDOPT, threads))
    ]


def _ratios(measurements: list[Measurement], name: str = FUSEDOPT) -> list[_Pair]:
    return [
        (threads, Measured(median, best, one.label))
        for one in measurements
        for threads in one.thread_counts
        if (median := one.ratio(name, threads)) and (best := one.ratio_of_minima(name, threads))
    ]


def _kinds(one: Measurement) -> list[_Pair]:
    return [pair for name in one.names for pair in _ratios([one], name)]
