"""Measure fusedopt against the memory and other libraries: ``python bench/run.py --help``."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fusedopt as fo
import matrices
import memory
import numpy as np
import reading
import report
import rich.console
import rich.progress
import values
import workloads
from contestants import FUSEDOPT, PACKAGES, PEERS, Contestant
from fusedopt.bench import environment
from fusedopt.bench.command import count, say_doubts
from fusedopt.bench.contestants import prepare
from fusedopt.bench.limit import FLOAT_BYTES, reading_loop, traffic_of
from fusedopt.bench.measuring import Bench
from fusedopt.bench.results import NO_THREADS, Growth, Results, load, save
from fusedopt.bench.tables import ABOUT_RATIOS
from fusedopt.bench.tables import console as make_console
from fusedopt.bench.timing import NORMAL, QUICK, Participant
from fusedopt.bench.workload import Workload

# Where the slow peers take part, and the one size for what is compared with the limit only.
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
ALONE = ("reading", "variants", "options", "arithmetic", "matrices", "threads")
ONE_THREAD = "one thread"
SECTIONS = [*report.SECTIONS, "memory"]


class Thorough(Bench):
    """Everything the package's command measures of a rule, and more."""

    def run(self, workload: Workload) -> None:
        """Time a workload with whoever takes part in it."""
        wanted = [peer for peer in self.peers if _takes_part(peer, workload)]
        other = {
            "reading": self._measure_reading,
            "matrices": self._measure_matrix,
            "threads": self._measure_threads,
            "values": self._measure_values,
        }
        if workload.section not in other:
            self.measure(workload, wanted)
            return
        peers = self.fitting(workload, traffic_of(workload), wanted)
        if peers is not None:
            environment.set_threads(self.results.threads[-1])
            other[workload.section](workload, peers)

    def measure_memory(self, elements: int) -> None:
        """See how far everyone's memory grows."""
        workload = memory.workload_of(elements)
        slot_bytes = (traffic_of(workload).state - 1) * FLOAT_BYTES * elements
        peers = [peer for peer in self.peers if not peer.is_for_mixed]
        for contestant in (FUSEDOPT, *peers):
            grown = memory.growth_in_child(contestant.name, elements)
            self.results.growths.append(
                Growth(contestant.name, workload.label, elements, grown, slot_bytes)
            )

    def _measure_reading(self, workload: Workload, _: list[Contestant]) -> None:
        gradients = workload.gradients()
        step, name = reading_loop(gradients), reading.PLAIN_LOOP
        participants = [Participant(name, threads, step) for threads in self.results.threads]
        skipped = reading.skipped_step(workload, gradients)
        participants += [
            Participant(FUSEDOPT.name, threads, skipped) for threads in self.results.threads
        ]
        self.race(workload, workload.name, gradients[0].itemsize, name, participants)

    def _measure_matrix(self, workload: Workload, _: list[Contestant]) -> None:
        gradients = workload.gradients()
        ours = prepare(FUSEDOPT, workload, gradients)
        name, make = matrices.BASELINES[workload.rule]
        step = make(workload, ours, gradients)
        participants = [Participant(name, threads, step) for threads in self.results.threads]
        participants += self.turns(FUSEDOPT, ours)
        self.race(workload, workload.name, traffic_of(workload).bytes, name, participants)

    def _measure_threads(self, workload: Workload, _: list[Contestant]) -> None:
        ours = prepare(FUSEDOPT, workload, workload.gradients())
        # As who has no threads it stands beside every number of them; beside 1 that shows the noise.
        one = Participant(ONE_THREAD, NO_THREADS, ours.step)
        participants = [one, *self.turns(FUSEDOPT, ours)]
        moved = traffic_of(workload).bytes
        self.race(workload, workload.name, moved, ONE_THREAD, participants)

    def _measure_values(self, workload: Workload, peers: list[Contestant]) -> None:
        # Squares beyond float32 are meant.
        with np.errstate(all="ignore"):
            for contestant in (FUSEDOPT, *peers):
                self._measure_values_of(contestant, workload)

    def _measure_values_of(self, contestant: Contestant, workload: Workload) -> None:
        gradients = workload.gradients()
        ready = self.ready(contestant, workload, gradients)
        if ready is None:
            return
        participants = [
            Participant(kind, threads, ready.step, enter)
            for kind, enter in values.entrances(ready, workload, gradients).items()
            for threads in self.thread_counts(contestant)
        ]
        name = f"{contestant.name}, {workload.name}"
        moved = traffic_of(workload).bytes
        self.race(workload, name, moved, participants[0].name, participants)


def _takes_part(peer: Contestant, workload: Workload) -> bool:
    """Everybody at every size would take hours."""
    if workload.section in ALONE:
        return False
    if workload.is_mixed:
        return not peer.is_slow or workload.elements <= max(SLOW_SIZES)
    if peer.is_for_mixed:
        return False
    if peer.is_slow and workload.elements not in SLOW_SIZES:
        return False
    is_compared = workload.section == "sizes" and workload.elements in COMPARED_SIZES
    return workload.rule == workloads.FLAGSHIP or is_compared


