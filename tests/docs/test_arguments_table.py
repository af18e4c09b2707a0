"""The table of arguments in docs/reference/rules.md has those of AdamW, and says rightly which of them are options."""

from __future__ import annotations

import inspect
import re

import fusedopt as fo
import pages
import pytest
from cases import RULES

TEXT = (pages.ROOT / "docs" / "reference" / "rules.md").read_text(encoding="utf-8")
TABLE = TEXT.partition("| for | arguments | read on |")[2].partition("\n\n")[0]
ROWS = [re.findall(r"`(\w+)`", row.split("|")[2]) for row in TABLE.splitlines()[2:]]
OF_THE_RULE, *OPTIONS = ROWS


def arguments_of(rule: str) -> list[str]:
    return [name for name in inspect.signature(getattr(fo, rule)).parameters if name != "self"]


def test_every_argument_is_there_once() -> None:
    assert sorted(name for row in ROWS for name in row) == sorted(arguments_of("AdamW"))


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_the_options(rule: str) -> None:
    options = {name for row in OPTIONS for name in row} - {"rowwise"}
    assert options - set(arguments_of(rule)) == set()


def test_the_exception_is_one() -> None:
    assert any("rowwise" not in arguments_of(rule) for rule in RULES)
    assert OF_THE_RULE[0] == "learning_rate"
