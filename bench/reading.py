"""The reading sweep alone: all that a step does which an infinite gradient makes an overflow check skip."""

from __future__ import annotations

from functools import partial

import fusedopt as fo
import numpy as np
from fusedopt.bench.workload import Array, Step, Workload
from fusedopt.runtime import _core

PLAIN_LOOP = "plain loop"


def skipped_step(workload: Workload, gradients: list[Array]) -> Step:
    """Make a step whose last gradient is infinite, so that every one is read and nothing is written."""
    gradients[-1].flat[-1] = np.inf
    optimizer = fo.LossScaleOptimizer(getattr(fo, workload.rule)(**workload.arguments))
    optimizer.build(workload.variables())
    return partial(optimizer.apply, gradients)


def plain_loop(gradients: list[Array]) -> Step:
    """Make the plainest loop that reads as many bytes, from the same place."""
    (gradient,) = gradients
    return partial(_core.move_bytes, [], [gradient.reshape(-1).view(np.float32)])
