"""Rounds and turns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fusedopt.bench.timing import QUICK, Participant, race


@pytest.mark.parametrize(("warm_seconds", "warm_steps"), [(60.0, 20), (0.0, 1)])
def test_a_turn_begins_warm(warm_seconds: float, warm_steps: int) -> None:
    begun = 0

    def step() -> None:
        nonlocal begun
        begun += 1

    one = Participant("one", 1, step, enter=lambda: starts.append(begun))
    starts: list[int] = []
    effort = replace(QUICK, budget_seconds=60.0, warm_steps=20, warm_seconds=warm_seconds)
    race([one], effort, lambda _: None)
    starts.append(begun)
    timed = one.repetitions * one.pieces
    assert np.diff(starts[1:]).tolist() == [warm_steps + timed] * effort.rounds
