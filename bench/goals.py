"""What fusedopt promises about speed and memory, beside what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from results import FUSEDOPT, Measurement, Results
from workloads import power_of_two

LARGE = 2**24
MICRO = 1e6
# A huge page at either end.
PAGES_MIB = 4.0


@dataclass
class Measured:
    """The median, which counts, and what the shortest times give, which a busy machine disturbs less."""

    median: float
    best: float


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
    yield from _small(results)
    yield from _subnormal(results)
    yield from _memory(results)


def _large(results: Results) -> Iterator[Goal]:
    for section, prefix, bound in (("sizes", "", 1.05), ("mixed", "mixed pipeline, ", 1.15)):
        for one in results.of(section):
            if one.elements >= LARGE:
                text = f"{prefix}{one.label}, {one.name} elements"
                yield Goal(text, bound, "of the limit", _ratios(one, FUSEDOPT))


def _small(results: Results) -> Iterator[Goal]:
    for one in [*results.of("tensors"), *results.of("sizes")]:
        per_tensor = {
            threads: Measured(
                entry.median * MICRO / one.tensors, entry.minimum * MICRO / one.tensors
            )
            for threads in one.thread_counts
            if (entry := one.find(FUSEDOPT, threads))
        }
        if one.elements == 64:
            yield Goal(f"{one.label}, one tensor of 64", 2.0, "us a call", per_tensor)
        elif one.section == "tensors" and one.elements == 64 * one.tensors:
            yield Goal(f"{one.label}, tensors: {one.name}", 0.2, "us a tensor", per_tensor)


def _subnormal(results: Results) -> Iterator[Goal]:
    for label, measurements in results.labels("subnormal"):
        ours = [one for one in measurements if one.name.startswith(FUSEDOPT)]
        worst = {}
        for threads in ours[0].thread_counts:
            ratios = [_ratios(one, name)[threads] for one in ours for name in one.names]
            worst[threads] = max(ratios, key=lambda measured: measured.median)
        yield Goal(f"{label}, subnormal numbers, the worst", 1.1, "of ordinary ones", worst)


def _memory(results: Results) -> Iterator[Goal]:
    for one in results.growths:
        if one.name == FUSEDOPT:
            beyond = (one.growth_bytes - one.slot_bytes) / 2**20
            text = f"{one.label}, {power_of_two(one.elements)} elements, peak memory beyond slots"
            measured = {results.threads[-1]: Measured(beyond, beyond)}
            yield Goal(text, PAGES_MIB, "MiB", measured)


def _ratios(one: Measurement, name: str) -> dict[int, Measured]:
    found = {}
    for threads in one.thread_counts:
        median, best = one.ratio(name, threads), one.ratio_of_minima(name, threads)
        if median is not None and best is not None:
            found[threads] = Measured(median, best)
    return found
