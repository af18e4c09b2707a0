"""What all other libraries are given: the hyperparameters of fusedopt's own optimizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fusedopt.bench.workload import Absent, Workload


def made(rule_class: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Make another library's optimizer; a rule of the same name need not take the same arguments."""
    try:
        return rule_class(**arguments)
    except (TypeError, ValueError) as error:
        raise Absent(f"refuses the arguments: {error}") from error


def settings_of(workload: Workload) -> dict[str, Any]:
    """Read all hyperparameters of a workload's rule."""
    settings: dict[str, Any] = workload.rule_optimizer().get_config()
    return settings
