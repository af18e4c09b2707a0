"""How ranks exchange bytes: mpi4py's communicators, and objects of the caller's with four attributes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

_IN_ONE_EXCHANGE = 2**28  # bytes, so that no count exceeds what an int holds


class Exchange(Protocol):
    """What is under way between ranks."""

    def wait(self) -> object:
        """Return when it is over."""


class Communicator(Protocol):
    """A group of ranks. All call each function as often, and in the same order.

    A function may return before its exchange is over, with an object whose ``wait()`` waits for it. Until then its
    buffers stay as they are, and other exchanges begin. It returns None if the exchange is over.

    Buffers are arrays of uint8. Counts are bytes, one for each rank. What is for or from a rank lies behind what is
    for or from the rank before it.
    """

    @property
    def rank(self) -> int:
        """The number of the own rank, from 0."""

    @property
    def size(self) -> int:
        """How many ranks there are."""

    def alltoallv(
        self,
        send: Bytes,
        send_counts: Sequence[int],
        receive: Bytes,
        receive_counts: Sequence[int],
    ) -> Exchange | None:
        """Send a part of ``send`` to each rank, and receive a part of ``receive`` from each.

        Parameters
        ----------
        send, receive : numpy.ndarray
            The parts, one behind the other, in the order of the ranks.
        send_counts, receive_counts : sequence of int
            Bytes for and from each rank.
        """

    def allgatherv(self, send: Bytes, receive: Bytes, counts: Sequence[int]) -> Exchange | None:
        """Send all of ``send`` to each rank, and receive a part of ``receive`` from each.

        Parameters
        ----------
        send, receive : numpy.ndarray
            The own part, and all parts, one behind the other, in the order of the ranks.
        counts : sequence of int
            Bytes from each rank.
        """


class _MPI:
    """A communicator of mpi4py."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()

    def alltoallv(
        self,
        send: Bytes,
        send_counts: Sequence[int],
        receive: Bytes,
        receive_counts: Sequence[int],
    ) -> Exchange:
        under_way: Exchange = self._comm.Ialltoallv(
            [send, (send_counts, _offsets(send_counts))],
            [receive, (receive_counts, _offsets(receive_counts))],
        )
        return under_way

    def allgatherv(self, send: Bytes, receive: Bytes, counts: Sequence[int]) -> Exchange:
        under_way: Exchange = self._comm.Iallgatherv(send, [receive, (counts, _offsets(counts))])
        return under_way


def _offsets(counts: Sequence[int]) -> list[int]:
    return [0, *accumulate(counts[:-1])]


def checked(name: str, value: Any) -> Communicator:
    """Return a communicator for what was given."""
    if hasattr(value, "Ialltoallv") and hasattr(value, "Iallgatherv"):
        if value.Is_inter():
            raise ValueError(f"{name}: expected an intracommunicator, found {value!r}")
        return _MPI(value)
    for attribute, kind in (("rank", int), ("size", int)):
        if not isinstance(getattr(value, attribute, None), kind):
            raise TypeError(_EXPECTED.format(name=name, missing=attribute, value=value))
    for attribute in ("alltoallv", "allgatherv"):
        if not callable(getattr(value, attribute, None)):
            raise TypeError(_EXPECTED.format(name=name, missing=attribute, value=value))
    communicator: Communicator = value
    return communicator


_EXPECTED = (
    "{name}: expected a communicator of mpi4py, a fusedopt.torch.Communicator, or an object with rank, size, alltoallv "
    "and allgatherv, found {value!r} without {missing}"
)


def wait_for(under_way: Exchange | None) -> None:
    """Return when an exchange is over."""
    if under_way is not None:
        under_way.wait()


def to_first(communicator: Communicator, own: Bytes, counts: Sequence[int]) -> Bytes:
    """Bring what each rank has, of so many bytes, one after the other to rank 0. Others get nothing."""
    rank, size = communicator.rank, communicator.size
    room = max(_IN_ONE_EXCHANGE // size, 1)
    whole = np.empty(sum(counts) if rank == 0 else 0, np.uint8)
    begins = _offsets(counts)
    for done in range(0, max(counts), room):
        now = [min(room, max(count - done, 0)) for count in counts]
        expected = now if rank == 0 else [0] * size
        received = np.empty(sum(expected), np.uint8)
        sent = own[done : done + now[rank]]
        wait_for(communicator.alltoallv(sent, [sent.size] + [0] * (size - 1), received, expected))
        for begin, offset, count in zip(begins, _offsets(expected), expected, strict=True):
            if count:
                whole[begin + done : begin + done + count] = received[offset : offset + count]
    return whole


def texts(communicator: Communicator, own: str) -> list[str]:
    """Return the texts of all ranks."""
    data = np.frombuffer(own.encode(), np.uint8)
    sizes = np.empty(communicator.size, np.int64)
    counts = [sizes.itemsize] * communicator.size
    size = np.array([data.size])
    wait_for(communicator.allgatherv(size.view(np.uint8), sizes.view(np.uint8), counts))
    found = np.empty(sizes.sum(), np.uint8)
    wait_for(communicator.allgatherv(data, found, sizes.tolist()))
    parts = np.split(found, np.cumsum(sizes)[:-1])
    return [part.tobytes().decode() for part in parts]
