"""Ranks that are threads of this process, and variables whose gradients differ from rank to rank."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import fusedopt as fo
import numpy as np

PATIENCE = 60.0  # seconds, after which a rank that waits for another gives up


class Group:
    """What the ranks of a group share: a place for what each sends, and a barrier."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.sent: list[Any] = [None] * size
        self.barrier = threading.Barrier(size)


class Threads:
    """A communicator over threads, with the four attributes that a communicator of the caller's needs."""

    def __init__(self, group: Group, rank: int) -> None:
        self._group = group
        self.rank = rank
        self.size = group.size
        self.bytes_sent = 0

    def wait(self) -> None:
        """Wait for the other ranks."""
        self._group.barrier.wait(PATIENCE)

    def _swap(self, sent: Any) -> list[Any]:
        self._group.sent[self.rank] = sent
        self._group.barrier.wait(PATIENCE)
        everything = list(self._group.sent)
        self._group.barrier.wait(PATIENCE)
        return everything

    def alltoallv(
        self, send: Any, send_counts: list[int], receive: Any, receive_counts: list[int]
    ) -> None:
        assert send.dtype == receive.dtype == np.uint8
        assert send.size == sum(send_counts)
        assert receive.size == sum(receive_counts)
        ends = np.cumsum(send_counts)
        parts = [
            send[end - count : end].copy() for end, count in zip(ends, send_counts, strict=True)
        ]
        self.bytes_sent += send.size
        found = [each[self.rank] for each in self._swap(parts)]
        assert [part.size for part in found] == list(receive_counts)
        receive[:] = np.concatenate(found)

    def allgatherv(self, send: Any, receive: Any, counts: list[int]) -> None:
        assert send.size == counts[self.rank]
        assert receive.size == sum(counts)
        self.bytes_sent += send.size
        found = self._swap(send.copy())
        assert [part.size for part in found] == list(counts)
        receive[:] = np.concatenate(found)


class Later(Threads):
    """The same, but an exchange takes place when it is waited for. Until then its buffers may not change."""

    def __init__(self, group: Group, rank: int) -> None:
        super().__init__(group, rank)
        self.under_way = 0
        self.most_under_way = 0

    def alltoallv(self, send: Any, *others: Any) -> Any:
        return self._begun(super().alltoallv, send, *others)

    def allgatherv(self, send: Any, *others: Any) -> Any:
        return self._begun(super().allgatherv, send, *others)

    def _begun(self, exchange: Callable[..., None], send: Any, *others: Any) -> Any:
        sent = send.tobytes()
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)

        def wait() -> None:
            assert send.tobytes() == sent, "written to while it is under way"
            exchange(send, *others)
            self.under_way -= 1

        return SimpleNamespace(wait=wait)


def run(
    size: int, rank: Callable[[Any], Any], kind: Callable[[Group, int], Any] = Threads
) -> list[Any]:
    """Return what each rank returns or raises."""
    group = Group(size)
    results: list[Any] = [None] * size

    def work(number: int) -> None:
        try:
            results[number] = rank(kind(group, number))
        except BaseException as error:  # noqa: BLE001
            results[number] = error
            if isinstance(error, (AssertionError, threading.BrokenBarrierError)):
                group.barrier.abort()

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
        assert not thread.is_alive(), "a rank waits for another one"
    return results


def finished(results: list[Any]) -> list[Any]:
    """Return the results, if no rank has raised."""
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


# Of several tiles, shared by ranks; of one; of no element; of no dimension. The largest has slots of float8 if the
# optimizer has, though no piece of it would on three ranks.
VARIABLES: list[tuple[tuple[int, ...], str]] = [
    ((40, 100), "float32"),
    ((), "float64"),
    ((0, 3), "float32"),
    ((3000,), "float64"),
    ((18, 256), "float16"),
    ((5,), "float32"),
]
NAMES = ["kernel", "gain", "nothing", "table", "half", "bias"]


def variables() -> dict[str, Any]:
    random = np.random.default_rng(0)
    made = [np.asarray(random.normal(0.0, 1.0, shape), dtype) for shape, dtype in VARIABLES]
    return dict(zip(NAMES, made, strict=True))


def gradients(rank: int, step: int, dtype: Any = "float32") -> dict[str, Any]:
    """Make the gradients of one rank in one step."""
    random = np.random.default_rng([rank, step])
    return {
        name: np.asarray(random.normal(0.0, 2.0, shape), dtype)
        for name, (shape, _) in zip(NAMES, VARIABLES, strict=True)
    }


def tree_sum(addends: list[Any]) -> Any:
    """Add up to the left the largest power of two that leaves some, and the others to the right."""
    if len(addends) == 1:
        return addends[0]
    branch = 2 ** ((len(addends) - 1).bit_length() - 1)
    return np.asarray(tree_sum(addends[:branch]) + tree_sum(addends[branch:]))


def summed(size: int, step: int, dtype: Any = "float32", divisor: int = 1) -> dict[str, Any]:
    """Add up the gradients of all ranks."""
    wide = np.dtype("float64" if np.dtype(dtype) == np.float64 else "float32")
    found = [gradients(rank, step, dtype) for rank in range(size)]
    return {
        name: np.asarray(tree_sum([each[name].astype(wide) for each in found]) / wide.type(divisor))
        for name in NAMES
    }


def new() -> Any:
    return fo.AdamW(0.01, weight_decay=0.1, global_clipnorm=1.0, use_ema=True)


def train(optimizer: Any, gradients: Callable[[int], dict[str, Any]]) -> str:
    """Return a digest of the weights after some steps."""
    trained = variables()
    optimizer.build(trained)
    for step in range(4):
        optimizer.apply(gradients(step))
    return digest(trained.values())


def digest(arrays: Iterable[Any]) -> str:
    """Return what differs if a bit of the arrays does."""
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
