"""What fusedopt promises about speed and memory, beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass

from results import FUSEDOPT, Measurement, Results
from workloads import power_of_two

LARGE = 2**24
MICRO = 1e6
# A huge page at either end.
PAGES_MIB = 4.0


@dataclass
class Goal:
    """An upper bound and the measured value for each number of threads."""

    text: str
    bound: float
    unit: str
    measured: dict[int, float]

    def is_met(self, threads: int) -> bool:
        return self.measured[threads] <= self.bound


def goals(results: Results) -> list[Goal]:
    """List all goals that a run has measured."""
    return [*_large(results), *_small(results), *_subnormal(results), *_memory(results)]


def _large(results: Results) -> list[Goal]:
    found = []
    for section, prefix, bound in (("sizes", "", 1.05), ("mixed", "mixed pipeline, ", 1.15)):
        for one in results.of(section):
            if one.elements >= LARGE:
                text = f"{prefix}{one.label}, {one.name} elements"
                found.append(Goal(text, bound, "of the limit", _ratios(one, FUSEDOPT)))
    return found


def _small(results: Results) -> list[Goal]:
    found = []
    for one in [*results.of("sizes"), *results.of("tensors")]:
        per_tensor = {
            threads: entry.median * MICRO / one.tensors
            for threads in one.thread_counts
            if (entry := one.find(FUSEDOPT, threads))
        }
        if one.section == "tensors" and one.elements == 64 * one.tensors:
            text = f"{one.label}, tensors: {one.name}"
            found.append(Goal(text, 0.2, "us a tensor", per_tensor))
        elif one.elements == 64:
            found.append(Goal(f"{one.label}, one tensor of 64", 2.0, "us a call", per_tensor))
    return found


def _subnormal(results: Results) -> list[Goal]:
    found = []
    for label, measurements in results.labels("subnormal"):
        ours = [one for one in measurements if one.name.startswith(FUSEDOPT)]
        worst = {
            threads: max(_ratios(one, name)[threads] for one in ours for name in one.names)
            for threads in ours[0].thread_counts
        }
        text = f"{label}, subnormal gradients or slots, the worst"
        found.append(Goal(text, 1.1, "of ordinary ones", worst))
    return found


def _memory(results: Results) -> list[Goal]:
    return [
        Goal(
            f"{one.label}, {power_of_two(one.elements)} elements: peak memory beyond the slots",
            PAGES_MIB,
            "MiB",
            {results.threads[-1]: (one.growth_bytes - one.slot_bytes) / 2**20},
        )
        for one in results.growths
        if one.name == FUSEDOPT
    ]


def _ratios(one: Measurement, name: str) -> dict[int, float]:
    ratios = {threads: one.ratio(name, threads) for threads in one.thread_counts}
    return {threads: ratio for threads, ratio in ratios.items() if ratio is not None}
