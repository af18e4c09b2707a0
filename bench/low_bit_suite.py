"""The suite of the accuracy of slots in fewer bits: slots, updates and two trainings."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import fusedopt as fo
import low_bit_figures
import low_bit_tasks
import low_bit_trials
from fusedopt.bench.measuring import Bench
from fusedopt.bench.results import Results
from fusedopt.bench.suite import Suite, Task, count
from fusedopt.bench.timing import BRIEF


class Sizes(NamedTuple):
    """How long everything runs: steps, but for elements and seeds."""

    untouched: int = 500
    largest: int = 3000
    steady: int = 5000
    dropped: int = 3000
    sums: int = 2000
    digits: int = 3000
    characters: int = 3000
    alike: int = 8192
    seeds: int = 10


# So few steps that letters and digits are hardly learnt.
QUICK = Sizes(20, 170, 60, 40, 30, 30, 10, low_bit_trials.ELEMENTS, 2)


def tasks(arguments: argparse.Namespace) -> Iterator[Task]:
    """List everything that a run does."""
    sizes = QUICK if arguments.quick else Sizes()
    seeds = arguments.seeds or sizes.seeds
    trials = {
        "untouched": partial(low_bit_trials.untouched, sizes.untouched),
        "largest": partial(low_bit_trials.largest_updates, sizes.largest),
        "averages": partial(
            low_bit_trials.averages, sizes.steady, sizes.dropped, elements=sizes.alike
        ),
        "sums": partial(low_bit_trials.sums_of_updates, sizes.sums),
    }
    for section, trial in trials.items():
        yield Task(section, "made-up gradients", partial(_tried, section=section, trial=trial))
    if find_spec("sklearn"):
        train = partial(low_bit_tasks.digits, steps=sizes.digits)
        yield from _trained("digits", train, seeds)
    else:
        yield Task("digits", "absent", _without_digits)
    train = partial(low_bit_tasks.characters, steps=sizes.characters)
    yield from _trained("characters", train, seeds)


def _tried(bench: Bench, section: str, trial: Any) -> None:
    bench.results.more[section] = trial()


def _trained(section: str, train: Any, seeds: int) -> Iterator[Task]:
    for seed in range(seeds):
        yield Task(
            section, f"seed {seed}", partial(_one_seed, section=section, train=train, seed=seed)
        )


def _one_seed(bench: Bench, section: str, train: Any, seed: int) -> None:
    bench.results.more.setdefault(section, []).append(train(seed))


def _without_digits(bench: Bench) -> None:
    bench.results.absent["digits"] = "scikit-learn is not installed"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=count, help="seeds of each training (default: 10)")


def draw(results: Results, path: Path) -> None:
    import low_bit_picture

    low_bit_picture.draw(results, path)


LOW_BIT = Suite(
    program="python bench/low_bit.py",
    description="Measure how well slots in 16 and 8 bits train beside float32, in half an hour.",
    # Nothing is timed.
    effort=BRIEF,
    threads=lambda: [fo.get_num_threads()],
    peers=[],
    libraries=("numpy",),
    sections=list(low_bit_figures.SECTIONS),
    add_options=add_options,
    tasks=tasks,
    tables=low_bit_figures.tables,
    blocks={"low_bit_results": low_bit_figures.page, "low_bit": low_bit_figures.goals_and_source},
    draw=draw,
)
