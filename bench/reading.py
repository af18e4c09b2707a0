"""The reading sweep alone: what is left of a step that an infinite gradient makes its overflow check skip."""

from __future__ import annotations

from functools import partial

import fusedopt as fo
import numpy as np
from fusedopt.bench.contestants import FUSEDOPT, Contestant
from fusedopt.bench.limit import reading_loop
from fusedopt.bench.measuring import Bench
from fusedopt.bench.timing import Participant
from fusedopt.bench.workload import Array, Step, Workload

PLAIN_LOOP = "plain loop"


def measure(bench: Bench, workload: Workload, _: list[Contestant]) -> None:
    """Time it, and the plain loop that reads the same memory."""
    gradients = workload.gradients()
    steps = {
        PLAIN_LOOP: reading_loop(gradients),
        FUSEDOPT.name: skipped_step(workload, gradients),
    }
    participants = [
        Participant(name, threads, step)
        for name, step in steps.items()
        for threads in bench.results.threads
    ]
    bench.race(workload, workload.name, workload.gradient_bytes, PLAIN_LOOP, participants)


def skipped_step(workload: Workload, gradients: list[Array]) -> Step:
    """Make a step whose last gradient is infinite, so that every one is read and nothing is written."""
    gradients[-1].flat[-1] = np.inf
    optimizer = fo.LossScaleOptimizer(workload.rule_optimizer())
    optimizer.build(workload.variables())
    return partial(optimizer.apply, gradients)
