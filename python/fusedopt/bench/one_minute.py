"""The package's suite: in about a minute, what the memory gives and what every rule takes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import fusedopt as fo
from fusedopt.bench import costs, rules
from fusedopt.bench.contestants import PEERS
from fusedopt.bench.measuring import LIMITS, Bench
from fusedopt.bench.results import Results
from fusedopt.bench.suite import Suite, Task, count
from fusedopt.bench.timing import BRIEF
from fusedopt.bench.workload import Workload

ELEMENTS, QUICK_ELEMENTS = 2**24, 2**12


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--elements", type=count, help="of each variable, such as 1000 or 2^20 (default: 2^24)"
    )


def _tasks(arguments: argparse.Namespace) -> Iterator[Task]:
    elements = arguments.elements or (QUICK_ELEMENTS if arguments.quick else ELEMENTS)
    yield Task(LIMITS, "the memory", partial(Bench.measure_limits, elements=elements))
    for workload in rules.workloads(elements):
        about = f"{workload.label}, {workload.name}"
        yield Task(rules.SECTION, about, partial(_measure, workload))


def _measure(workload: Workload, bench: Bench) -> None:
    """Time a rule. All peers on everything would take minutes."""
    is_plain = not workload.arguments
    bench.measure(workload, [one for one in bench.peers if is_plain or not one.is_slow])


def _draw(results: Results, path: Path) -> None:
    from fusedopt.bench.picture import draw  # noqa: PLC0415 - slow to import

    draw(results, path)


ONE_MINUTE = Suite(
    program="python -m fusedopt.bench",
    description="Measure in about a minute what fusedopt's rules cost on this machine.",
    effort=BRIEF,
    threads=lambda: [fo.get_num_threads()],
    peers=PEERS,
    libraries=("numpy", "torch", "keras"),
    sections=(LIMITS, rules.SECTION),
    add_options=_add_options,
    tasks=_tasks,
    tables=costs.tables,
    blocks=costs.BLOCKS,
    draw=_draw,
)
