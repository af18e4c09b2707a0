"""What all other libraries are given: the hyperparameters of fusedopt's own optimizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fusedopt as fo
from fusedopt.bench.workload import Absent, Workload, optimizer_of

# How a loss scale begins and changes, here and in all libraries.
_scaling = fo.LossScaleOptimizer(fo.SGD())
INITIAL_SCALE, GROWTH_STEPS = _scaling.initial_scale, _scaling.dynamic_growth_steps
GROWTH, BACKOFF = 2.0, 0.5


def made(rule_class: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Make another library's optimizer; a rule of the same name need not take the same arguments."""
    try:
        return rule_class(**arguments)
    except (TypeError, ValueError) as error:
        raise Absent(f"refuses the arguments: {error}") from error


def settings_of(workload: Workload) -> dict[str, Any]:
    """Read all hyperparameters of the optimizer that the step is about, not of a loss scale's."""
    optimizer = optimizer_of(workload)
    settings: dict[str, Any] = getattr(optimizer, "inner_optimizer", optimizer).get_config()
    return settings
