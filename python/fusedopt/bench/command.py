"""The command ``python -m fusedopt.bench``: measure this machine in about a minute."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Sequence
from pathlib import Path

import rich.console
import rich.progress

import fusedopt as fo
from fusedopt.bench import comparison, environment, report, rules
from fusedopt.bench.contestants import PEERS
from fusedopt.bench.measuring import Bench
from fusedopt.bench.results import Results, load, save
from fusedopt.bench.tables import ABOUT_RATIOS, legend, thread_count
from fusedopt.bench.tables import console as make_console
from fusedopt.bench.timing import BRIEF, QUICK

ELEMENTS, QUICK_ELEMENTS = 2**24, 2**12
PACKAGES = list(dict.fromkeys(peer.package for peer in PEERS))
SLOWER = 1


def main(words: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    arguments = parsed(words)
    console = make_console()
    if arguments.compare:
        old, new = map(load, arguments.compare)
        return compared(old, new, arguments.tolerance, console)
    results = load(arguments.load) if arguments.load else measured(arguments, console)
    if arguments.json:
        save(results, arguments.json)
    show(results, console)
    for path in arguments.markdown:
        report.write(results, path)
    if arguments.plot:
        from fusedopt.bench.picture import draw  # noqa: PLC0415 - slow to import

        draw(results, arguments.plot)
    return 0


def measured(arguments: argparse.Namespace, console: rich.console.Console) -> Results:
    """Run everything that was asked for."""
    environment.prepare()
    wanted = arguments.peers
    if wanted is None:
        wanted = [] if arguments.quick else PACKAGES
    elements = arguments.elements or (QUICK_ELEMENTS if arguments.quick else ELEMENTS)
    effort = QUICK if arguments.quick else BRIEF
    bench = Bench(PEERS, wanted, sorted(set(arguments.threads)), effort)
    chosen = list(rules.workloads(elements))
    with rich.progress.Progress(console=console, transient=True) as progress:
        task = progress.add_task("the memory", total=len(chosen) + 1)
        bench.measure_limits(elements)
        progress.advance(task)
        for workload in chosen:
            progress.update(task, description=f"{workload.label}, {workload.name}")
            # All peers on everything would take minutes.
            is_plain = not workload.arguments
            bench.measure(workload, [one for one in bench.peers if is_plain or not one.is_slow])
            gc.collect()
            progress.advance(task)
    return bench.results


def show(results: Results, console: rich.console.Console) -> None:
    """Print tables."""
    say_doubts(results, console)
    for name, value in results.environment.items():
        console.print(f"{name}: {value}", highlight=False)
    console.print(f"threads: {', '.join(map(str, results.threads))}\n", highlight=False)
    tables = [report.limit_table(results)]
    tables += [report.cost_table(results, threads) for threads in results.threads]
    for table in tables:
        console.print(table.rich())
    for note in (ABOUT_RATIOS, *legend(tables)):
        console.print(note, highlight=False, style="dim")
    for who, why in results.absent.items():
        console.print(f"not measured, {who}: {why}", highlight=False, style="dim")


def say_doubts(results: Results, console: rich.console.Console) -> None:
    """Say first what takes the meaning from the figures."""
    for doubt in results.doubts:
        console.print(doubt, highlight=False, style="bold red")


def compared(old: Results, new: Results, tolerance: float, console: rich.console.Console) -> int:
    """Print what became slower relative to the limit, and say so in the exit status."""
    found = comparison.compare(old, new)
    slower = found.slower(tolerance)
    for name, results in (("old", old), ("new", new)):
        about = results.environment
        console.print(f"{name}: {about['date']}, {about['fusedopt']}, {about['processor']}")
        say_doubts(results, console)
    for _, label, elements, threads in found.alone:
        console.print(f"in one of them only: {label}, {elements}, {thread_count(threads)}")
    if not found.shared:
        console.print("nothing to compare: no rule with a limit is in both")
        return SLOWER
    if found.doubtful >= found.shared.keys():
        console.print("nothing to compare: no figure is to be believed in both runs")
        return SLOWER
    noisy = found.noisy(tolerance)
    if noisy:
        title = "Not to be believed: the machine was busy, or the rounds differ too much"
        console.print(comparison.table(title, noisy).rich())
    if slower:
        title = f"Slower by more than {tolerance:.0%}, relative to the limit"
        console.print(comparison.table(title, slower).rich())
    console.print(f"{len(slower)} of {len(found.shared)} are slower by more than {tolerance:.0%}")
    return SLOWER if slower else 0


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fusedopt.bench",
        description="Measure in about a minute what fusedopt's rules cost on this machine.",
    )
    add = parser.add_argument
    add(
        "--quick",
        action="store_true",
        help="on few elements without peers: shows that it runs; its figures mean nothing",
    )
    add("--elements", type=count, help="of each variable, such as 1000 or 2^20 (default: 2^24)")
    add("--threads", type=count, nargs="+", help="numbers of threads (default: all)")
    add("--peers", nargs="*", choices=PACKAGES, help="libraries to compare with (default: all)")
    add("--json", type=Path, metavar="FILE", help="write all times")
    add("--plot", type=Path, metavar="FILE", help="draw what each rule costs")
    add(
        "--markdown",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="write tables between the comments <!-- rules: begin --> and <!-- rules: end -->, or the same with "
        "measurements; a new file gets both",
    )
    add("--load", type=Path, metavar="FILE", help="measure nothing; show an earlier run's JSON")
    add(
        "--compare",
        type=Path,
        nargs=2,
        metavar=("OLD", "NEW"),
        help="measure nothing; exit with 1 where a rule of the second JSON is slower relative to the limit",
    )
    add(
        "--tolerance",
        type=float,
        default=comparison.TOLERANCE,
        help="by how much slower it may be (default: %(default)s)",
    )
    arguments = parser.parse_args(words)
    if arguments.threads is None:
        arguments.threads = [fo.get_num_threads()]
    return arguments


def count(text: str) -> int:
    """Read a number such as 1000 or 2^20."""
    base, _, power = text.partition("^")
    number = int(base) ** int(power) if power else int(base)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, found {text}")
    return number
