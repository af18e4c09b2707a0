"""The rules and variants that the bench measures."""

from __future__ import annotations

import pytest
from cases import RULES
from fusedopt.bench import rules
from fusedopt.bench.limit import slots_of
from fusedopt.bench.workload import Workload


def test_all_rules_are_found_and_no_wrapper() -> None:
    assert {rule.__name__ for rule in rules.rule_classes()} == RULES.keys()


def slots(rule: str, arguments: dict[str, object]) -> list[str]:
    return slots_of(Workload("", "", rule, arguments, ((8, 8),)))


@pytest.mark.filterwarnings("ignore:nesterov. no effect")
def test_every_argument_that_keeps_more_state_is_measured() -> None:
    measured = {workload.label for workload in rules.workloads(1)}
    for rule, variants in RULES.items():
        plain = set(slots(rule, {}))
        for name, value in {item for variant in variants for item in variant.items()}:
            if set(slots(rule, {name: value})) > plain:
                assert f"{rule}({name}={value})" in measured


def test_what_is_measured_as_keeping_more_state_does() -> None:
    for rule, variants in rules.MORE_STATE.items():
        for arguments in variants:
            assert set(slots(rule, arguments)) > set(slots(rule, {}))
