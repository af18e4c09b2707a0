"""Interleaved timing: in each round every participant runs once, in an order that changes.

A machine's speed wanders by more than the differences of interest, so only times of one round are
compared.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import repeat

from workloads import Step

NOT_RUN = float("nan")


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    rounds: int
    block_seconds: float
    """Short steps are repeated to fill a block of this length, and their mean is one time."""
    budget_seconds: float
    """A participant that would need longer takes part in fewer rounds."""
    fewest_rounds: int = 3
    settle_seconds: float = 0.01
    """OpenMP's threads spin for some milliseconds after a step; the next one must not feel them."""


NORMAL = Effort(rounds=21, block_seconds=0.005, budget_seconds=3.0)
QUICK = Effort(
    rounds=3,
    block_seconds=0.0005,
    budget_seconds=0.05,
    fewest_rounds=1,
    settle_seconds=0.001,
)


@dataclass
class Participant:
    """A step on a number of threads, and its time in each round."""

    name: str
    threads: int
    step: Step
    repetitions: int = 1
    rounds: int = 1
    seconds: list[float] = field(default_factory=list)

    def takes_part(self, number: int, rounds: int) -> bool:
        """Spread its rounds evenly over all."""
        return number * self.rounds // rounds > (number - 1) * self.rounds // rounds


def race(
    participants: list[Participant], effort: Effort, set_threads: Callable[[int], None]
) -> None:
    """Fill in the times of all participants."""
    for participant in participants:
        set_threads(participant.threads)
        _calibrate(participant, effort)
    order = random.Random(0)
    gc.collect()
    gc.disable()
    try:
        for number in range(effort.rounds):
            for participant in order.sample(participants, len(participants)):
                if not participant.takes_part(number, effort.rounds):
                    participant.seconds.append(NOT_RUN)
                    continue
                set_threads(participant.threads)
                time.sleep(effort.settle_seconds)
                # What the others left in the caches is nobody's business.
                participant.step()
                participant.seconds.append(_time(participant.step, participant.repetitions))
    finally:
        gc.enable()


def _calibrate(participant: Participant, effort: Effort) -> None:
    # The first steps allocate, fault pages in and start threads.
    first = _time(participant.step, 1)
    tries = 1 if first > effort.block_seconds else 3
    single = min(_time(participant.step, 1) for _ in range(tries))
    estimate = _time(participant.step, max(1, int(0.1 * effort.block_seconds / single)))
    participant.repetitions = max(1, round(effort.block_seconds / estimate))
    turn = estimate * (participant.repetitions + 1)
    affordable = int(effort.budget_seconds / turn)
    participant.rounds = min(effort.rounds, max(effort.fewest_rounds, affordable))


def _time(step: Step, repetitions: int) -> float:
    """Return the mean time of a step in seconds."""
    times = repeat(None, repetitions)
    begin = time.perf_counter()
    for _ in times:
        step()
    return (time.perf_counter() - begin) / repetitions
