"""Random sequences of calls of one object: the same ones in every run."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test


def run_calls(
    calls: type[RuleBasedStateMachine], examples: int, most_calls: int, **attributes: Any
) -> None:
    """Run so many sequences, each of a machine with these attributes."""
    run_state_machine_as_test(
        type(calls.__name__, (calls,), attributes),
        settings=settings(
            derandomize=True,
            database=None,
            deadline=None,
            max_examples=examples,
            stateful_step_count=most_calls,
        ),
    )
