"""The command of all benchmarks: it measures a suite, shows and keeps what was found, and compares two runs."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import rich.console
import rich.progress

from fusedopt.bench import comparison, environment, report
from fusedopt.bench.measuring import Bench
from fusedopt.bench.one_minute import ONE_MINUTE
from fusedopt.bench.results import Results, load, save
from fusedopt.bench.suite import Suite, count
from fusedopt.bench.tables import console as make_console
from fusedopt.bench.tables import thread_count
from fusedopt.bench.timing import QUICK

SLOWER = 1


def main(words: Sequence[str] | None = None, suite: Suite = ONE_MINUTE) -> int:
    """Run the command and return its exit status."""
    arguments = parsed(words, suite)
    console = make_console()
    if arguments.compare:
        old, new = map(load, arguments.compare)
        return compared(old, new, arguments.tolerance, console)
    results = load(arguments.load) if arguments.load else None
    if results is None or arguments.sections:
        results = measured(arguments, suite, console, results)
    if arguments.json:
        save(results, arguments.json)
    report.show(results, suite.tables(results), console)
    for path in arguments.markdown:
        report.write(results, path, suite.blocks)
    if suite.draw and arguments.plot:
        suite.draw(results, arguments.plot)
    return 0


def measured(
    arguments: argparse.Namespace,
    suite: Suite,
    console: rich.console.Console,
    earlier: Results | None,
) -> Results:
    """Run everything that was asked for; the rest is an earlier run's."""
    environment.prepare()
    wanted = arguments.peers
    if wanted is None:
        wanted = suite.quick_packages if arguments.quick else suite.packages
    effort = QUICK if arguments.quick else suite.effort
    if arguments.rounds:
        effort = replace(effort, rounds=arguments.rounds)
    threads = sorted(set(arguments.threads or suite.threads()))
    bench = Bench(suite.peers, wanted, threads, effort, suite.libraries)
    if earlier:
        try:
            earlier.require_same(bench.results)
        except ValueError as error:
            raise SystemExit(f"--load: {error}") from error
    sections = arguments.sections or suite.sections
    tasks = [task for task in suite.tasks(arguments) if task.section in sections]
    with rich.progress.Progress(console=console, transient=True) as progress:
        shown = progress.add_task("", total=len(tasks))
        for task in tasks:
            progress.update(shown, description=f"{task.section}: {task.about}")
            task.measure(bench)
            gc.collect()
            progress.advance(shown)
            # A long run that is stopped leaves what it has; one that mends an earlier run leaves that.
            if arguments.json and not earlier:
                save(bench.results, arguments.json)
    return earlier.mended(bench.results, sections) if earlier else bench.results


def compared(old: Results, new: Results, tolerance: float, console: rich.console.Console) -> int:
    """Print what became slower relative to the limit, and say so in the exit status."""
    found = comparison.compare(old, new)
    slower = found.slower(tolerance)
    for name, results in (("old", old), ("new", new)):
        about = results.environment
        console.print(f"{name}: {about['date']}, {about['fusedopt']}, {about['processor']}")
        report.say_doubts(results, console)
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


def parsed(words: Sequence[str] | None, suite: Suite) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog=suite.program, description=suite.description)
    add = parser.add_argument
    add(
        "--quick",
        action="store_true",
        help="small sizes and few peers, to show that it runs; the figures mean nothing",
    )
    add("--threads", type=count, nargs="+", help="numbers of threads")
    add("--rounds", type=count, help="rounds of each measurement")
    add("--peers", nargs="*", choices=suite.packages, help="libraries to compare with")
    add("--sections", nargs="+", choices=suite.sections, help="parts of the suite")
    if suite.add_options:
        suite.add_options(parser)
    add("--json", type=Path, metavar="FILE", help="write all times")
    if suite.draw:
        add("--plot", type=Path, metavar="FILE", help="draw the picture")
    add(
        "--markdown",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="write tables between the comments <!-- NAME: begin --> and <!-- NAME: end -->, where NAME is "
        f"{' or '.join(suite.blocks)}; a new file gets every block",
    )
    add(
        "--load",
        type=Path,
        metavar="FILE",
        help="show an earlier run's JSON; measure only the sections that --sections names",
    )
    add(
        "--compare",
        type=Path,
        nargs=2,
        metavar=("OLD", "NEW"),
        help="measure nothing; exit with 1 if a rule of the second JSON is slower relative to the limit",
    )
    add(
        "--tolerance",
        type=float,
        default=comparison.TOLERANCE,
        help="by how much slower it may be (default: %(default)s)",
    )
    return parser.parse_args(words)
