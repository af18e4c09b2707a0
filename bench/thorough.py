"""The suite of a checkout: every size, variant and option, everybody who can take part, and the project's goals."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import figures
import matrices
import memory
import number_kinds
import reading
import scaling
import sections
from fusedopt.bench import environment
from fusedopt.bench.contestants import Contestant
from fusedopt.bench.limit import traffic_of
from fusedopt.bench.measuring import Bench
from fusedopt.bench.results import Results
from fusedopt.bench.suite import Suite, Task, count
from fusedopt.bench.timing import Effort
from fusedopt.bench.workload import Workload
from mixed import MixedWorkload
from peer_lists import MIXED_PEERS, PEERS

NORMAL = Effort(rounds=21, piece_seconds=0.001, budget_seconds=3.0)

# The sizes on which slow peers take part, and the one size for what is compared with the limit only.
SLOW_SIZES = (2**20, 2**24)
ONE_SIZE, QUICK_SIZE = 2**24, 2**15
COMPARED_SIZES = (QUICK_SIZE, ONE_SIZE, 2**26)
MIXED_SIZES, QUICK_MIXED_SIZES = [2**20, 2**24, 2**26], [2**17]
THREAD_SIZES = [2**power for power in range(4, 25)]
QUICK_THREAD_SIZES = [2**4, 2**12, 2**16]
VALUE_SIZES, QUICK_VALUE_SIZES = [2**16, 2**22], [2**14]
MEMORY_SIZE, QUICK_MEMORY_SIZE = 2**24, 2**20
# Few enough for the second cache, and so many that a call does not count.
ARITHMETIC_SIZE = 2**14

# What a section's workloads are compared with, if it is not the limit.
MEASURES: dict[str, Callable[[Bench, Workload, list[Contestant]], None]] = {
    "reading": reading.measure,
    "matrices": matrices.measure,
    "threads": scaling.measure,
    "values": number_kinds.measure,
}
WITHOUT_PEERS = ("reading", "variants", "options", "arithmetic", "matrices", "threads")


def measure(bench: Bench, workload: Workload) -> None:
    """Time a workload with everybody who takes part in it and for whom there is memory."""
    peers = peers_of(bench, workload)
    if workload.section not in MEASURES:
        bench.measure(workload, peers)
        return
    fitting = bench.fitting(workload, traffic_of(workload), peers)
    if fitting is not None:
        environment.set_threads(bench.results.threads[-1])
        MEASURES[workload.section](bench, workload, fitting)


def peers_of(bench: Bench, workload: Workload) -> list[Contestant]:
    """Choose who takes part. Everybody at every size would take hours."""
    known = MIXED_PEERS if isinstance(workload, MixedWorkload) else PEERS
    return [peer for peer in known if peer in bench.peers and takes_part(peer, workload)]


def takes_part(peer: Contestant, workload: Workload) -> bool:
    if workload.section in WITHOUT_PEERS:
        return False
    if isinstance(workload, MixedWorkload):
        return not peer.is_slow or workload.elements <= max(SLOW_SIZES)
    if peer.is_slow and workload.elements not in SLOW_SIZES:
        return False
    is_compared = workload.section == "sizes" and workload.elements in COMPARED_SIZES
    return workload.rule == sections.FLAGSHIP or is_compared


def plan(sizes: list[int] | None, is_quick: bool) -> dict[str, Iterator[Workload]]:
    """List the workloads of each section."""
    one_size = QUICK_SIZE if is_quick else ONE_SIZE
    mixed_sizes = sizes or (QUICK_MIXED_SIZES if is_quick else MIXED_SIZES)
    return {
        "sizes": sections.sizes(
            sizes or (sections.QUICK_SIZES if is_quick else sections.SIZES),
            sizes or (sections.QUICK_FEW_SIZES if is_quick else sections.FEW_SIZES),
        ),
        "tensors": sections.tensors(is_quick),
        "mixed": sections.mixed(mixed_sizes, is_quick),
        "reading": sections.reading(mixed_sizes),
        "variants": sections.variants(one_size),
        "options": sections.options(one_size),
        "arithmetic": sections.arithmetic(ARITHMETIC_SIZE),
        "matrices": sections.matrices(is_quick),
        "threads": sections.threads(QUICK_THREAD_SIZES if is_quick else THREAD_SIZES),
        "values": sections.values(QUICK_VALUE_SIZES if is_quick else VALUE_SIZES),
    }


def tasks(arguments: argparse.Namespace) -> Iterator[Task]:
    """List everything that a run measures."""
    for section, workloads in plan(arguments.sizes, arguments.quick).items():
        for workload in workloads:
            about = f"{workload.label}, {workload.name}"
            yield Task(section, about, partial(measure, workload=workload))
    if memory.is_possible():
        elements = QUICK_MEMORY_SIZE if arguments.quick else MEMORY_SIZE
        yield Task(memory.SECTION, "peaks", partial(memory.measure, elements=elements))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sizes", type=count, nargs="+", help="elements of one tensor, such as 1000 or 2^20"
    )


def draw(results: Results, path: Path) -> None:
    import speed

    speed.draw(results, path)


THOROUGH = Suite(
    program="python bench/run.py",
    description="Measure fusedopt's speed and memory in about half an hour.",
    effort=NORMAL,
    peers=[*PEERS, *MIXED_PEERS],
    quick_packages=("numpy",),
    libraries=("numpy", "torch", "keras", "optax", "jax", "deepspeed"),
    sections=[*figures.SECTIONS, memory.SECTION],
    add_options=add_options,
    tasks=tasks,
    tables=figures.tables,
    blocks={"results": figures.page},
    draw=draw,
)
