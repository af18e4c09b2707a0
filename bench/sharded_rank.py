"""What each rank of `sharded.py` does, started by mpiexec: contestants take turns, alike on all ranks.

The argument is a task in JSON. Rank 0 writes what was found into the task's folder.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import fusedopt as fo
import ml_dtypes
import numpy as np
import numpy.typing as npt
from fusedopt.bench.limit import staggered
from fusedopt.bench.results import FUSEDOPT, LIMIT
from fusedopt.runtime import _core
from mpi4py import MPI
from sharded_names import BASELINE, EXCHANGE, STEP, TENSORS, ZERO

ARGUMENTS = {"learning_rate": 1e-3, "weight_decay": 0.01}
# PyTorch's DDP reduces gradients in buckets of so many bytes.
BUCKET = 25 * 2**20
SMALL_EXCHANGES = 200
GROWING_STEPS = 3
WARM_UP_ELEMENTS = 2**17

Array = npt.NDArray[Any]
Step = Callable[[], object]
comm = MPI.COMM_WORLD


class Turn(NamedTuple):
    """A contestant: what it does in a round, and what comes before and is not timed."""

    step: Step
    before: Step = lambda: None


class Counting:
    """MPI as a communicator of the caller's, which notes what a rank sends."""

    rank, size = comm.rank, comm.size

    swaps = gathers = sent = 0

    def forget(self) -> None:
        """Begin to count again."""
        self.swaps = self.gathers = self.sent = 0

    @property
    def windows(self) -> int:
        """Of a step. Two ranks swap their weights, too."""
        return self.swaps // 2 if self.size == 2 else self.swaps

    @property
    def agreements(self) -> int:
        """Of a step."""
        return self.gathers if self.size == 2 else self.gathers - self.windows

    def alltoallv(self, send: Array, send_counts: Any, receive: Array, receive_counts: Any) -> None:
        self.swaps += 1
        self.sent += send.nbytes
        comm.Alltoallv(
            [send, (send_counts, _offsets(send_counts))],
            [receive, (receive_counts, _offsets(receive_counts))],
        )

    def allgatherv(self, send: Array, receive: Array, counts: Any) -> None:
        self.gathers += 1
        self.sent += send.nbytes * (self.size - 1)
        comm.Allgatherv(send, [receive, (counts, _offsets(counts))])


def _offsets(counts: Any) -> list[int]:
    return [sum(counts[:k]) for k in range(len(counts))]


def dtype_of(kind: str) -> Any:
    return ml_dtypes.bfloat16 if kind == "bfloat16" else np.dtype(kind)


def numbers(elements: int, dtype: Any) -> tuple[Array, list[Array]]:
    """Ordinary numbers that differ from rank to rank, in one piece and as tensors."""
    noise = np.random.default_rng([comm.rank, elements]).standard_normal(elements, np.float32)
    whole = noise.astype(dtype)
    return whole, np.split(whole, TENSORS)


def weights_of(elements: int, dtype: Any) -> tuple[Array, list[Array]]:
    whole = np.full(elements, 0.5, dtype)
    return whole, np.split(whole, TENSORS)


def built(optimizer: Any, variables: list[Array]) -> Any:
    optimizer.build(variables)
    return optimizer


def counted(weights: list[Array], gradients: list[Array]) -> Counting:
    """What one step exchanges."""
    counting = Counting()
    optimizer = built(fo.Sharded(fo.AdamW(**ARGUMENTS), counting), [w.copy() for w in weights])
    counting.forget()
    optimizer.apply(gradients)
    return counting


