"""The tables of the suite of ranks, its goals, and the blocks of pages that hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from figures import ABOUT_GOALS, goal_table, page_of, with_goals
from fusedopt.bench.report import notes, paragraph
from fusedopt.bench.results import FUSEDOPT, LIMIT, Measurement, Results
from fusedopt.bench.tables import MISSING, Table, marked, times
from goals import Goal, by_threads, ratios
from sharded_model import (
    Machine,
    Work,
    kept_bytes,
    sent_bytes,
    unsharded,
)
from sharded_model import times as modelled
from sharded_names import BASELINE, EXCHANGE, KINDS, LIMIT_BYTES, RANKS, ZERO

SECTIONS = {"steps": "A step", "memory": "Memory of a rank"}
MACHINES, MEMORY = "machines", "memory_of_a_rank"
BOUND, ZERO_BOUND = 1.15, 0.5
# AdamW's: gradients and weights on the wire, what a step moves, slots and master copies.
WORKS = {
    "float32": Work(0, gradient=4, weight=4, step=28, slots=8),
    "bfloat16": Work(0, gradient=2, weight=2, step=32, slots=12),
}
ON_PAPER = 10**9
NODES = (8, 64, 256, 1024)
NETWORKS = {
    "25 Gbit/s, 20 us": Machine(network=25e9 / 8, latency=20e-6, memory=200e9),
    "200 Gbit/s, 2 us": Machine(network=200e9 / 8, latency=2e-6, memory=200e9),
}
HOW_TO_READ = (
    f"AdamW on {RANKS} ranks of one thread, which exchange through shared memory. A time is that of the slowest rank, "
    f"and all take turns in the same rounds. `{EXCHANGE}` is what any program must send. It is Alltoallv of the "
    "gradients from where they lie, and Allgatherv of the weights to where they belong, in the library's windows. "
    f"`{BASELINE}` is that with the step of a single process on the rank's share in between. Nobody sums gradients "
    "there. `ZeRO` is PyTorch's ZeroRedundancyOptimizer around its AdamW over gloo, after an all-reduce of the "
    "gradients in buckets, as DDP does it. The limit is the plainest loop over the share's memory, on both ranks at "
    "once."
)


def goals(results: Results) -> Iterator[Goal]:
    """All goals that a run has measured."""
    for one in results.of("steps"):
        text = f"{one.label}, {one.name} elements"
        yield Goal(text, BOUND, f"times {BASELINE}", by_threads(results, ratios([one])))
        peers = [name for name in one.names if name in ZERO]
        if peers:
            best = min(peers, key=lambda name: _median(one, name))
            measured = by_threads(results, ratios([replace(one, baseline=best)]))
            yield Goal(text, ZERO_BOUND, f"times {best}", measured)


def tables(results: Results) -> Iterator[tuple[str, list[Table]]]:
    """List each section's title and tables, and the goals."""
    return with_goals(results, _measured(results), goals(results))


def page(results: Results) -> str:
    """Write everything as one page."""
    measured = list(_measured(results))
    return page_of(results, "python bench/sharded.py", goals(results), HOW_TO_READ, measured)


def speed_block(results: Results) -> str:
    """Write the goals, the times, and where they were measured."""
    shown = [goal_table(goals(results), results.threads), _steps(results)]
    text = (HOW_TO_READ, *notes(shown), *results.doubts, _source(results))
    parts = [shown[0].markdown(), paragraph(ABOUT_GOALS), shown[1].markdown()]
    return "\n".join([*parts, paragraph(" ".join(text))])


def memory_block(results: Results) -> str:
    """Write what a rank keeps."""
    return "\n".join([_memory(results).markdown(), paragraph(_source(results))])


def check_block(results: Results) -> str:
    """Write what the model says of what was measured."""
    return "\n".join([_check(results).markdown(), paragraph(_source(results))])


def paper_block(results: Results) -> str:
    """Write the model's times on many nodes, which no measurement changes."""
    return _paper().markdown()


BLOCKS: dict[str, Callable[[Results], str]] = {
    "sharded": page,
    "sharded_speed": speed_block,
    "sharded_memory": memory_block,
    "sharded_check": check_block,
    "sharded_paper": paper_block,
}


def _source(results: Results) -> str:
    return f"Measured by `python bench/sharded.py` on {'; '.join(results.environment.values())}."