def plan(sections: list[str], sizes: list[int] | None, is_quick: bool) -> Iterator[Workload]:
    """List the workloads of a run."""
    one_size = QUICK_SIZE if is_quick else ONE_SIZE
    mixed_sizes = sizes or (QUICK_MIXED_SIZES if is_quick else MIXED_SIZES)
    choices = {
        "sizes": workloads.sizes(
            sizes or (workloads.QUICK_SIZES if is_quick else workloads.SIZES),
            sizes or (workloads.QUICK_FEW_SIZES if is_quick else workloads.FEW_SIZES),
        ),
        "tensors": workloads.tensors(is_quick),
        "mixed": workloads.mixed(mixed_sizes, is_quick),
        "reading": workloads.reading(mixed_sizes),
        "variants": workloads.variants(one_size),
        "options": workloads.options(one_size),
        "arithmetic": workloads.arithmetic(ARITHMETIC_SIZE),
        "matrices": workloads.matrices(is_quick),
        "threads": workloads.threads(QUICK_THREAD_SIZES if is_quick else THREAD_SIZES),
        "values": workloads.values(QUICK_VALUE_SIZES if is_quick else VALUE_SIZES),
    }
    for section, chosen in choices.items():
        if section in sections:
            yield from chosen


def measured(
    arguments: argparse.Namespace, console: rich.console.Console, earlier: Results | None
) -> Results:
    """Run everything that was asked for; what that does not cover is an earlier run's."""
    packages = arguments.peers if arguments.peers is not None else PACKAGES
    if arguments.quick and arguments.peers is None:
        packages = ["numpy"]
    effort = QUICK if arguments.quick else NORMAL
    if arguments.rounds:
        effort = replace(effort, rounds=arguments.rounds)
    bench = Thorough(PEERS, packages, sorted(arguments.threads), effort)
    if earlier:
        require_same(earlier, bench.results)
    sections = arguments.sections or SECTIONS
    chosen = list(plan(sections, arguments.sizes, arguments.quick))
    with rich.progress.Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=len(chosen))
        for workload in chosen:
            about = f"{workload.section}: {workload.label}, {workload.name}"
            progress.update(task, description=about)
            bench.run(workload)
            gc.collect()
            progress.advance(task)
            # A long run that is stopped leaves what it has; one that mends an earlier run leaves that.
            if arguments.json and not earlier:
                save(bench.results, arguments.json)
        if "memory" in sections and memory.is_possible():
            progress.update(task, description="memory")
            bench.measure_memory(QUICK_MEMORY_SIZE if arguments.quick else MEMORY_SIZE)
    return mended(earlier, bench.results, sections) if earlier else bench.results


def require_same(earlier: Results, again: Results) -> None:
    """Refuse to put two runs together that are not of the same program on the same machine."""
    before, after = ({**run.environment, "threads": run.threads} for run in (earlier, again))
    for what in before.keys() - {"date"}:
        if before[what] != after[what]:
            raise SystemExit(
                f"--load: expected a run with {what} {after[what]}, found {before[what]}"
            )


def mended(earlier: Results, again: Results, sections: list[str]) -> Results:
    """Take these sections from the later run."""
    kept = [one for one in earlier.measurements if one.section not in sections]
    return Results(
        again.environment,
        again.threads,
        kept + again.measurements,
        again.growths if "memory" in sections else earlier.growths,
        earlier.absent | again.absent,
        earlier.is_quick or again.is_quick,
        earlier.busy + again.busy,
    )


def main() -> None:
    arguments = parsed()
    environment.prepare()
    console = make_console()
    results = load(arguments.load) if arguments.load else None
    if results is None or arguments.sections:
        results = measured(arguments, console, results)
    if arguments.json:
        save(results, arguments.json)
    say_doubts(results, console)
    for title, tables in report.tables(results):
        console.rule(title)
        for table in tables:
            console.print(table.rich())
    goals = report.goal_table(results)
    if goals.rows:
        console.print(goals.rich())
    for note in (ABOUT_RATIOS, *report.notes(results)):
        console.print(note, highlight=False, style="dim")
    if arguments.markdown:
        arguments.markdown.parent.mkdir(parents=True, exist_ok=True)
        arguments.markdown.write_text(report.markdown(results), encoding="utf-8")
    if arguments.plot and not results.of("sizes"):
        console.print("no picture: it needs the section sizes")
    elif arguments.plot:
        from picture import draw

        draw(results, arguments.plot)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure fusedopt's speed and memory.")
    add = parser.add_argument
    add(
        "--quick",
        action="store_true",
        help="everything once, on small sizes, without peers; its figures mean nothing",
    )
    add("--threads", type=count, nargs="+", help="numbers of threads (default: 1 and all)")
    add("--sizes", type=count, nargs="+", help="elements of one tensor, such as 1000 or 2^20")
    add("--sections", nargs="+", choices=SECTIONS, help="what to measure (default: all)")
    add("--peers", nargs="*", choices=PACKAGES, help="libraries to compare with (default: all)")
    add("--rounds", type=count, help=f"rounds of each measurement (default: {NORMAL.rounds})")
    add("--load", type=Path, help="show an earlier run's JSON; measure --sections again")
    add("--json", type=Path, help="write all times")
    add("--markdown", type=Path, help="write the tables")
    add("--plot", type=Path, help="draw the picture")
    arguments = parser.parse_args()
    if arguments.threads is None:
        arguments.threads = sorted({1, fo.get_num_threads()})
    return arguments


if __name__ == "__main__":
    main()
