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
from fusedopt.bench.tables import MISSING, Table, thread_count

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
    return f"{rule_table(results).markdown()}\n{about}{_source(results)}"


def measurements_block(results: Results) -> str:
    """The figures of one machine."""
    parts = [f"{_source(results)}", limit_table(results).markdown()]
    for threads in results.threads:
        table = cost_table(results, threads)
        parts += [f"{table.title}:\n", table.markdown()]
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
    return f"{entry.median * NANO / one.elements:.3g}" if entry else MISSING


def _ratio(one: Measurement, threads: int) -> str:
    ratio = one.ratio(FUSEDOPT, threads)
    return MISSING if ratio is None else f"{ratio:.2f}"


def _bandwidth(one: Measurement, threads: int) -> str:
    entry = one.find(LIMIT, threads)
    if entry is None or one.bytes is None:
        return MISSING
    return f"{one.bytes * one.elements / entry.median / NANO:.1f} GB/s"