def exchange(gradients: Array, weights: Array, windows: int) -> tuple[Step, Step]:
    """What any program must send: gradients straight from where they are, and weights to where they belong."""
    share = gradients.size // comm.size
    cuts = [share * k // windows for k in range(windows + 1)]
    room = max(end - begin for begin, end in pairwise(cuts))
    item = gradients.itemsize
    g, w = gradients.view(np.uint8), weights.view(np.uint8)
    received = np.empty((comm.size - 1) * room * item, np.uint8)
    places = [k * share * item for k in range(comm.size)]

    def swap() -> None:
        for begin, end in pairwise(cuts):
            size = (end - begin) * item
            counts = [0 if k == comm.rank else size for k in range(comm.size)]
            displacements = [place + begin * item for place in places]
            comm.Alltoallv(
                [g, (counts, displacements), MPI.BYTE],
                [received, (counts, _offsets(counts)), MPI.BYTE],
            )

    def gather() -> None:
        for begin, end in pairwise(cuts):
            counts = [(end - begin) * item] * comm.size
            displacements = [place + begin * item for place in places]
            comm.Allgatherv(MPI.IN_PLACE, [w, (counts, displacements), MPI.BYTE])

    return swap, gather


def step_of_the_share(weights: list[Array]) -> Step:
    """The step that is left if somebody else has summed the gradients."""
    each = TENSORS // comm.size
    own = weights[comm.rank * each : (comm.rank + 1) * each]
    sums = [np.asarray(numbers(w.size * TENSORS, np.float32)[0][: w.size]) for w in own]
    optimizer = built(fo.AdamW(**ARGUMENTS), own)
    return lambda: optimizer.apply(sums)


def zero(form: str, source: Array, folder: str) -> tuple[Turn, Callable[[], Array]]:
    """PyTorch's sharded AdamW over gloo, with gradients reduced as DDP does it."""
    import torch
    import torch.distributed as dist
    from torch.distributed.optim import ZeroRedundancyOptimizer

    torch.set_num_threads(1)
    if not dist.is_initialized():
        store = f"file://{folder}/store"
        dist.init_process_group("gloo", init_method=store, rank=comm.rank, world_size=comm.size)
    gradients = torch.empty(source.size)
    fresh = torch.from_numpy(source)
    parameters = [
        torch.nn.Parameter(torch.full((n,), 0.5)) for n in [source.size // TENSORS] * TENSORS
    ]
    for parameter, part in zip(parameters, gradients.chunk(TENSORS), strict=True):
        parameter.grad = part
    settings: dict[str, Any] = {
        "lr": ARGUMENTS["learning_rate"],
        "weight_decay": ARGUMENTS["weight_decay"],
    }
    optimizer = ZeroRedundancyOptimizer(parameters, torch.optim.AdamW, **settings, **ZERO[form])
    buckets = gradients.split(BUCKET // 4)

    def step() -> None:
        for work in [dist.all_reduce(bucket, async_op=True) for bucket in buckets]:
            work.wait()
        optimizer.step()

    turn = Turn(step, lambda: gradients.copy_(fresh))
    return turn, lambda: torch.cat([p.detach() for p in parameters]).numpy()


def times(task: dict[str, Any]) -> dict[str, Any]:
    """Time everybody in the same rounds. A time is that of the slowest rank."""
    dtype, elements = dtype_of(task["kind"]), task["elements"]
    source, gradients = numbers(elements, dtype)
    whole, weights = weights_of(elements, dtype)
    counting = counted(weights, gradients)
    optimizer = built(fo.Sharded(fo.AdamW(**ARGUMENTS), comm), weights)
    plain_whole, plain = weights_of(elements, dtype)
    swap, gather = exchange(source, plain_whole, counting.windows)
    step = step_of_the_share(plain)

    def in_turn() -> None:
        swap()
        step()
        gather()

    def exchanged() -> None:
        swap()
        gather()

    arrays = staggered(4, elements // comm.size)
    turns = {
        BASELINE: Turn(in_turn),
        FUSEDOPT: Turn(lambda: optimizer.apply(gradients)),
        EXCHANGE: Turn(exchanged),
        STEP: Turn(step),
        LIMIT: Turn(_core.PlainLoop([(arrays[:3], arrays[3:])])),
    }
    trained = {}
    for form in task["peers"]:
        turns[form], trained[form] = zero(form, source, task["folder"])
    seconds = race(turns, task["rounds"])
    differences = {name: difference(whole, trained[name]()) for name in trained}
    return {
        "seconds": seconds,
        "differences": differences,
        "windows": counting.windows,
        "sent": counting.sent,
        "agreements": counting.agreements,
        "latency": latency(),
    }


def race(turns: dict[str, Turn], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(turns), len(turns)):
            turn = turns[name]
            for _ in range(2):  # the first finds the caches as another has left them
                turn.before()
                comm.Barrier()
                begin = time.perf_counter()
                turn.step()
                taken = time.perf_counter() - begin
            seconds[name].append(comm.allreduce(taken, MPI.MAX))
    return seconds


def difference(ours: Array, theirs: Array) -> float:
    """Of two trainings, relative to what they have changed."""
    return float(np.median(np.abs(ours - theirs)) / np.median(np.abs(ours - np.float32(0.5))))


def latency() -> float:
    """Of an exchange as small as an agreement."""
    own, all_of_them = np.zeros(24, np.uint8), np.zeros(24 * comm.size, np.uint8)
    comm.Barrier()
    begin = time.perf_counter()
    for _ in range(SMALL_EXCHANGES):
        comm.Allgather(own, all_of_them)
    return comm.allreduce((time.perf_counter() - begin) / SMALL_EXCHANGES, MPI.MAX)


def memory(task: dict[str, Any]) -> dict[str, Any]:
    """How far a rank's memory grows beyond variables and gradients, and what of it are slots."""
    from memory import status_bytes

    for elements in (WARM_UP_ELEMENTS, task["elements"]):
        _, gradients = numbers(elements, dtype_of(task["kind"]))
        _, weights = weights_of(elements, dtype_of(task["kind"]))
        comm.Barrier()
        before = status_bytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        optimizer: Any = fo.AdamW(**ARGUMENTS)
        if comm.size > 1:
            optimizer = fo.Sharded(optimizer, comm)
        optimizer.build(weights)
        for _ in range(GROWING_STEPS):
            optimizer.apply(gradients)
        grown = status_bytes("VmHWM") - before
    slots = sum(np.asarray(slot).nbytes for slot in optimizer.variables if np.ndim(slot))
    return {"slots": comm.allreduce(slots, MPI.MAX), "growth": comm.allreduce(grown, MPI.MAX)}


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    found = {"times": times, "memory": memory}[given["mode"]](given)
    if comm.rank == 0:
        (Path(given["folder"]) / "found.json").write_text(json.dumps(found), encoding="utf-8")
    if "torch" in sys.modules:
        import torch.distributed

        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
