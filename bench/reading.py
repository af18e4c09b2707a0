"""The reading sweep alone: all that a step does which an infinite gradient makes an overflow check skip."""

from __future__ import annotations

from functools import partial

import fusedopt as fo
import numpy as np
from fusedopt.bench.workload import Array, Step, Workload

PLAIN_LOOP = "plain loop"


def skipped_step(workload: Workload, gradients: list[Array]) -> Step:
    """Make a step whose last gradient is infinite, so that every one is read and nothing is written."""
    gradients[-1].flat[-1] = np.inf
    optimizer = fo.LossScaleOptimizer(getattr(fo, workload.rule)(**workload.arguments))
    optimizer.build(workload.variables())
    return partial(optimizer.apply, gradients)
