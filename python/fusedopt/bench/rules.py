"""The rules that the package exports, and their variants that keep more state."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import fusedopt as fo
from fusedopt.bench import slot_kinds
from fusedopt.bench.limit import FEWEST_CODED, traffic_of
from fusedopt.bench.workload import Arguments, Workload, power_of_two, squarest
from fusedopt.rules.rule_optimizer import RuleOptimizer

SECTION = "rules"
# Arithmetic on matrices grows faster than the matrices.
MOST_ELEMENTS_OF_PRODUCTS = 2**18

MORE_STATE: dict[str, list[Arguments]] = {
    "Adam": [{"amsgrad": True}],
    "AdamW": [{"amsgrad": True}],
    "RMSprop": [{"momentum": 0.9}, {"centered": True}],
    "SGD": [{"momentum": 0.9}],
}
"""Arguments that make a rule keep more state, so that a step moves more bytes. A test holds it against all variants."""


def rule_classes() -> list[type[fo.Optimizer]]:
    """Find the exported optimizers that need no other one to work, in the order of their names."""
    exported = [getattr(fo, name) for name in fo.__all__]
    rules = [one for one in exported if isinstance(one, type) and issubclass(one, RuleOptimizer)]
    return sorted(rules, key=lambda rule: rule.__name__.lower())


def summary(rule: type[fo.Optimizer]) -> str:
    """Return the first line of a rule's docstring."""
    return inspect.getdoc(rule).partition("\n")[0]  # type: ignore[union-attr]


def workloads(elements: int) -> Iterator[Workload]:
    """Every rule as it is by default, then with each argument that makes it keep more state."""
    for rule in rule_classes():
        for arguments in ({}, *MORE_STATE.get(rule.__name__, [])):
            workload = _workload(rule, arguments, elements)
            if traffic_of(workload).bytes is None:
                few = min(elements, MOST_ELEMENTS_OF_PRODUCTS)
                workload = _workload(rule, arguments, few)
            yield workload
        if rule.__name__ == slot_kinds.RULE:
            yield from slot_kinds.workloads(SECTION, max(elements, FEWEST_CODED))


def _workload(rule: type[fo.Optimizer], arguments: Arguments, elements: int) -> Workload:
    name = power_of_two(elements)
    return Workload(SECTION, name, rule.__name__, arguments, (squarest(elements),))
