"""What is promised of slots in fewer bits, and what a run has found of everybody."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fusedopt.bench.results import Results
from fusedopt.bench.tables import Table
from low_bit_codes import CODES
from low_bit_trainers import BFLOAT16, FLOAT8, FLOAT32, OURS

NAMES = [*OURS, *CODES]
BOUND = 7.3
# More than eight bits hold. What is too small takes the smallest code, and moves less than it should.
WIDEST = "a spread of 10^6"
LARGEST_ERRORS = {BFLOAT16: 0.02, FLOAT8: 0.1}

Record = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What was found of one, and whether it is as promised."""

    figure: str
    is_met: bool

    def __str__(self) -> str:
        return f"{self.figure} {'yes' if self.is_met else 'NO'}"


@dataclass(frozen=True)
class Goal:
    """A promise, and what was found of each."""

    text: str
    bound: str
    found: dict[str, Verdict]

    def row(self) -> list[str]:
        return [self.text, self.bound, *(str(self.found[name]) for name in NAMES)]


def goal_table(results: Results) -> Table:
    return Table(
        "Goals", ["what", "goal", *NAMES], [goal.row() for goal in goals(results)], texts=2
    )


def goals(results: Results) -> Iterator[Goal]:
    """Judge what a run has found."""
    more = results.more
    if "untouched" in more:
        slots = {name: one["slot"] for name, one in more["untouched"].items()}
        yield _judged("no gradient ever: largest slot", "0", slots, lambda x: x == 0)
    if "largest" in more:
        largest = {name: max(kind[name] for kind in more["largest"].values()) for name in NAMES}
        text = "largest update, in learning rates"
        yield _judged(text, f"<= {BOUND}", largest, lambda x: x <= BOUND)
    if "averages" in more:
        yield from _of_averages(more["averages"])
    if "sums" in more:
        yield _of_sums(more["sums"])
    if "digits" in more:
        gaps = means(differences(more["digits"], "accuracy"))
        text = "digits: points of accuracy from float32"
        yield _judged(text, "within 0.3", gaps, lambda x: abs(x) <= 0.3, "{:+.2f}")
    if "characters" in more:
        gaps = means(differences(more["characters"], "bits", relative=True))
        text = "characters: bits from float32"
        yield _judged(text, "within 0.5 %", gaps, lambda x: abs(x) <= 0.5, "{:+.2f} %")


def _judged(
    text: str,
    bound: str,
    figures: dict[str, float],
    is_met: Callable[[float], bool],
    form: str = "",
) -> Goal:
    found = {
        name: Verdict(form.format(x) if form else number(x), is_met(x))
        for name, x in figures.items()
    }
    return Goal(text, bound, found)


def _of_averages(averages: Record) -> Iterator[Goal]:
    steady = {name: one["steady"] for name, one in averages.items()}
    after = {name: one["dropped"]["quantiles"][1] for name, one in averages.items()}
    mean = {name: one["mean"] for name, one in steady.items()}
    yield _judged("mean of v", "0.99 to 1.01", mean, lambda x: abs(x - 1) <= 0.01, "{:.3f}")
    found = {}
    for name, one in steady.items():
        low, _, high = one["quantiles"]
        found[name] = Verdict(f"{low:.2f}, {high:.2f}", low >= 0.75 and high <= 1.3)
    yield Goal("1 % and 99 % of the root of v", "0.75 to 1.3", found)
    text = "median of the root of v after a drop"
    yield _judged(text, "0.9 to 1.1", after, lambda x: abs(x - 1) <= 0.1, "{:.2f}")


def _of_sums(sums: Record) -> Goal:
    counted = [one for kind, one in sums.items() if kind != WIDEST]
    found = {}
    for name in NAMES:
        error = max(one[name] for one in counted)
        bound = LARGEST_ERRORS[BFLOAT16 if name.startswith(BFLOAT16) else FLOAT8]
        found[name] = Verdict(number(error), error <= bound)
    bounds = f"<= {LARGEST_ERRORS[FLOAT8]}, bfloat16 {LARGEST_ERRORS[BFLOAT16]}"
    return Goal("error of the sum of updates", bounds, found)


def differences(
    seeds: list[Record], what: str, *, relative: bool = False
) -> dict[str, list[float]]:
    """Subtract float32's figure of the same seed, and divide by it for percents."""
    found: dict[str, list[float]] = {}
    for one in seeds:
        base = one[FLOAT32][what]
        unit = base / 100 if relative else 1.0
        for name in NAMES:
            found.setdefault(name, []).append((one[name][what] - base) / unit)
    return found


def means(values: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.mean(each) for name, each in values.items()}


def number(x: float) -> str:
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.2g}"
