"""What fusedopt promises about speed and memory, next to what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from fusedopt.bench.limit import SWEEPS
from fusedopt.bench.results import FUSEDOPT, Measurement, Results
from fusedopt.bench.workload import power_of_two
from memory import growths
from sections import FLAGSHIP, SMALL

LARGE, LARGEST = 2**24, 2**26
# A rule that is one sweep: 98 % of what the memory gives; on fewer elements 95 %, if it has little arithmetic.
LARGEST_BOUND, LARGE_BOUND = 1.02, 1.05
RULES_OF_LITTLE_ARITHMETIC = ("AdamW", "Adam", "RMSprop", "SGD")
# 90 %: two sweeps, and norms in the first.
LAMB, LAMB_BOUND = "Lamb", 1.11
FOREACH, FOREACH_BOUND = "PyTorch foreach", 0.4
FOREACH_RULES = ("Adadelta", "Adagrad", "Adamax", "Nadam")
# Of the mixed pipeline, by the names of its workloads. If steps are short, a call and many tensors show.
MIXED = {
    "2^20": 1.15,
    "2^24": 1.15,
    "2^26": 1.05,
    "100 of 10,486": 1.15,
    "1,000 of 1,024": 1.3,
    "GPT-2 small, 148 tensors": 1.05,
}
MATRICES = {"Adafactor, 4096 x 4096": 1.0, "Muon, 1024 x 1024": 1.3}
THREADS_BOUND = 1.05
# Microseconds per tensor of many small ones, and per call with a single one.
SMALL_TENSORS = {FLAGSHIP: 0.2, f"{FLAGSHIP}(global_clipnorm=1.0)": 0.06}
SMALL_CALL, SLOWEST_SMALL_CALL = 0.6, 2.0
VALUES_BOUND = 1.1
MICRO = 1e6
# A huge page at either end.
PAGES_MIB = 4.0


@dataclass
class Measured:
    """A median, which counts, and what the shortest times give, which a busy machine disturbs less."""

    median: float
    best: float
    who: str = ""
    """The worst of all, if a goal is for all."""
    is_doubtful: bool = False
    """The machine was busy, or the rounds differ much."""


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
    yield from _foreach(results)
    yield from _mixed(results)
    yield from _reading(results)
    yield from _matrices(results)
    yield from _small(results)
    yield from _threads(results)
    yield from _values(results)
    yield from _memory(results)


def _large(results: Results) -> Iterator[Goal]:
    for one in results.of("sizes"):
        bound = _bound_of_limit(_rule(one), one.elements)
        if bound is not None:
            text = f"{one.label}, {one.name} elements"
            yield Goal(text, bound, "times the limit", by_threads(results, ratios([one])))


def _bound_of_limit(rule: str, elements: int) -> float | None:
    if rule == LAMB:
        return LAMB_BOUND if elements >= LARGEST else None
    if rule in SWEEPS or elements < LARGE:
        return None
    if elements >= LARGEST:
        return LARGEST_BOUND
    return LARGE_BOUND if rule in RULES_OF_LITTLE_ARITHMETIC else None


def _foreach(results: Results) -> Iterator[Goal]:
    for one in results.of("sizes"):
        if one.elements >= LARGE and _rule(one) in FOREACH_RULES and FOREACH in one.names:
            text = f"{one.label}, {one.name} elements"
            measured = by_threads(results, ratios([replace(one, baseline=FOREACH)]))
            yield Goal(text, FOREACH_BOUND, f"times {FOREACH}'s time", measured)


def _mixed(results: Results) -> Iterator[Goal]:
    for one in results.of("mixed"):
        if one.name in MIXED:
            name = one.name if one.tensors > 1 else f"{one.name} elements"
            text = f"mixed pipeline, {one.label}, {name}"
            measured = by_threads(results, ratios([one]))
            yield Goal(text, MIXED[one.name], "times the limit", measured)


def _reading(results: Results) -> Iterator[Goal]:
    for one in results.of("reading"):
        if one.elements >= LARGEST:
            text = f"reading gradients, {one.name} elements"
            measured = by_threads(results, ratios([one]))
            yield Goal(text, LARGEST_BOUND, f"times a {one.baseline}", measured)


def _matrices(results: Results) -> Iterator[Goal]:
    for one in results.of("matrices"):
        text = f"{one.label}, {one.name}"
        if text in MATRICES:
            measured = by_threads(results, ratios([one]))
            yield Goal(text, MATRICES[text], f"times {one.baseline}", measured)


def _small(results: Results) -> Iterator[Goal]:
    many = [one for one in results.of("tensors") if one.elements == SMALL * one.tensors]
    for one in many:
        text, bound = f"{one.label}, {one.name}", SMALL_TENSORS[one.label]
        yield Goal(text, bound, "us per tensor", by_threads(results, _times([one])))
    # Products of matrices are no one sweep, however small.
    swept = [one for one in results.of("sizes") if one.bytes is not None]
    single = [one for one in swept if one.elements == SMALL]
    for one in single:
        if one.label == FLAGSHIP:
            text = f"{one.label}, one tensor of {SMALL}"
            yield Goal(text, SMALL_CALL, "us per call", by_threads(results, _times([one])))
    if single:
        text = f"the slowest rule, one tensor of {SMALL}"
        measured = by_threads(results, _times(single))
        yield Goal(text, SLOWEST_SMALL_CALL, "us per call", measured)


def _threads(results: Results) -> Iterator[Goal]:
    """One thread against itself is no goal."""
    pairs = [
        (threads, replace(measured, who=one.name))
        for one in results.of("threads")
        for threads, measured in ratios([one])
        if threads > 1
    ]
    if pairs:
        text = f"{FLAGSHIP}, the worst of all sizes"
        measured = by_threads(results, pairs)
        yield Goal(text, THREADS_BOUND, "times one thread's time", measured)


def _values(results: Results) -> Iterator[Goal]:
    ours = [one for one in results.of("values") if one.name.startswith(FUSEDOPT)]
    if ours:
        text = "the worst rule, zero, subnormal and huge numbers"
        measured = by_threads(results, [pair for one in ours for pair in _kinds(one)])
        yield Goal(text, VALUES_BOUND, "times that of ordinary ones", measured)


def _memory(results: Results) -> Iterator[Goal]:
    for one in growths(results):
        if one.name == FUSEDOPT:
            beyond = (one.growth_bytes - one.slot_bytes) / 2**20
            text = f"{one.label}, {power_of_two(one.elements)} elements, peak memory beyond slots"
            measured = {results.threads[-1]: Measured(beyond, beyond)}
            yield Goal(text, PAGES_MIB, "MiB", measured)


_Pair = tuple[int, Measured]


def by_threads(results: Results, pairs: list[_Pair]) -> dict[int, Measured]:
    """Find the worst per number of threads, and its name if there are several."""
    found = {}
    for threads in results.threads:
        mine = [measured for count, measured in pairs if count == threads]
        if mine:
            worst = max(mine, key=lambda measured: measured.median)
            found[threads] = worst if len(mine) > 1 else replace(worst, who="")
    return found


def _times(measurements: list[Measurement]) -> list[_Pair]:
    return [
        (
            threads,
            Measured(
                entry.median * MICRO / one.tensors,
                entry.minimum * MICRO / one.tensors,
                one.label,
                entry.is_doubtful,
            ),
        )
        for one in measurements
        for threads in one.thread_counts
        if (entry := one.find(FUSEDOPT, threads))
    ]


def ratios(measurements: list[Measurement], name: str = FUSEDOPT) -> list[_Pair]:
    return [
        (
            threads,
            Measured(
                median,
                entry.minimum / base.minimum,
                one.label,
                one.is_doubtful(name, threads),
            ),
        )
        for one in measurements
        for threads in one.thread_counts
        if (entry := one.find(name, threads))
        and (base := one.find(one.baseline, threads))
        and (median := one.ratio(name, threads))
    ]


def _kinds(one: Measurement) -> list[_Pair]:
    return [pair for name in one.names for pair in ratios([one], name)]


def _rule(one: Measurement) -> str:
    return one.label.partition("(")[0]
