"""docs/trust.md has the numbers that are counted now, or nearly: a test more makes nobody write them anew."""

from __future__ import annotations

import re
from pathlib import Path

import count_cases
import pytest

pytestmark = pytest.mark.maintainer

ROOT = Path(__file__).resolve().parents[2]


def numbers(table: str) -> dict[str, int]:
    rows = re.findall(r"^\| (.*) \| .* \| ([\d,]+) \|$", table, re.MULTILINE)
    return {promise: int(number.replace(",", "")) for promise, number in rows}


def test_the_numbers_of_cases_are_those_of_the_tests() -> None:
    text = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
    written = numbers(text.partition(count_cases.BEGIN)[2].partition(count_cases.END)[0])
    found = numbers(count_cases.table())
    assert list(written) == list(found)
    assert all(found.values()), "a promise without a test"
    far = [each for each, n in found.items() if abs(written[each] - n) > max(3, n / 10)]
    assert far == [], "run: python tests/count_cases.py --markdown docs/trust.md"


def test_every_file_that_is_named_exists() -> None:
    text = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/.]+)`", text)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
