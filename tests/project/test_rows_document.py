"""The table of rules in docs/rows.md says what the library does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import RULES

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "rows.md"
ROWS = {
    name: [cell.strip() for cell in cells.split("|")]
    for name, cells in re.findall(
        r"^\| `(\w+)` \|(.*)\|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE
    )
}
ROUNDING = 1e-9


def test_every_rule_has_a_row() -> None:
    assert ROWS.keys() == RULES.keys()


def stepped(rule: str, kind: str, **arguments: Any) -> tuple[np.ndarray[Any, Any], list[Any]]:
    """A table and its slots after steps that touch row 0 twice and row 1 in between."""
    table = np.linspace(1.0, 2.0, 15).reshape(3, 5)
    row_updates: Any = "lazy" if kind == "dense" else kind
    optimizer = getattr(fo, rule)(weight_decay=0.1, row_updates=row_updates, **arguments)
    # Muon leaves a table to its Adam if it is excluded.
    if rule == "Muon":
        optimizer.exclude_layers = ["table"]
    optimizer.build({"table": table})
    values = np.linspace(-1.0, 1.0, 5)[None]
    for row in (0, 1, 1, 1, 0):
        gradient: Any = np.zeros((3, 5))
        gradient[row] = values
        if kind != "dense":
            gradient = fo.RowGradient(values, np.array([row]))
        optimizer.apply([gradient])
    optimizer.catch_up()
    slots = [np.array(one) for one in optimizer.variables if one.shape]
    return table, slots


def is_close(found: Any, expected: Any) -> bool:
    return bool(np.allclose(found, expected, rtol=ROUNDING, atol=0.0))


@pytest.mark.parametrize("rule", ROWS)
def test_lazy(rule: str) -> None:
    if ROWS[rule][0] == "no":
        with pytest.raises(ValueError, match="expected a dense one, as"):
            stepped(rule, "lazy")
    else:
        table, _ = stepped(rule, "lazy")
        # The last row has no gradient at all.
        np.testing.assert_array_equal(table[2], np.linspace(1.0, 2.0, 15)[10:])
        assert (table[:2] != np.linspace(1.0, 2.0, 15).reshape(3, 5)[:2]).any()


@pytest.mark.parametrize("rule", ROWS)
def test_caught_up(rule: str) -> None:
    said = ROWS[rule][1]
    if said == "no":
        with pytest.raises(ValueError, match="row_updates"):
            stepped(rule, "caught_up")
        return
    table, slots = stepped(rule, "caught_up")
    dense_table, dense_slots = stepped(rule, "dense")
    assert said in ("equal", "slots and decay", "its Adam only")
    for slot, expected in zip(slots, dense_slots, strict=True):
        assert is_close(slot, expected)
    # A row without any gradient decays only. Yogi's first moment does not begin at zero, so it moves the row.
    assert is_close(table[2], dense_table[2]) == (rule != "Yogi")
    assert is_close(table, dense_table) == (said == "equal")


@pytest.mark.parametrize("rule", ROWS)
def test_rowwise(rule: str) -> None:
    if ROWS[rule][2].startswith("yes"):
        _, slots = stepped(rule, "lazy", rowwise=True)
        assert (3,) in {slot.shape for slot in slots}
    else:
        with pytest.raises(ValueError, match="rowwise"):
            stepped(rule, "lazy", rowwise=True)
