"""Random sequences of calls of one object: the same ones in every run, or new ones for as long as it takes.

A plain `pytest` runs the same few sequences each time. With `FUSEDOPT_EXAMPLES=20`, there are twenty times as many, and
each run draws its own. What fails is printed, and is tried first in the next run of the same checkout.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

TIMES = int(os.environ.get("FUSEDOPT_EXAMPLES", "1"))


def profile(examples: int, **more: Any) -> settings:
    """The settings of a test that has so many examples in a plain run."""
    fixed: Any = {"derandomize": True, "database": None} if TIMES == 1 else {"print_blob": True}
    return settings(
        deadline=None,
        max_examples=TIMES * examples,
        suppress_health_check=list(HealthCheck),
        **fixed,
        **more,
    )


def run_calls(
    calls: type[RuleBasedStateMachine], examples: int, most_calls: int, **attributes: Any
) -> None:
    """Run so many sequences, each of a machine with these attributes."""
    run_state_machine_as_test(
        type(calls.__name__, (calls,), attributes),
        settings=profile(examples, stateful_step_count=most_calls),
    )
