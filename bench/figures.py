"""The tables of the thorough suite, and the page that holds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fusedopt.bench.report import absences, notes, paragraph
from fusedopt.bench.results import FUSEDOPT, LIMIT, Measurement, Results
from fusedopt.bench.tables import MISSING, Table, marked, thread_count, times
from goals import Goal, goals
from memory import Growth, growths

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
ABOUT_GOALS = (
    "The median decides. The figure in brackets comes from the shortest times of the run. If the two differ much, the "
    "machine was busy."
)
HOW_TO_READ = (
    "A cell holds the median time of a step, the shortest time in brackets, and the median ratio to the limit, or to "
    "what stands in the limit's place. The limit is the plainest loop that moves the same bytes (docs/performance.md). "
    "It has no software prefetch, so ratios below 1 occur. On few elements it is mostly the cost of a call."
)


def goal_table(found: Iterable[Goal], counts: list[int]) -> Table:
    """Put goals next to what was measured on these numbers of threads."""
    rows = []
    for goal in found:
        cells = [_verdict(goal, threads) for threads in counts]
        rows.append([goal.text, f"<= {goal.bound} {goal.unit}", *cells])
    return Table("Goals", ["what", "goal", *map(thread_count, counts)], rows)


def tables(results: Results) -> Iterator[tuple[str, list[Table]]]:
    """List each section's title and tables, and the goals."""
    return with_goals(results, _measured(results), goals(results))


def with_goals(
    results: Results, measured: Iterable[tuple[str, list[Table]]], found: Iterable[Goal]
) -> Iterator[tuple[str, list[Table]]]:
    """Yield the goals after all tables, as a console shows the end."""
    yield from measured
    table = goal_table(found, results.threads)
    if table.rows:
        yield "Goals", [table]


def _measured(results: Results) -> Iterator[tuple[str, list[Table]]]:
    for section, title in SECTIONS.items():
        found = list(_section(results, section))
        if found:
            yield title, found
    found = growths(results)
    if found:
        yield "Memory", [_memory(found, results.threads[-1])]


def page(results: Results) -> str:
    """Write everything as one page."""
    measured = list(_measured(results))
    return page_of(results, "python bench/run.py", goals(results), HOW_TO_READ, measured)


def page_of(
    results: Results,
    program: str,
    found: Iterable[Goal],
    how_to_read: str,
    titled: list[tuple[str, list[Table]]],
) -> str:
    """Write a page with goals at its head and tables under titles."""
    shown = [goal_table(found, results.threads), *(one for _, several in titled for one in several)]
    parts = ["# Results\n", f"Written by `{program} --markdown`; not edited by hand.\n"]
    parts += [paragraph(f"**{doubt}**") for doubt in results.doubts]
    parts.append("".join(f"- {name}: {value}\n" for name, value in results.environment.items()))
    parts += [absences(results), "## Goals\n", shown[0].markdown()]
    parts += map(paragraph, (ABOUT_GOALS, how_to_read, *notes(shown)))
    for title, tables in titled:
        parts.append(f"## {title}\n")
        for table in tables:
            parts += [f"**{table.title}**\n", table.markdown()]
    return "\n".join(parts)


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
            for label in dict.fromkeys(one.label for one in results.of(section)):
                found = [one for one in results.of(section) if one.label == label]
                yield compared(f"{label}, {thread_count(threads)}", found, threads)
        elif results.of(section):
            yield compared(thread_count(threads), results.of(section), threads)


def compared(
    title: str, measurements: list[Measurement], threads: int, subjects: str = "elements"
) -> Table:
    """Put workloads below each other, and everybody's times and ratios into columns."""
    names = list(dict.fromkeys(name for one in measurements for name in one.names))
    labels = {one.label for one in measurements}
    rows = []
    for one in measurements:
        subject = one.name if len(labels) == 1 else f"{one.label}, {one.name}"
        rows.append([subject, _bytes(one), *(_cell(one, name, threads) for name in names)])
    return Table(title, [subjects, "bytes per element", *names], rows)


def _values(results: Results) -> Iterator[Table]:
    for threads in results.threads:
        rows = [
            [f"{one.label}, {one.name}", *(_cell(one, name, threads) for name in one.names)]
            for one in results.of("values")
        ]
        if rows:
            names = [f"gradients {name}" for name in results.of("values")[0].names]
            yield Table(thread_count(threads), ["contestant", *names], rows)


def _arithmetic(results: Results) -> Iterator[Table]:
    """Put what a thread computes in the cache next to what the memory gives it on large arrays."""
    rows = []
    for one in results.of("arithmetic"):
        single = [*results.of("sizes"), *results.of("mixed")]
        large = [other for other in single if other.label == one.label and other.tensors == 1]
        cells = [_nanoseconds(one, FUSEDOPT, results.threads[0])]
        for threads in results.threads:
            cells.append(_nanoseconds(large[-1], LIMIT, threads) if large else MISSING)
        rows.append([one.label, *cells])
    if rows:
        title = f"ns per element; in the cache with {thread_count(results.threads[0])}"
        limits = [f"limit, {thread_count(threads)}" for threads in results.threads]
        yield Table(title, ["rule", "fusedopt in the cache", *limits], rows)


def _nanoseconds(one: Measurement, name: str, threads: int) -> str:
    entry = one.find(name, threads)
    if entry is None:
        return MISSING
    return marked(f"{entry.median / one.elements * 1e9:.3f}", entry.is_doubtful)


def _memory(found: list[Growth], threads: int) -> Table:
    rows = [[one.name, _mebibytes(one.slot_bytes), _mebibytes(one.growth_bytes)] for one in found]
    first = found[0]
    title = f"{first.label}, {first.elements:,} elements, {thread_count(threads)}"
    return Table(title, ["contestant", "slots of the rule", "peak growth"], rows)


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
