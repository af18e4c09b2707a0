"""What a run of ``python -m fusedopt.bench`` found: on a terminal, and in marked blocks of Markdown files."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import fusedopt as fo
from fusedopt.bench import rules
from fusedopt.bench.limit import slots_of, traffic_of
from fusedopt.bench.measuring import LIMITS
from fusedopt.bench.results import FUSEDOPT, LIMIT, Measurement, Results
from fusedopt.bench.tables import ABOUT_RATIOS, MISSING, Table, legend, marked, thread_count

NANO = 1e9


def limit_table(results: Results) -> Table:
    """What the memory gives."""
    rows = [
        [one.label, str(one.bytes), *(_bandwidth(one, threads) for threads in results.threads)]
        for one in results.of(LIMITS)
    ]
    columns = ["plainest loop", "bytes an element", *map(thread_count, results.threads)]
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
    columns = ["rule", "elements", "bytes", "limit, ns", "fusedopt, ns", "of the limit"]
    title = f"For each element, {thread_count(threads)}"
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
    return Table(
        "", ["rule", "what it does", "slots", "bytes an element", "of the limit"], rows, texts=3
    )


def rules_block(results: Results) -> str:
    """The table of rules, for people who choose."""
    about = (
        "Bytes are those that a step moves for each element of a float32 matrix; of the limit: its time, in multiples "
        "of the time in which the plainest loop moves them.\n"
    )
    table = rule_table(results)
    notes = "".join(f"{note}\n" for note in (*legend([table]), *results.doubts))
    return f"{table.markdown()}\n{about}{notes}{_source(results)}"


def measurements_block(results: Results) -> str:
    """The figures of one machine."""
    limits = limit_table(results)
    costs = [cost_table(results, threads) for threads in results.threads]
    notes = [ABOUT_RATIOS, *legend([limits, *costs])]
    parts = [f"**{doubt}**\n" for doubt in results.doubts]
    parts += [f"{_source(results)}", limits.markdown()]
    for table in costs:
        parts += [f"{table.title}:\n", table.markdown()]
    parts.append("\n".join(notes) + "\n")
    parts += [f"- not measured, {who}: {why}" for who, why in results.absent.items()]
    return "\n".join(parts).rstrip("\n") + "\n"


BLOCKS: dict[str, Callable[[Results], str]] = {
    "rules": rules_block,
    "measurements": measurements_block,
}


def write(results: Results, path: Path) -> None:
    """Replace the marked blocks of a Markdown file; a new file gets all of them.

    Raises
    ------
    ValueError
        If the file has no such block.
    """
    empty = "\n".join(_marked(name, "") for name in BLOCKS)
    text = path.read_text(encoding="utf-8") if path.exists() else empty
    path.write_text(with_blocks(results, text, str(path)), encoding="utf-8", newline="\n")


def with_blocks(results: Results, text: str, where: str) -> str:
    """Replace what stands between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``."""
    count = 0
    for name, block in BLOCKS.items():
        pattern = re.escape(_marked(name, "\0")).replace("\0", "(?:.*\n)*?")
        new = _marked(name, block(results))
        text, replaced = re.subn(pattern, partial(_constant, new), text)
        count += replaced
    if not count:
        raise ValueError(f"{where}: expected a line {_marked('rules', '').splitlines()[0]}")
    return text


def _marked(name: str, block: str) -> str:
    return f"<!-- {name}: begin -->\n{block}<!-- {name}: end -->\n"


def _constant(new: str, _: re.Match[str]) -> str:
    """Take the new text as it is: re.sub would read its backslashes."""
    return new


def _source(results: Results) -> str:
    environment = results.environment
    threads = " and ".join(map(thread_count, results.threads))
    return (
        f"Measured by `python -m fusedopt.bench` on {environment['date']}: fusedopt {environment['fusedopt']}; "
        f"{environment['processor']}, {threads}; {environment['system']}; {environment['libraries']}.\n"
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
