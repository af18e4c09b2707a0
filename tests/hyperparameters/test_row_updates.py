"""The option `row_updates`: what refuses rows that catch up, other words, and when it acts."""

from __future__ import annotations

import json
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import LAZY_ONLY


@pytest.mark.parametrize("rule", sorted(LAZY_ONLY))
def test_rules_that_cannot_catch_up(rule: str) -> None:
    with pytest.raises(ValueError, match="row_updates"):
        getattr(fo, rule)(row_updates="caught_up")
    optimizer = getattr(fo, rule)()
    with pytest.raises(ValueError, match="row_updates"):
        optimizer.row_updates = "caught_up"
    assert optimizer.row_updates == "lazy"


@pytest.mark.parametrize("value", ["", "dense", "all", "0"])
def test_words_that_are_near_no_value(value: Any) -> None:
    with pytest.raises(ValueError, match="row_updates") as caught:
        fo.Adam(row_updates=value)
    assert str(caught.value) == f"row_updates: expected 'lazy' or 'caught_up', found {value!r}"


def test_text_of_another_class() -> None:
    optimizer = fo.Adam(row_updates=np.str_("caught_up"))  # type: ignore[arg-type]
    assert type(optimizer.row_updates) is str
    json.dumps(optimizer.get_config())


def test_averages_refuse_it() -> None:
    with pytest.raises(ValueError, match=r"row_updates.*use_ema|use_ema.*row_updates"):
        fo.Adam(row_updates="caught_up", use_ema=True)
    optimizer = fo.Adam(use_ema=True)
    with pytest.raises(ValueError, match=r"row_updates.*use_ema|use_ema.*row_updates"):
        optimizer.row_updates = "caught_up"
    assert optimizer.row_updates == "lazy"
    fo.Adam(row_updates="lazy", use_ema=True)


def test_assigned_before_build_acts() -> None:
    table = np.zeros((2, 1))
    optimizer = fo.SGD(1.0, momentum=0.5)
    optimizer.row_updates = "caught_up"
    optimizer.build([table])
    for row in (0, 1):
        optimizer.apply([fo.RowGradient(np.ones((1, 1)), np.array([row]))])
    optimizer.catch_up()
    assert table.T.tolist() == [[-1.5, -1.0]]
