"""What the rules cost, as tables: what the memory gives, what every rule takes, and the rules for people who choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import fusedopt as fo
from fusedopt.bench import rules
from fusedopt.bench.limit import slots_of, traffic_of
from fusedopt.bench.measuring import LIMITS
from fusedopt.bench.report import absences, notes, paragraph
from fusedopt.bench.results import FUSEDOPT, LIMIT, WHOLE, Measurement, Results
from fusedopt.bench.tables import MISSING, Table, legend, marked, thread_count
from fusedopt.bench.workload import Workload

NANO = 1e9


ABOUT_COSTS = (
    "Bytes: what one step moves per element of a float32 matrix. Time / limit: the step's time divided by the time "
    "that a plain loop needs to move the same bytes. `bfloat16 weights` have no float32 copy, and their gradients are "
    "bfloat16."
)


def tables(results: Results) -> Iterator[tuple[str, list[Table]]]:
    """For a console."""
    yield "Limits", [limit_table(results)]
    yield "Rules", [cost_table(results, threads) for threads in results.threads]


def limit_table(results: Results) -> Table:
    """What the memory gives."""
    rows = [
        [
            one.label,
            bytes_cell(one.bytes),
            *(_bandwidth(one, threads) for threads in results.threads),
        ]
        for one in results.of(LIMITS)
    ]
    columns = ["plainest loop", "bytes per element", *map(thread_count, results.threads)]
    return Table("What the memory gives", columns, rows)


def cost_table(results: Results, threads: int) -> Table:
    """What each rule takes, and what others take for it."""
    found = results.of(rules.SECTION)
    known = (LIMIT, FUSEDOPT, WHOLE)
    names = dict.fromkeys(name for one in found for name in one.names if name not in known)
    rows = [
        [
            one.label,
            one.name,
            bytes_cell(one.bytes),
            nanoseconds_cell(one, LIMIT, threads),
            nanoseconds_cell(one, FUSEDOPT, threads),
            ratio_cell(one, threads),
            ratio_cell(one, threads, WHOLE),
            *(nanoseconds_cell(one, name, threads) for name in names),
        ]
        for one in found
    ]
    columns = [
        "rule",
        "elements",
        "bytes",
        "limit, ns",
        "fusedopt, ns",
        "time / limit",
        "time / float32",
    ]
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
        rows.append(
            [
                f"`{workload.label}`",
                _about(workload, found, threads),
                ", ".join(f"`{slot}`" for slot in slots_of(workload)),
                bytes_cell(moved),
                ratio_cell(found, threads) if found else MISSING,
            ]
        )
    return Table("", ["rule", "what it does", "slots", "bytes", "time / limit"], rows, texts=3)


def _about(workload: Workload, found: Measurement | None, threads: int) -> str:
    if workload.whole() is workload:
        return "" if workload.arguments else rules.summary(getattr(fo, workload.rule))
    text = f"{bytes_cell(traffic_of(workload).kept)} bytes of state per element."
    ratio = found and found.find(WHOLE, threads) and ratio_cell(found, threads, WHOLE)
    return f"{text} {ratio} of the time with float32 weights and slots." if ratio else text


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


def nanoseconds_cell(one: Measurement, name: str, threads: int) -> str:
    """Write somebody's time per element."""
    entry = one.find(name, threads)
    if entry is None:
        return MISSING
    return marked(f"{entry.median * NANO / one.elements:.3g}", entry.is_doubtful)


def ratio_cell(one: Measurement, threads: int, baseline: str = LIMIT) -> str:
    """Compare fusedopt's time with that of one of the others."""
    against = replace(one, baseline=baseline)
    ratio = against.ratio(FUSEDOPT, threads)
    if ratio is None:
        return MISSING
    return marked(f"{ratio:.2f}", against.is_doubtful(FUSEDOPT, threads))


def bytes_cell(count: float | None) -> str:
    """Write bytes per element, which need not be a whole number."""
    return MISSING if count is None else f"{count:.3g}"


def _bandwidth(one: Measurement, threads: int) -> str:
    entry = one.find(LIMIT, threads)
    if entry is None or one.bytes is None:
        return MISSING
    bandwidth = f"{one.bytes * one.elements / entry.median / NANO:.1f} GB/s"
    return marked(bandwidth, entry.is_doubtful)
