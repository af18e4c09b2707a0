"""Interleaved timing: in each round every participant runs once, in an order that changes.

A machine's speed wanders by more than the differences of interest, so only times of one round are
compared.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import repeat

from fusedopt.bench.workload import Step

NOT_RUN = float("nan")
MOST_PAUSES = 10
PIECES = 5


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    rounds: int
    piece_seconds: float
    """Short steps are repeated to fill a piece of this length; a turn has some, and their median counts."""
    budget_seconds: float
    """A participant that would need longer takes part in fewer rounds."""
    fewest_rounds: int = 3
    settle_seconds: float = 0.01
    """A pause is over when the process has rested for so long."""
    warm_steps: int = 150
    """Before a turn, as far as there is time: caches that threads share take so many to settle after a pause."""
    warm_seconds: float = 0.02


# Every rule, with its peers, in about a minute.
BRIEF = Effort(rounds=9, piece_seconds=0.001, budget_seconds=0.3, fewest_rounds=3)
QUICK = Effort(
    rounds=3,
    piece_seconds=0.0001,
    budget_seconds=0.05,
    fewest_rounds=1,
    settle_seconds=0.001,
    warm_steps=1,
)


@dataclass
class Participant:
    """A step on a number of threads, and its time in each round."""

    name: str
    threads: int
    step: Step
    enter: Callable[[], None] | None = None
    """What a turn begins with."""
    warm_steps: int = 1
    pieces: int = 1
    repetitions: int = 1
    rounds: int = 1
    seconds: list[float] = field(default_factory=list)
    wall_seconds: float = 0.0
    process_seconds: float = 0.0
    """Of all its turns, what the clock says and what processors gave."""

    def takes_part(self, number: int, rounds: int) -> bool:
        """Spread its rounds evenly over all."""
        return number * self.rounds // rounds > (number - 1) * self.rounds // rounds


def race(
    participants: list[Participant], effort: Effort, set_threads: Callable[[int], None]
) -> None:
    """Fill in the times of all participants."""
    for participant in participants:
        set_threads(participant.threads)
        if participant.enter:
            participant.enter()
        _calibrate(participant, effort)
    order = random.Random(0)  # noqa: S311
    gc.disable()
    try:
        for number in range(effort.rounds):
            for participant in order.sample(participants, len(participants)):
                if not participant.takes_part(number, effort.rounds):
                    participant.seconds.append(NOT_RUN)
                    continue
                set_threads(participant.threads)
                if participant.enter:
                    participant.enter()
                _settle(effort.settle_seconds)
                _time(participant.step, participant.warm_steps)
                participant.seconds.append(_turn(participant))
    finally:
        gc.enable()


def _settle(seconds: float) -> None:
    """Wait until OpenMP's threads, which spin for some milliseconds after a step, have gone to sleep."""
    for _ in range(MOST_PAUSES):
        before = time.process_time()
        time.sleep(seconds)
        if time.process_time() - before < 0.1 * seconds:
            return


def _calibrate(participant: Participant, effort: Effort) -> None:
    # The first steps allocate, fault pages in and start threads.
    first = _time(participant.step, 1)
    tries = 1 if first > effort.piece_seconds * PIECES else 3
    single = min(_time(participant.step, 1) for _ in range(tries))
    estimate = _time(participant.step, max(1, int(0.5 * effort.piece_seconds / single)))
    participant.repetitions = max(1, round(effort.piece_seconds / estimate))
    participant.warm_steps = max(1, min(effort.warm_steps, int(effort.warm_seconds / estimate)))
    participant.pieces = PIECES if estimate < effort.piece_seconds * PIECES else 1
    steps = participant.warm_steps + participant.repetitions * participant.pieces
    affordable = int(effort.budget_seconds / (estimate * steps))
    participant.rounds = min(effort.rounds, max(effort.fewest_rounds, affordable))


def _turn(participant: Participant) -> float:
    begin, begin_process = time.perf_counter(), time.process_time()
    median = statistics.median(
        _time(participant.step, participant.repetitions) for _ in range(participant.pieces)
    )
    participant.wall_seconds += time.perf_counter() - begin
    participant.process_seconds += time.process_time() - begin_process
    return median


def _time(step: Step, repetitions: int) -> float:
    """Return the mean time of a step in seconds."""
    times = repeat(None, repetitions)
    begin = time.perf_counter()
    for _ in times:
        step()
    return (time.perf_counter() - begin) / repetitions