def _measured(results: Results) -> Iterator[tuple[str, list[Table]]]:
    if results.of("steps"):
        yield SECTIONS["steps"], [_steps(results)]
        yield "The model beside the measurement", [_check(results)]
    if MEMORY in results.more:
        yield SECTIONS["memory"], [_memory(results)]
    yield f"The model: {ON_PAPER:,} elements on many nodes", [_paper()]


def _median(one: Measurement, name: str) -> float:
    entry = one.find(name, 1)
    assert entry
    return entry.median


def _steps(results: Results) -> Table:
    found = results.of("steps")
    rows = []
    for name in dict.fromkeys(name for one in found for name in one.names):
        cells = []
        for one in found:
            entry, ratio = one.find(name, 1), one.middle(name, 1)
            if entry is None or ratio is None:
                cells += [MISSING, MISSING]
                continue
            cells.append(marked(times(entry), entry.is_doubtful))
            middle = f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
            cells.append(marked(middle, one.is_doubtful(name, 1)))
        rows.append([name, *cells])
    columns = [
        column for one in found for column in (f"{one.label}, {one.name}", f"time / {BASELINE}")
    ]
    return Table(f"{RANKS} ranks", ["", *columns], rows)


def _memory(results: Results) -> Table:
    rows = [
        [
            str(one["ranks"]),
            _mebibytes(one["slots"]),
            _mebibytes(one["growth"]),
            _mebibytes(
                kept_bytes(replace(WORKS["float32"], elements=one["elements"]), one["ranks"])
            ),
        ]
        for one in results.more.get(MEMORY, [])
    ]
    columns = ["ranks", "slots of a rank", "peak growth of a rank", "slots and sum by the formula"]
    return Table("AdamW, float32", columns, rows, texts=0)


def _mebibytes(count: float) -> str:
    return f"{count / 2**20:.1f} MiB"


def measured_machine(one: Measurement, noted: dict[str, Any]) -> Machine:
    """What the ranks of a run gave each other, and their memory gave them at once."""
    moved = LIMIT_BYTES * one.elements / RANKS
    return Machine(
        noted["sent"] / _median(one, EXCHANGE), noted["latency"], moved / _median(one, LIMIT)
    )


def _check(results: Results) -> Table:
    rows = []
    for kind, noted in results.more.get(MACHINES, {}).items():
        (one,) = (found for found in results.of("steps") if found.label == KINDS[kind])
        machine = measured_machine(one, noted)
        work = replace(WORKS[kind], elements=one.elements, agreements=noted["agreements"])
        model, measured = modelled(work, RANKS, machine), _median(one, FUSEDOPT)
        rows.append(
            [
                one.label,
                f"{machine.network / 1e9:.1f} GB/s",
                f"{machine.memory / 1e9:.1f} GB/s",
                f"{machine.latency * 1e6:.1f} us",
                *(
                    _milliseconds(part)
                    for part in (model.wire, model.waiting, model.step, model.copies)
                ),
                _milliseconds(model.in_turn),
                _milliseconds(measured),
                f"{measured / model.in_turn:.2f}",
            ]
        )
    columns = ["", "network", "memory", "message", "wire", "messages", "step", "copies"]
    columns += ["model, ms", "measured, ms", "measured / model"]
    return Table(f"{RANKS} ranks, in ms", columns, rows)


def _paper() -> Table:
    rows = []
    for network, machine in NETWORKS.items():
        for kind, form in WORKS.items():
            work = replace(form, elements=ON_PAPER)
            for nodes in NODES:
                model = modelled(work, nodes, machine)
                parts = (model.wire, model.waiting, model.step, model.copies)
                rows.append(
                    [
                        network,
                        kind,
                        str(nodes),
                        f"{sent_bytes(work, nodes) / 1e9:.2f}",
                        *(_milliseconds(part) for part in parts),
                        _milliseconds(model.in_turn),
                        _milliseconds(model.overlapped),
                        _milliseconds(unsharded(work, nodes, machine).in_turn),
                        f"{kept_bytes(work, nodes) / 1e9:.2f}",
                    ]
                )
    columns = ["network", "wires", "nodes", "GB sent", "wire", "messages", "step", "copies"]
    columns += ["in turn", "overlapped", "unsharded", "GB kept"]
    return Table("In ms", columns, rows, texts=2)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}" if seconds < 0.1 else f"{seconds * 1e3:,.0f}"
