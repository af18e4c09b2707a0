"""A rule as the tests know it: its formula, slots, defaults, and the library whose numbers it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy.typing as npt

Array = npt.NDArray[Any]
Formula = Callable[[Array, Array, dict[str, Array], dict[str, Any], float, int], None]
Slots = Callable[[dict[str, Any], Array], list[list[str]]]
Decorated = TypeVar("Decorated", bound=Formula)


class Rule(NamedTuple):
    """What the library promises of one rule."""

    formula: Formula
    slots: Slots
    """Their names in groups: a group is interleaved in `variables`."""
    defaults: dict[str, Any]
    starting: tuple[str, ...]
    """The slots that start at `initial_accumulator_value`."""
    model: str
    """The library whose numbers it has."""


RULES: dict[str, Rule] = {}
"""Every rule by its name. A formula registers itself."""

BETAS = {"learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}


def rule(
    name: str,
    slots: Slots,
    starting: tuple[str, ...] = (),
    model: str = "keras",
    **defaults: Any,
) -> Callable[[Decorated], Decorated]:
    """Register a formula as that of a rule with these slots and defaults."""

    def register(formula: Decorated) -> Decorated:
        RULES[name] = Rule(formula, slots, defaults, starting, model)
        return formula

    return register


def plain_slots(*names: str) -> Slots:
    return lambda a, w: [list(names)]
