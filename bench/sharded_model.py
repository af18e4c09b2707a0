"""A model on paper of a sharded step on many ranks, from what a network and a memory give.

Every rank is a machine of its own. It sends and receives at once, and messages follow each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# Of a window over all ranks, and of a rank's part of it at least, as in cpp/src/engine/ranks_exchange.cpp.
WINDOW_ELEMENTS = 2**19
FEWEST_ELEMENTS = 2**15
TILE = 1024


@dataclass(frozen=True)
class Work:
    """A step of some rule on some elements, of so many bytes each."""

    elements: int
    gradient: int
    """On the wire."""
    weight: int
    step: int
    """Moved in memory, for each element of the share."""
    slots: int
    """Kept, for each element of the share; with a master copy, if there is one."""
    agreements: int = 2

    @property
    def sum(self) -> int:
        """Gradients are added up in float32."""
        return max(self.gradient, 4)


@dataclass(frozen=True)
class Machine:
    """What one rank has."""

    network: float
    """Bytes per second that it sends while it receives as many."""
    latency: float
    """Seconds from one message to the next."""
    memory: float
    """Bytes per second that the plainest loop moves."""


@dataclass(frozen=True)
class Times:
    """The parts of a step, in seconds."""

    wire: float
    waiting: float
    """For messages to begin, however small they are."""
    step: float
    copies: float
    """Into what is sent, and out of what is received."""

    @property
    def in_turn(self) -> float:
        """If one part waits for the other."""
        return self.wire + self.waiting + self.step + self.copies

    @property
    def overlapped(self) -> float:
        """If all that is sent travels while memory moves."""
        return max(self.wire + self.waiting, self.step + self.copies)


def sent_bytes(work: Work, ranks: int) -> float:
    """Of gradients and weights, by one rank in one step."""
    return work.elements * (work.gradient + work.weight) * (ranks - 1) / ranks


def kept_bytes(work: Work, ranks: int) -> float:
    """Of slots and of the sum of the gradients, by one rank. A single one sums nothing."""
    return work.elements * (work.slots + (work.sum if ranks > 1 else 0)) / ranks


def windows(work: Work, ranks: int) -> int:
    """How often gradients are exchanged, and as often weights."""
    share = math.ceil(work.elements / TILE / ranks)
    room = max(WINDOW_ELEMENTS // ranks, FEWEST_ELEMENTS)
    return math.ceil(share / math.ceil(room / TILE))  # of whole tiles


def messages(work: Work, ranks: int) -> float:
    """That a rank sends one after the other: one to each other rank in a window, and in a tree to agree."""
    return 2 * windows(work, ranks) * (ranks - 1) + work.agreements * math.ceil(math.log2(ranks))


def times(work: Work, ranks: int, machine: Machine) -> Times:
    """Of a sharded step."""
    others = (ranks - 1) / ranks
    # What is packed is sent from a cache. What is received comes through one, and is copied to where it belongs.
    copied = work.elements * others * (work.gradient + 2 * work.weight)
    return Times(
        sent_bytes(work, ranks) / machine.network,
        messages(work, ranks) * machine.latency,
        work.elements / ranks * work.step / machine.memory,
        copied / machine.memory,
    )


def unsharded(work: Work, ranks: int, machine: Machine) -> Times:
    """Of the step that each rank takes alone after an all-reduce, which sends as much to add as to hand out."""
    sent = 2 * work.elements * work.gradient * (ranks - 1) / ranks
    return Times(
        sent / machine.network,
        2 * (ranks - 1) * machine.latency,
        work.elements * work.step / machine.memory,
        0.0,
    )
