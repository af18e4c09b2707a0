"""The suite of the speed of slots in fewer bits: AdamW on every level, every rule, and instructions."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import fusedopt as fo
import instructions
import slot_figures
from fusedopt.bench import slot_kinds
from fusedopt.bench.contestants import Contestant
from fusedopt.bench.limit import FEWEST_CODED
from fusedopt.bench.measuring import Bench
from fusedopt.bench.slot_kinds import LowBitWorkload
from fusedopt.bench.suite import Suite, Task
from fusedopt.bench.timing import Effort
from fusedopt.bench.workload import Workload, power_of_two
from fusedopt.runtime import _core
from peer_lists import PEERS
from sections import RULES, main_variant

NORMAL = Effort(rounds=21, piece_seconds=0.001, budget_seconds=2.0)
SIZES = [2**24, 2**26]
SIZE_OF_RULES = 2**22
# The others would take minutes, and more memory.
SLOT_PEERS = [peer for peer in PEERS if peer.name in ("PyTorch fused", "DeepSpeed")]


def tasks(arguments: argparse.Namespace) -> Iterator[Task]:
    """List everything that a run measures."""
    sizes = [FEWEST_CODED] if arguments.quick else SIZES
    levels, chosen = fo.show_config()["levels_supported"], _core.level()
    for level in [chosen, *(level for level in reversed(levels) if level != chosen)]:
        is_chosen = level == chosen
        for elements in sizes if is_chosen else sizes[:1]:
            for one in slot_kinds.workloads("levels", elements):
                named = replace(one, name=f"{one.name} elements, {level}")
                yield _task(named, level, SLOT_PEERS if is_chosen else [])
    for one in of_rules(FEWEST_CODED if arguments.quick else SIZE_OF_RULES):
        yield _task(one, chosen, [])
    if instructions.is_possible():
        counted = [chosen] if arguments.quick else levels
        measure = partial(instructions.measure, levels=counted)
        yield Task(instructions.SECTION, "of a step", measure)


def of_rules(elements: int) -> Iterator[Workload]:
    """Every rule with every kind of slots that it takes. On a vector, each is a sweep over elements."""
    for rule in RULES:
        for dtype in slot_kinds.SLOT_DTYPES:
            arguments = main_variant(rule) | {"slot_dtype": dtype}
            one = LowBitWorkload("rules", power_of_two(elements), rule, arguments, ((elements,),))
            try:
                one.rule_optimizer()
            except ValueError:  # the rule refuses float8
                continue
            yield one


def _task(workload: Workload, level: str, peers: list[Contestant]) -> Task:
    about = f"{workload.label}, {workload.name}"
    measure = partial(_measure, workload=workload, level=level, peers=peers)
    return Task(workload.section, about, measure)


def _measure(bench: Bench, workload: Workload, level: str, peers: list[Contestant]) -> None:
    """Time a workload, its loop and all others on one level."""
    in_use = _core.level()
    _core.set_level(level)
    try:
        bench.measure(workload, [peer for peer in peers if peer in bench.peers])
    finally:
        _core.set_level(in_use)


SLOT_SUITE = Suite(
    program="python bench/slots.py",
    description="Time steps on slots in 16 and 8 bits beside float32, in minutes.",
    effort=NORMAL,
    peers=SLOT_PEERS,
    libraries=("numpy", "torch", "deepspeed"),
    sections=[*slot_figures.SECTIONS, instructions.SECTION],
    tasks=tasks,
    tables=slot_figures.tables,
    blocks=slot_figures.BLOCKS,
)
