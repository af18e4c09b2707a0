"""Who can take part: fusedopt, and other libraries if they are installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from fusedopt.bench import keras, pytorch
from fusedopt.bench.workload import Absent, Array, Ready, Workload, kept_by

STEPS_OF_AGREEMENT = 3
AGREEMENT = 1e-3


@dataclass(frozen=True)
class Contestant:
    """One way to take the step of a workload."""

    name: str
    package: str
    prepare: Callable[[Workload, list[Array], list[Array]], Ready]
    is_slow: bool = False
    """Too slow to be timed on everything."""

    def thread_counts(self, threads: list[int]) -> list[int]:
        """Choose from a run's numbers of threads those that it is timed on."""
        return threads


def fusedopt(workload: Workload, variables: list[Array], gradients: list[Array]) -> Ready:
    """The library itself."""
    optimizer = workload.optimizer()
    optimizer.build(variables)
    slots: list[list[Array]] = [[] for _ in variables]
    for name, state in kept_by(optimizer):
        slots[int(name.rpartition("/")[2])].append(state)
    return Ready(partial(optimizer.apply, gradients), variables, lambda: slots)


FUSEDOPT = Contestant("fusedopt", "fusedopt", fusedopt)
PEERS = [
    Contestant("PyTorch fused", "torch", pytorch.torch_fused),
    Contestant("PyTorch foreach", "torch", pytorch.torch_foreach),
    Contestant("Keras", "keras", keras.in_keras, is_slow=True),
]


def installed(contestant: Contestant) -> bool:
    """Whether its package is there."""
    return importlib.util.find_spec(contestant.package) is not None


def prepare(contestant: Contestant, workload: Workload, gradients: list[Array]) -> Ready:
    """Make a contestant ready on fresh variables, once it is known to compute the same thing."""
    if contestant is not FUSEDOPT:
        difference = _disagreement(contestant, workload)
        if difference > AGREEMENT:
            raise Absent(f"computes something else ({difference:.0e} of an update)")
    return contestant.prepare(workload, workload.variables(), gradients)


_disagreements: dict[tuple[Contestant, str], float] = {}


def _disagreement(contestant: Contestant, workload: Workload) -> float:
    """Measure how far a peer's updates are from ours, relative to a typical one.

    The median counts, because libraries add epsilon in different places, which shows if a gradient is small.
    """
    key = (contestant, workload.label)
    if key not in _disagreements:
        small = workload.shrunk()
        ours, theirs = _update(FUSEDOPT, small), _update(contestant, small)
        difference = np.median(np.abs(ours - theirs)) / np.median(np.abs(ours))
        _disagreements[key] = float(np.nan_to_num(difference, nan=np.inf))
    return _disagreements[key]


def _update(contestant: Contestant, workload: Workload) -> Array:
    (before,), variables = workload.variables(), workload.variables()
    ready = contestant.prepare(workload, variables, workload.gradients())
    for _ in range(STEPS_OF_AGREEMENT):
        ready.step()
    (after,) = ready.variables
    if hasattr(after, "numpy"):
        after = after.numpy()
    return np.asarray(after) - before
