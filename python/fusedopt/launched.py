"""What the program that has started this process says about ranks, without an import of MPI."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

# How many ranks are on this machine: Open MPI, MPICH and Intel MPI, torchrun.
_HERE = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "LOCAL_WORLD_SIZE")
# How many there are in all, on any number of machines.
_IN_ALL = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


class Ranks(NamedTuple):
    """The ranks on this machine."""

    number: int  # at most, if only the number on all machines is known
    source: str  # the environment variable


def ranks(environment: Mapping[str, str] = os.environ) -> Ranks | None:
    """Return how many ranks there are here; None if this process is none."""
    for name in (*_HERE, *_IN_ALL):
        text = environment.get(name, "")
        if text.isdecimal() and int(text) > 0:
            return Ranks(int(text), name)
    return None


def is_bound() -> bool:
    """Whether this process may use fewer processors than the one that has started it."""
    try:
        own, starter = os.sched_getaffinity(0), os.sched_getaffinity(os.getppid())
    except (AttributeError, OSError):  # not on this system, or not allowed
        return False
    return own < starter


def advice(found: Ranks | None, threads: int, processors: int) -> str:
    """Say what to change if ranks and threads are more than the processors. If they are not, say nothing."""
    if found is None:
        return ""
    if is_bound():
        if threads <= processors:
            return ""
        return (
            f"threads: {threads}, processors that this rank is bound to: {processors}; "
            f"set OMP_NUM_THREADS={processors}, or let the launcher bind each rank to more"
        )
    if found.number * threads <= processors:
        return ""
    known = "" if found.source in _HERE else "up to "
    room = processors // found.number
    change = f"set OMP_NUM_THREADS={room}" if room else "start no more ranks than processors"
    return (
        f"ranks here: {known}{found.number}, threads of each: {threads}, "
        f"processors that they share: {processors}; {change}"
    )
