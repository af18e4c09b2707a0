"""Ranks that are threads of this process, and gradients that differ from rank to rank."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

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
        parts = [send[end - count : end].copy() for end, count in zip(ends, send_counts)]
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


def run(size: int, rank: Callable[[Threads], Any]) -> list[Any]:
    """Return what each rank returns or raises."""
    group = Group(size)
    results: list[Any] = [None] * size

    def work(number: int) -> None:
        try:
            results[number] = rank(Threads(group, number))
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


def gradients_of(rank: int, step: int, shapes: list[tuple[int, ...]], dtype: Any) -> list[Any]:
    """Make the gradients of one rank in one step."""
    random = np.random.default_rng([rank, step])
    return [random.normal(0.0, 2.0, shape).astype(dtype) for shape in shapes]


def summed(ranks: int, step: int, shapes: list[tuple[int, ...]], dtype: Any) -> list[Any]:
    """Add up the gradients of all ranks in their order, in float64 or float32."""
    wide = np.float64 if np.dtype(dtype) == np.float64 else np.float32
    total = [gradient.astype(wide) for gradient in gradients_of(0, step, shapes, dtype)]
    for rank in range(1, ranks):
        for sum_, gradient in zip(total, gradients_of(rank, step, shapes, dtype)):
            sum_ += gradient.astype(wide)
    return total
