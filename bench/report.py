"""Results as tables, on a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from fusedopt.bench.results import FUSEDOPT, LIMIT, Measurement, Results
from fusedopt.bench.tables import (
    ABOUT_RATIOS,
    MISSING,
    Table,
    legend,
    marked,
    thread_count,
    times,
)
from goals import Goal, goals

SECTIONS = {
    "sizes": "One tensor",
    "tensors": "Many tensors",
    "mixed": "Mixed precision: float16 gradients, overflow check, unscaling, global norm, average",
    "reading": "Reading gradients: overflow check and sums of squares, as before a step",
    "variants": "Every variant of every rule",
    "options": "Common options",
    "arithmetic": "Arithmetic",
    "matrices": "Rules of matrices",
    "threads": "More threads against one",
    "values": "Kinds of numbers",
}
ABOUT_GOALS = """\
The median decides; in brackets what the shortest times of a run give. If the two differ much, the machine
was busy.
"""
HOW_TO_READ = """\
A cell is the median and, in brackets, the shortest time of a step, then the median over all rounds
of its ratio to the limit in the same round, or to what stands in the limit's place. The limit is the
plainest loop that moves the same bytes (see README.md). It has no software prefetch, so ratios below 1
occur; on few elements it is mostly the cost of a call.
"""


def goal_table(results: Results) -> Table:
    """Put the goals beside what was measured."""
    rows = []
    for goal in goals(results):
        cells = [_verdict(goal, threads) for threads in results.threads]
        rows.append([goal.text, f"<= {goal.bound} {goal.unit}", *cells])
    return Table("Goals", ["what", "goal", *map(thread_count, results.threads)], rows)


def tables(results: Results) -> Iterator[tuple[str, list[Table]]]:
    """Yield each section's title and tables."""
    for section, title in SECTIONS.items():
        found = list(_section(results, section))
        if found:
            yield title, found
    if results.growths:
        yield "Memory", [_memory(results)]


def markdown(results: Results) -> str:
    """Write everything as one page."""
    parts = ["# Results\n", "Written by `python bench/run.py --markdown`; not edited by hand.\n"]
    parts += [f"**{doubt}**\n" for doubt in results.doubts]
    parts += [f"- {name}: {value}" for name, value in results.environment.items()]
    parts += [f"- not measured, {who}: {why}" for who, why in results.absent.items()]
    parts += ["\n## Goals\n", goal_table(results).markdown(), ABOUT_GOALS, HOW_TO_READ]
    parts += [ABOUT_RATIOS + "\n", *(f"{note}\n" for note in notes(results))]
    for title, found in tables(results):
        parts.append(f"## {title}\n")
        for table in found:
            parts += [f"**{table.title}**\n", table.markdown()]
    return "\n".join(parts)


def notes(results: Results) -> list[str]:
    """Explain the marks."""
    return legend(
        [goal_table(results), *(table for _, found in tables(results) for table in found)]
    )


def _section(results: Results, section: str) -> Iterator[Table]:
    if section == "values":
        yield from _values(results)
        return
    if section == "arithmetic":
        yield from _arithmetic(results)
        return
    is_one_rule_a_table = section in ("sizes", "matrices")
    for threads in results.threads:
        if is_one_rule_a_table:
            for label, measurements in results.labels(section):
                yield _compared(f"{label}, {thread_count(threads)}", measurements, threads)
        elif results.of(section):
            yield _compared(thread_count(threads), results.of(section), threads)


def _compared(title: str, measurements: list[Measurement], threads: int) -> Table:
    names = list(dict.fromkeys(name for one in measurements for name in one.names))
    labels = {one.label for one in measurements}
    rows = []
    for one in measurements:
        subject = one.name if len(labels) == 1 else f"{one.label}, {one.name}"
        rows.append([subject, _bytes(one), *(_cell(one, name, threads) for name in names)])
    return Table(title, ["elements", "bytes each", *names], rows)


def _values(results: Results) -> Iterator[Table]:
    for threads in results.threads:
        rows = [
            [f"{one.label}, {one.name}", *(_cell(one, name, threads) for name in one.names)]
            for one in results.of("values")
        ]
        if rows:
            names = [f"gradients {name}" for name in results.of("values")[0].names]
            yield Table(thread_count(threads), ["who", *names], rows)


def _arithmetic(results: Results) -> Iterator[Table]:
    """Put what a thread computes in the cache beside what the memory gives it on large arrays."""
    rows = []
    for one in results.of("arithmetic"):
        single = [*results.of("sizes"), *results.of("mixed")]
        large = [other for other in single if other.label == one.label and other.tensors == 1]
        cells = [_nanoseconds(one, FUSEDOPT, results.threads[0])]
        for threads in results.threads:
            cells.append(_nanoseconds(large[-1], LIMIT, threads) if large else MISSING)
        rows.append([one.label, *cells])
    if rows:
        title = f"ns an element; in the cache with {thread_count(results.threads[0])}"
        limits = [f"limit, {thread_count(threads)}" for threads in results.threads]
        yield Table(title, ["who", "fusedopt in the cache", *limits], rows)


def _nanoseconds(one: Measurement, name: str, threads: int) -> str:
    entry = one.find(name, threads)
    if entry is None:
        return MISSING
    return marked(f"{entry.median / one.elements * 1e9:.3f}", entry.is_doubtful)


def _memory(results: Results) -> Table:
    rows = [
        [one.name, _mebibytes(one.slot_bytes), _mebibytes(one.growth_bytes)]
        for one in results.growths
    ]
    first = results.growths[0]
    title = f"{first.label}, {first.elements:,} elements, {thread_count(results.threads[-1])}"
    return Table(title, ["who", "slots of the rule", "peak growth"], rows)


def _cell(one: Measurement, name: str, threads: int) -> str:
    entry = one.find(name, threads)
    if entry is None:
        return MISSING
    if name == LIMIT and one.bytes is not None:
        bandwidth = f"{one.bytes * one.elements / entry.median / 1e9:.0f} GB/s"
        return marked(f"{times(entry)}, {bandwidth}", entry.is_doubtful)
    ratio = one.ratio(name, threads)
    if ratio is None:
        return marked(times(entry), entry.is_doubtful)
    return marked(f"{times(entry)} {ratio:.2f}", one.is_doubtful(name, threads))


def _bytes(one: Measurement) -> str:
    return MISSING if one.bytes is None else str(one.bytes)


def _verdict(goal: Goal, threads: int) -> str:
    measured = goal.measured.get(threads)
    if measured is None:
        return MISSING
    words = [f"{measured.median:.2f} ({measured.best:.2f})", measured.who]
    words.append("yes" if goal.is_met(threads) else "NO")
    return marked(" ".join(word for word in words if word), measured.is_doubtful)


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
