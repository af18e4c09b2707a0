"""Times steps while other programs keep every processor busy: a second thread must not cost more than it gives.

    python bench/busy_machine.py

One thread and all threads take turns in one process, so that both meet the same load.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter, sleep

import fusedopt as fo
import numpy as np

GOAL = 2.0  # all threads against one, on a busy machine


def spin() -> None:
    while True:
        pass


@contextmanager
def busy(programs: int) -> Iterator[None]:
    spinning = [multiprocessing.Process(target=spin, daemon=True) for _ in range(programs)]
    for process in spinning:
        process.start()
    sleep(0.5)
    try:
        yield
    finally:
        for process in spinning:
            process.kill()


def mean_milliseconds(optimizer: fo.Optimizer, gradient: np.ndarray, threads: int) -> float:
    """The mean, not the median: what a step waits for other programs is in few of them."""
    fo.set_num_threads(threads)
    began = perf_counter()
    for _ in range(20):
        optimizer.apply([gradient])
    return (perf_counter() - began) / 20 * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--elements", type=int, default=3_000_000, help="of the variable")
    parser.add_argument("--turns", type=int, default=10, help="of each number of threads")
    arguments = parser.parse_args()

    most = fo.get_num_threads()
    variable, gradient = np.ones((2, arguments.elements), np.float32)
    optimizer = fo.AdamW()
    optimizer.build([variable])
    print("processors are", "threads", "ms a step", "of one thread", sep="\t")
    for name, programs in (("idle", 0), ("busy", most)):
        with busy(programs):
            turns = [
                [mean_milliseconds(optimizer, gradient, threads) for threads in (1, most)]
                for _ in range(arguments.turns)
            ]
        one, all_threads = (statistics.median(column) for column in zip(*turns, strict=True))
        ratio = statistics.median(turn[1] / turn[0] for turn in turns)
        print(name, 1, f"{one:.2f}", "", sep="\t")
        print(name, most, f"{all_threads:.2f}", f"{ratio:.2f}", sep="\t")
    print(f"goal on busy processors: at most {GOAL} of one thread")


if __name__ == "__main__":
    main()
