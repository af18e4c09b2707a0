"""The documents of the bench: a short manual, and places for what a run writes."""

from __future__ import annotations

import re

import pytest
from bench_runs import CHECKOUT, ROOT


def test_the_manual_is_short() -> None:
    assert len((CHECKOUT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("docs/reference/rules.md", ["rules"]),
        ("docs/performance.md", ["measurements", "slot_instructions"]),
        ("bench/results/results.md", ["results"]),
        ("bench/results/hosts.md", ["hosts"]),
        ("docs/hosts.md", ["hosts"]),
        ("docs/who.md", ["shares"]),
        ("bench/results/rows.md", ["rows"]),
        ("docs/rows.md", ["row_shares", "row_goals"]),
        ("bench/results/low_bit.md", ["low_bit_results"]),
        ("bench/results/slots.md", ["slots"]),
        ("docs/low_bit.md", ["slot_speed", "low_bit"]),
        ("bench/results/sharded.md", ["sharded"]),
        (
            "docs/ranks.md",
            ["sharded_memory", "sharded_speed", "sharded_check", "sharded_paper"],
        ),
    ],
)
def test_a_run_finds_its_place(name: str, blocks: list[str]) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert re.findall(r"^<!-- (\w+): begin -->$", text, re.MULTILINE) == blocks
    assert re.findall(r"^<!-- (\w+): end -->$", text, re.MULTILINE) == blocks
