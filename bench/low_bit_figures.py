"""The tables of slots in fewer bits, and the page that holds them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from fusedopt.bench.report import absences, paragraph
from fusedopt.bench.results import Results
from fusedopt.bench.tables import Table
from low_bit_goals import NAMES, Record, differences, goal_table, number

SECTIONS = {
    "untouched": "Elements that never have a gradient",
    "largest": "The largest update, in learning rates",
    "averages": "The root of v, over that of float32",
    "sums": "How far the sum of all updates is from that of float32",
    "digits": "Digits",
    "characters": "Characters",
}
WHO = (
    "The first three are fusedopt's AdamW. The others are formats alone, in AdamW in NumPy with the same order of "
    "operations. All of these round to the nearest: bfloat16; the 8-bit map of torchao's AdamW8bit, and of "
    "bitsandbytes on a GPU; the same map, found in the table of bitsandbytes on a CPU; E4M3 for both slots, as in "
    "torchao's AdamWFp8. The last three have blocks of 256. In the formats of 8 bits, variables of less than 4,096 "
    "elements keep float32."
)
ABOUT = {
    "untouched": "Every other element has a gradient, and the spread in a block is 10^4.",
    "largest": "Without any rounding AdamW's update is at most 7.3 learning rates for beta_1 0.9 and beta_2 0.999. "
    "Each kind of gradients is made to be hostile to blocks with a common scale, or to come near this bound.",
    "averages": "8,192 elements with gradients of a normal distribution, for 5,000 steps. Then gradients are a "
    "hundredth of that for 3,000 more. An average that only follows in whole codes stays behind.",
    "sums": "The root of the mean square, over that of float32, after 2,000 steps. A spread of 10^6 in a block is "
    "more than 8 bits hold. There the smallest elements move less than they should, never more.",
    "digits": "A perceptron, 64-128-64-10, on scikit-learn's digits: AdamW, learning rate 0.002, 3,000 steps of 64. "
    "Accuracy is that on 397 images held out.",
    "characters": "The next letter after eight in Python's own help texts: an embedding of 48 and a perceptron, "
    "AdamW, learning rate from 0.003 to 0, 3,000 steps of 128. Bits per character are those on the last tenth of "
    "the text.",
}
PAIRS = (
    "Everybody begins with the same weights and sees the same batches, so differences are those of pairs. ± is the "
    "standard error of a difference, and the standard deviation over seeds of everything else."
)
TASKS = ("digits", "characters")


def tables(results: Results) -> Iterator[tuple[str, list[Table]]]:
    """Yield each section's title and tables, and the goals at the end, which a console shows last."""
    for section, table in _measured(results):
        yield SECTIONS[section], [table]
    table = goal_table(results)
    if table.rows:
        yield "Goals", [table]


def page(results: Results) -> str:
    """Write everything as one page."""
    parts = [
        "# Results\n",
        "Written by `python bench/low_bit.py --markdown`; not edited by hand.\n",
    ]
    parts += [paragraph(f"**{doubt}**") for doubt in results.doubts]
    parts.append("".join(f"- {name}: {value}\n" for name, value in results.environment.items()))
    parts += [absences(results), "## Goals\n", goal_table(results).markdown(), paragraph(WHO)]
    for section, table in _measured(results):
        parts += [f"## {SECTIONS[section]}\n", paragraph(ABOUT[section]), table.markdown()]
        if section in TASKS:
            parts.append(paragraph(f"{_seeds(results, section)} {PAIRS}"))
    return "\n".join(parts)


def goals_and_source(results: Results) -> str:
    """Write the goals alone, and where they were measured."""
    source = "Measured by `python bench/low_bit.py` on " + "; ".join(results.environment.values())
    said = [f"{source}.", *(_seeds(results, section) for section in TASKS)]
    return "\n".join([goal_table(results).markdown(), *map(paragraph, (WHO, " ".join(said)))])


def _seeds(results: Results, section: str) -> str:
    return f"Seeds of {section}: {len(results.more.get(section, []))}."


def _measured(results: Results) -> Iterator[tuple[str, Table]]:
    of_sections = {
        "untouched": _untouched,
        "largest": _kinds,
        "averages": _averages,
        "sums": _kinds,
        "digits": _digits,
        "characters": _characters,
    }
    for section, table in of_sections.items():
        if section in results.more:
            yield section, table(results.more[section])


def _table(columns: list[str], rows: dict[str, list[str]]) -> Table:
    return Table("", ["slots", *columns], [[name, *rows[name]] for name in NAMES])


def _untouched(found: Record) -> Table:
    rows = {name: [number(one["slot"]), number(one["moved"])] for name, one in found.items()}
    return _table(["largest slot", "moved by, in learning rates"], rows)


def _kinds(found: Record) -> Table:
    rows = {name: [number(one[name]) for one in found.values()] for name in NAMES}
    return _table(list(found), rows)


def _averages(found: Record) -> Table:
    rows = {}
    for name, one in found.items():
        cells = []
        for when in ("steady", "dropped"):
            cells += [f"{one[when]['mean']:.3f}", *(f"{x:.2f}" for x in one[when]["quantiles"])]
        rows[name] = cells
    columns = ["mean of v", "1 %", "median", "99 %"]
    return _table([*columns, *(f"{column}, after the drop" for column in columns)], rows)


def _digits(seeds: list[Record]) -> Table:
    gaps = differences(seeds, "accuracy")
    rows = {
        name: [
            _spread([one[name]["loss"] for one in seeds], "{:.2g}"),
            _spread([one[name]["accuracy"] for one in seeds], "{:.2f}"),
            _spread(gaps[name], "{:+.2f}", of_mean=True),
            *_largest_weight(seeds, name),
        ]
        for name in NAMES
    }
    columns = ["training loss", "accuracy, %", "points from float32"]
    return _table([*columns, "largest weight", "of all seeds"], rows)


def _characters(seeds: list[Record]) -> Table:
    gaps = differences(seeds, "bits", relative=True)
    rows = {
        name: [
            _spread([one[name]["bits"] for one in seeds], "{:.4f}"),
            _spread(gaps[name], "{:+.2f}", of_mean=True),
            *_largest_weight(seeds, name),
        ]
        for name in NAMES
    }
    columns = ["bits per character", "% from float32"]
    return _table([*columns, "largest weight", "of all seeds"], rows)


def _largest_weight(seeds: list[Record], name: str) -> list[str]:
    weights = [one[name]["largest weight"] for one in seeds]
    return [_spread(weights, "{:.2f}"), f"{max(weights):.2f}"]


def _spread(values: list[float], form: str, *, of_mean: bool = False) -> str:
    """Write the mean, and the deviation of the values or of their mean."""
    mean = form.format(statistics.mean(values))
    if len(values) < 2:
        return mean
    deviation = statistics.stdev(values) / (len(values) ** 0.5 if of_mean else 1)
    return f"{mean} ± {form.replace('+', '').format(deviation)}"
