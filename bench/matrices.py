"""What a step on a matrix is compared with, if the rule is more than a sweep over elements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from unittest import mock

import fusedopt as fo
import numpy as np
from fusedopt.bench.contestants import FUSEDOPT, Contestant, prepare
from fusedopt.bench.limit import traffic_of
from fusedopt.bench.measuring import Bench
from fusedopt.bench.timing import Participant
from fusedopt.bench.workload import Array, Ready, Step, Workload
from fusedopt.runtime import _core


def three_sweeps(workload: Workload, ours: Ready, gradients: list[Array]) -> Step:
    """The plainest loop that reads gradients and updates variables, three times."""
    sweep = _core.PlainLoop([(ours.variables, gradients)])

    def step() -> None:
        for _ in range(3):
            sweep()

    return step


@dataclass
class Products:
    """The products that steps of an optimizer ask NumPy for, done again in its own scratch memory."""

    calls: list[tuple[Array, Array, Array]] = field(default_factory=list)
    owner: fo.Optimizer | None = None
    """Whose memory it is, which must not go before."""

    def record(self, a: Array, b: Array, product: Array) -> None:
        self.calls.append((a, b, product))
        np.matmul(a, b, product)

    def step(self) -> None:
        for a, b, product in self.calls:
            np.matmul(a, b, product)


def products_alone(workload: Workload, ours: Ready, gradients: list[Array]) -> Step:
    """The matrix products of one step, as another optimizer like ours asks for them."""
    products = Products()
    # Which function it asks is settled when it is made.
    with mock.patch.object(np, "matmul", products.record):
        products.owner = workload.optimizer()
    products.owner.build(workload.variables())
    products.owner.apply(gradients)
    # The last product is of a polynomial and the matrix, which each step would multiply once more.
    polynomial = products.calls[-1][0]
    polynomial[...] = np.eye(len(polynomial))
    return products.step


# By rule: what it is called, and how it is made.
BASELINES: dict[str, tuple[str, Callable[[Workload, Ready, list[Array]], Step]]] = {
    "Adafactor": ("3 sweeps", three_sweeps),
    "Muon": ("its matrix products", products_alone),
}


def measure(bench: Bench, workload: Workload, _: list[Contestant]) -> None:
    """Time a step and what it is compared with."""
    gradients = workload.gradients()
    ours = prepare(FUSEDOPT, workload, gradients)
    name, make = BASELINES[workload.rule]
    step = make(workload, ours, gradients)
    participants = [Participant(name, threads, step) for threads in bench.results.threads]
    participants += bench.turns(FUSEDOPT, ours)
    bench.race(workload, workload.name, traffic_of(workload).bytes, name, participants)
