"""Whether the machine was busy with something else during a measurement."""

from __future__ import annotations

import time

import psutil

from fusedopt.bench.timing import Participant

SPARE = 0.1
"""Others may keep this share busy of the processors that a step leaves free, of one if it leaves none."""
LEAST_SHARE = 0.9
"""The calling thread always works or spins, so a process that is left alone gets a whole processor."""
TICK = 0.01
"""Systems count a processor's time in such steps, in seconds."""
LEAST_SECONDS = 0.05
"""Shorter turns may lie within a single time slice."""
NOT_BUSY = {"idle", "iowait"}
COUNTED_TWICE = {"guest", "guest_nice", "interrupt", "dpc"}


class Watch:
    """What others do from now on."""

    def __init__(self) -> None:
        self.processors = psutil.cpu_count() or 1
        self.usable = usable_processors()
        self._begin = self._now()

    def others(self) -> float:
        """Return how many processors the rest of the machine has kept busy, on average."""
        wall, busy, own = (now - begin for now, begin in zip(self._now(), self._begin, strict=True))
        return max(0.0, busy - own - TICK * self.processors) / wall if wall > 0 else 0.0

    def doubt(self, one: Participant, others: float) -> str:
        """Say why a participant's times are not to be believed; empty if they are."""
        threads = max(one.threads, 1)
        if threads > self.usable:
            return f"{threads} threads shared {self.usable} of the processors"
        if others > SPARE * max(1, self.processors - threads):
            return f"other programs kept {others:.1f} of {self.processors} processors busy"
        share = one.process_seconds / one.wall_seconds if one.wall_seconds else 1.0
        if one.wall_seconds > LEAST_SECONDS and share < LEAST_SHARE:
            return f"the process got a processor for only {share:.0%} of the time"
        return ""

    @staticmethod
    def _now() -> tuple[float, float, float]:
        return time.perf_counter(), busy_seconds(), time.process_time()


def busy_seconds() -> float:
    """Return what all processors have worked so far, and what a hypervisor has taken from them."""
    left_out = NOT_BUSY | COUNTED_TWICE
    found = psutil.cpu_times()._asdict()
    return sum(float(value) for name, value in found.items() if name not in left_out)


def usable_processors() -> int:
    """Return how many processors this process may run on."""
    process = psutil.Process()
    # macOS has no such thing.
    affinity = process.cpu_affinity() if hasattr(process, "cpu_affinity") else None
    return len(affinity) if affinity else psutil.cpu_count() or 1
