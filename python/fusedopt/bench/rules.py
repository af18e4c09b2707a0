"""The rules that the package exports, and their variants that keep more state."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import fusedopt as fo
from fusedopt.bench.limit import slots_of, traffic_of
from fusedopt.bench.workload import Arguments, Workload, power_of_two, squarest
from fusedopt.rules.rule_optimizer import RuleOptimizer

SECTION = "rules"
# Arithmetic on matrices grows faster than the matrices.
MOST_ELEMENTS_OF_PRODUCTS = 2**18
TURNED_ON = 0.9


def rule_classes() -> list[type[fo.Optimizer]]:
    """Find the exported optimizers that need no other one to work, in the order of their names."""
    exported = [getattr(fo, name) for name in fo.__all__]
    rules = [one for one in exported if isinstance(one, type) and issubclass(one, RuleOptimizer)]
    return sorted(rules, key=lambda rule: rule.__name__.lower())


def summary(rule: type[fo.Optimizer]) -> str:
    """Return the first line of a rule's docstring."""
    return inspect.getdoc(rule).partition("\n")[0]  # type: ignore[union-attr]


def workloads(elements: int) -> Iterator[Workload]:
    """Every rule as it is by default, then with each argument that makes it keep more."""
    for rule in rule_classes():
        for arguments in ({}, *_extensions(rule)):
            workload = _workload(rule, arguments, elements)
            if traffic_of(workload).bytes is None:
                few = min(elements, MOST_ELEMENTS_OF_PRODUCTS)
                workload = _workload(rule, arguments, few)
            yield workload


def _extensions(rule: type[fo.Optimizer]) -> Iterator[Arguments]:
    plain = slots_of(_workload(rule, {}, 1))
    common = inspect.signature(RuleOptimizer).parameters
    for parameter in inspect.signature(rule).parameters.values():
        is_flag = isinstance(parameter.default, bool)
        value = True if is_flag else TURNED_ON
        is_off = isinstance(parameter.default, (bool, float)) and not parameter.default
        if parameter.name in common or not is_off:
            continue
        arguments = {parameter.name: value}
        try:
            more = slots_of(_workload(rule, arguments, 1))
        except ValueError:  # no value that it takes
            continue
        if len(more) > len(plain):
            yield arguments


def _workload(rule: type[fo.Optimizer], arguments: Arguments, elements: int) -> Workload:
    name = power_of_two(elements)
    return Workload(SECTION, name, rule.__name__, arguments, (squarest(elements),))
