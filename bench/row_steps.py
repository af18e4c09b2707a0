"""Steps on a few rows of a large table: which rows, who takes part, and the limit.

Every step touches other rows than the one before, as in a training. If all steps touched the same rows, these would lie
in a cache, and the table's size would not show.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import cycle
from typing import Any

import fusedopt as fo
import numpy as np
from fusedopt.bench import environment
from fusedopt.bench.contestants import FUSEDOPT, Contestant
from fusedopt.bench.measuring import Bench
from fusedopt.bench.peer_settings import settings_of
from fusedopt.bench.results import LIMIT, Measurement
from fusedopt.bench.timing import Participant
from fusedopt.bench.workload import FLOAT_BYTES, Array, Step, Workload
from fusedopt.runtime import _core
from peer_lists import NoThreads

UNIFORM, SORTED, ZIPF = "uniform", "ascending", "Zipf"
# Distances of software prefetching, in rows; 0 leaves it to the processor. The fastest loop is the limit.
AHEAD = (0, 2, 4, 8, 16)
PLAIN_LOOP = "plain loop"
DENSE = "dense step"
# Few enough to be made in seconds. With fewer rows a step, a part of the table is left out.
MOST_STEPS = 4096
STEPS_OF_ZIPF = 256


@dataclass(frozen=True)
class RowWorkload(Workload):
    """A rule on some rows of one table."""

    touched: int = 0
    """Gradients of rows in a step; a row that occurs several times counts as often."""
    kind: str = UNIFORM

    @property
    def rows(self) -> int:
        return self.shapes[0][0]

    @property
    def row_size(self) -> int:
        return self.shapes[0][1]

    @cached_property
    def indices(self) -> list[Array]:
        """The rows of each step. Uniform ones occur once, and all steps together touch all rows or many."""
        random = np.random.default_rng(0)
        if self.kind == ZIPF:
            ranks = zipf(random, self.rows, STEPS_OF_ZIPF * self.touched)
            # Frequent rows are no neighbours.
            drawn = random.permutation(self.rows)[ranks]
            return list(drawn.reshape(-1, self.touched))
        steps = max(1, min(self.rows // self.touched, MOST_STEPS))
        order = random.permutation(self.rows)[: steps * self.touched].reshape(steps, -1)
        return list(np.sort(order) if self.kind == SORTED else order)

    @cached_property
    def elements(self) -> int:
        """How many a step updates, on average."""
        rows = sum(len(np.unique(one)) for one in self.indices) / len(self.indices)
        return round(rows) * self.row_size

    @cached_property
    def values(self) -> Array:
        """The gradients of a step's rows: the same memory for everybody and in every step."""
        (values,) = replace(self, shapes=((self.touched, self.row_size),)).gradients()
        return values


def workload_of(
    section: str, rule: str, rows: int, row_size: int, touched: int, kind: str = UNIFORM
) -> RowWorkload:
    name = f"{touched:,} of {rows:,} rows of {row_size}"
    if kind != UNIFORM:
        name += f", {kind}"
    return RowWorkload(section, name, rule, {}, ((rows, row_size),), touched, kind)


def touched_of(one: Measurement) -> int:
    """Read from a measurement's name how many gradients of rows a step has."""
    return _numbers_of(one)[0]


def rows_of(one: Measurement) -> int:
    """Read from a measurement's name how many rows the table has."""
    return _numbers_of(one)[1]


def row_size_of(one: Measurement) -> int:
    """Read from a measurement's name how many elements a row has."""
    return _numbers_of(one)[2]


def _numbers_of(one: Measurement) -> list[int]:
    return [int(number.replace(",", "")) for number in re.findall(r"[\d,]*\d", one.name)]


def zipf(random: np.random.Generator, count: int, draws: int) -> Array:
    """Draw ranks from 0, each as often as the inverse of its place."""
    shares = np.cumsum(1.0 / np.arange(1.0, count + 1))
    return np.searchsorted(shares / shares[-1], random.random(draws))


def in_turn(steps: Iterable[Step]) -> Step:
    """Make a step that is the next of some steps each time."""
    turns = cycle(steps)

    def step() -> None:
        next(turns)()

    return step


def fusedopt(workload: RowWorkload, optimizer: fo.Optimizer) -> Step:
    """A built optimizer's step."""
    gradients = [fo.RowGradient(workload.values, indices) for indices in workload.indices]
    return in_turn([partial(optimizer.apply, [gradient]) for gradient in gradients])


def sparse_adam(workload: RowWorkload, table: Array) -> Step:
    """PyTorch's lazy Adam, which has no decay."""
    torch: Any = importlib.import_module("torch")
    settings = settings_of(workload)
    parameter = torch.nn.Parameter(torch.from_numpy(table))
    optimizer = torch.optim.SparseAdam(
        [parameter],
        lr=settings["learning_rate"],
        betas=(settings["beta_1"], settings["beta_2"]),
        eps=settings["epsilon"],
    )
    values = torch.from_numpy(workload.values)

    def step(indices: Any) -> None:
        parameter.grad = torch.sparse_coo_tensor(
            indices, values, parameter.shape, check_invariants=False
        )
        optimizer.step()

    return in_turn([partial(step, torch.from_numpy(one[None])) for one in workload.indices])


