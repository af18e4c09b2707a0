"""What the rules cost, as tables: what the memory gives, what every rule takes, and the rules for people who choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import fusedopt as fo
from fusedopt.bench import rules
from fusedopt.bench.limit import slots_of, traffic_of
from fusedopt.bench.measuring import LIMITS
from fusedopt.bench.report import absences, notes, paragraph
from fusedopt.bench.results import FUSEDOPT, LIMIT, Measurement, Results
from fusedopt.bench.tables import MISSING, Table, legend, marked, thread_count

NANO = 1e9


ABOUT_COSTS = (
    "Bytes: what one step moves per element of a float32 matrix. Time / limit: the step's time divided by the time "
    "that a plain loop needs to move the same bytes."
)


def tables(results: Results) -> Iterator[tuple[str, list[Table]]]:
    """For a console."""
    yield "Limits", [limit_table(results)]
    yield "Rules", [cost_table(results, threads) for threads in results.threads]


def limit_table(results: Results) -> Table:
    """What the memory gives."""
    rows = [
        [one.label, str(one.bytes), *(_bandwidth(one, threads) for threads in results.threads)]
        for one in results.of(LIMITS)
    ]
    columns = ["plainest loop", "bytes per element", *map(thread_count, results.threads)]
    return Table("What the memory gives", columns, rows)


def cost_table(results: Results, threads: int) -> Table:
    """What each rule takes, and what others take for it."""
    found = results.of(rules.SECTION)
    known = (LIMIT, FUSEDOPT)
    names = dict.fromkeys(name for one in found for name in one.names if name not in known)
    rows = [
        [
            one.label,
            one.name,
            MISSING if one.bytes is None else str(one.bytes),
            _nanoseconds(one, LIMIT, threads),
            _nanoseconds(one, FUSEDOPT, threads),
            _ratio(one, threads),
            *(_nanoseconds(one, name, threads) for name in names),
        ]
        for one in found
    ]
    columns = ["rule", "elements", "bytes", "limit, ns", "fusedopt, ns", "time / limit"]
    title = f"Per element, {thread_count(threads)}"
    return Table(title, [*columns, *(f"{name}, ns" for name in names)], rows)


def rule_table(results: Results) -> Table:
    """The package's rules, with what a run has measured of them."""
    threads = results.threads[-1]
    measured = {one.label: one for one in results.of(rules.SECTION)}
    rows = []
    for workload in rules.workloads(1):
        moved = traffic_of(workload).bytes
        found = measured.get(workload.label)
        about = "" if workload.arguments else rules.summary(getattr(fo, workload.rule))
        rows.append(
            [
                f"`{workload.label}`",
                about,
                ", ".join(f"`{slot}`" for slot in slots_of(workload)),
                MISSING if moved is None else str(moved),
                _ratio(found, threads) if found else MISSING,
            ]
        )
    return Table("", ["rule", "what it does", "slots", "bytes", "time / limit"], rows, texts=3)


def rules_block(results: Results) -> str:
    """The table of rules, for people who choose."""
    table = rule_table(results)
    about = (
        ABOUT_COSTS,
        *legend([table]),
        *results.doubts,
        _source(results),
    )
    return f"{table.markdown()}\n{paragraph(' '.join(about))}"


def measurements_block(results: Results) -> str:
    """The figures of one machine."""
    limits = limit_table(results)
    costs = [cost_table(results, threads) for threads in results.threads]
    parts = [paragraph(f"**{doubt}**") for doubt in results.doubts]
    parts += [paragraph(_source(results)), limits.markdown()]
    for table in costs:
        parts += [f"{table.title}:\n", table.markdown()]
    parts.append(paragraph(" ".join(notes([limits, *costs]))))
    parts.append(absences(results))
    return "\n".join(parts).rstrip("\n") + "\n"


BLOCKS: dict[str, Callable[[Results], str]] = {
    "rules": rules_block,
    "measurements": measurements_block,
}


def _source(results: Results) -> str:
    environment = results.environment
    threads = " and ".join(map(thread_count, results.threads))
    return (
        f"Measured by `python -m fusedopt.bench` on {environment['date']}: fusedopt {environment['fusedopt']}; "
        f"{environment['processor']}, {threads}; {environment['system']}; {environment['libraries']}."
    )


def _nanoseconds(one: Measurement, name: str, threads: int) -> str:
    entry = one.find(name, threads)
    if entry is None:
        return MISSING
    return marked(f"{entry.median * NANO / one.elements:.3g}", entry.is_doubtful)


def _ratio(one: Measurement, threads: int) -> str:
    ratio = one.ratio(FUSEDOPT, threads)
    if ratio is None:
        return MISSING
    return marked(f"{ratio:.2f}", one.is_doubtful(FUSEDOPT, threads))


def _bandwidth(one: Measurement, threads: int) -> str:
    entry = one.find(LIMIT, threads)
    if entry is None or one.bytes is None:
        return MISSING
    bandwidth = f"{one.bytes * one.elements / entry.median / NANO:.1f} GB/s"
    return marked(bandwidth, entry.is_doubtful)