def lazy_numpy(workload: RowWorkload, table: Array) -> Step:
    """AdamW on the rows of a step, as one writes it in NumPy with care."""
    settings = settings_of(workload)
    rate, epsilon = settings["learning_rate"], np.float32(settings["epsilon"])
    keep = np.float32(1 - rate * (settings["weight_decay"] or 0.0))
    beta_1, beta_2 = settings["beta_1"], settings["beta_2"]
    m_table, v_table = np.zeros_like(table), np.zeros_like(table)
    steps = 0

    def step(indices: Array) -> None:
        nonlocal steps
        steps += 1
        alpha = np.float32(rate * (1 - beta_2**steps) ** 0.5 / (1 - beta_1**steps))
        order = np.argsort(indices, kind="stable")
        ascending = indices[order]
        first = np.flatnonzero(np.diff(ascending, prepend=-1))
        rows = ascending[first]
        g = workload.values[order]
        if len(rows) < len(order):
            g = np.add.reduceat(g, first, axis=0)
        w, m, v = table[rows], m_table[rows], v_table[rows]
        w *= keep
        m += (g - m) * np.float32(1 - beta_1)
        np.square(g, out=g)
        g -= v
        g *= np.float32(1 - beta_2)
        v += g
        np.sqrt(v, out=g)
        g += epsilon
        w -= alpha * m / g
        table[rows], m_table[rows], v_table[rows] = w, m, v

    return in_turn([partial(step, one) for one in workload.indices])


PEERS = [
    Contestant("SparseAdam", "torch", sparse_adam),
    NoThreads("lazy NumPy", "numpy", lazy_numpy),
]


def built(workload: RowWorkload) -> tuple[fo.Optimizer, list[Array]]:
    """Make our optimizer, and the tables that its step updates: the variable and the slots of its shape."""
    optimizer, (table,) = workload.optimizer(), workload.variables()
    optimizer.build([table])
    state = optimizer.named_variables().values()
    return optimizer, [table, *(slot for slot in state if slot.shape == table.shape)]


def row_loops(workload: RowWorkload, tables: list[Array]) -> dict[str, Step]:
    """Make the plainest loops over the rows of each step, in the order in which ours takes them."""
    order = [np.unique(one, return_index=True) for one in workload.indices]
    return {
        f"{PLAIN_LOOP}, {ahead} rows ahead": in_turn(
            [
                _core.PlainRowLoop(tables, workload.values, rows, positions, ahead)
                for rows, positions in order
            ]
        )
        for ahead in AHEAD
    }


def measure(bench: Bench, workload: RowWorkload, peers: list[Contestant]) -> None:
    """Time our step, the peers' and the limit."""
    optimizer, tables = built(workload)
    steps = {FUSEDOPT.name: fusedopt(workload, optimizer)}
    others = [
        Participant(peer.name, threads, step)
        for peer in peers
        if peer in bench.peers
        for step in [peer.prepare(workload, *workload.variables())]
        for threads in peer.thread_counts(bench.results.threads)
    ]
    _race(bench, workload, tables, LIMIT, steps, others)


def measure_variants(
    bench: Bench, workload: RowWorkload, variants: dict[str, dict[str, Any]]
) -> None:
    """Time the step with several arguments, and the limit in the memory of the first."""
    found = {
        name: (one, *built(one))
        for name, more in variants.items()
        for one in [replace(workload, arguments=workload.arguments | more)]
    }
    steps = {name: fusedopt(one, optimizer) for name, (one, optimizer, _) in found.items()}
    _, _, tables = next(iter(found.values()))
    _race(bench, workload, tables, LIMIT, steps)


def measure_dense(bench: Bench, workload: RowWorkload) -> None:
    """Time our step on rows, and the dense step of the same optimizer."""
    optimizer, tables = built(workload)
    steps = {
        DENSE: partial(optimizer.apply, workload.gradients()),
        FUSEDOPT.name: fusedopt(workload, optimizer),
    }
    _race(bench, workload, tables, DENSE, steps)


def _race(
    bench: Bench,
    workload: RowWorkload,
    tables: list[Array],
    baseline: str,
    steps: dict[str, Step],
    others: Iterable[Participant] = (),
) -> None:
    """Time everybody. The fastest of the plain loops is the limit."""
    environment.set_threads(bench.results.threads[-1])
    loops = row_loops(workload, tables)
    participants = [
        Participant(name, threads, step)
        for name, step in (loops | steps).items()
        for threads in bench.results.threads
    ]
    moved = FLOAT_BYTES * (2 * len(tables) + 1)
    bench.race(workload, workload.name, moved, baseline, [*participants, *others])
    one = bench.results.measurements[-1]
    for threads in bench.results.threads:
        entries = [entry for name in loops if (entry := one.find(name, threads))]
        fastest = min(entries, key=lambda entry: entry.median)
        one.entries.insert(0, replace(fastest, name=LIMIT))
