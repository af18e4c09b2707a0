"""Gradients of rows where slots are kept in fewer bits: what a row does is its own, and rows share no block."""

from __future__ import annotations

from typing import Any

import fusedopt as fo
import numpy as np
import pytest

RULES: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9},
    "RMSprop": {"momentum": 0.9},
    "Adagrad": {},
    "Adam": {"amsgrad": True},
    "Adamax": {},
    "Nadam": {},
    "Yogi": {},
    "Lion": {},
}


def built(rule: str, dtype: Any, shape: tuple[int, int]) -> tuple[Any, Any]:
    table = np.linspace(1, 2, shape[0] * shape[1], dtype=np.float32).reshape(shape)
    named: Any = {"table": dtype}
    optimizer = getattr(fo, rule)(0.01, slot_dtypes=named, weight_decay=0.1, **RULES[rule])
    optimizer.build({"table": table})
    return optimizer, table


def slots(optimizer: Any) -> dict[str, Any]:
    return {name: a for name, a in optimizer.named_variables().items() if a.ndim == 2}


@pytest.mark.parametrize("columns", [64, 192, 1280])
@pytest.mark.parametrize("dtype", ["bfloat16", "float8"])
@pytest.mark.parametrize("rule", RULES)
def test_rows_without_a_gradient_stand_still(rule: str, dtype: str, columns: int) -> None:
    optimizer, table = built(rule, dtype, (6, columns))
    rng = np.random.default_rng(3)
    for rows in ([0, 2, 5, 2], [2], [5, 0], []):
        before, state = table.copy(), slots(optimizer)
        values = rng.normal(size=(len(rows), columns)).astype(np.float32)
        optimizer.apply({"table": fo.RowGradient(values, np.array(rows, np.int64))})
        still = sorted({0, 1, 2, 3, 4, 5} - set(rows))
        np.testing.assert_array_equal(table[still], before[still])
        for name, after in slots(optimizer).items():
            np.testing.assert_array_equal(after[still], state[name][still], err_msg=name)
            if rows:
                assert (after[rows] != state[name][rows]).any(), name
        if rows:
            assert (table[rows] != before[rows]).any(axis=1).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float8"])
@pytest.mark.parametrize("rule", RULES)
def test_all_rows_are_near_the_dense_step(rule: str, dtype: str) -> None:
    """What is drawn at random is another, so they are not equal."""
    optimizer, table = built(rule, dtype, (6, 128))
    dense, other = built(rule, dtype, (6, 128))
    rng = np.random.default_rng(3)
    for _ in range(3):
        values = rng.normal(size=(6, 128)).astype(np.float32)
        optimizer.apply({"table": fo.RowGradient(values, np.arange(6))})
        dense.apply({"table": values})
    np.testing.assert_allclose(table, other, atol=0.02)
    for name, array in slots(optimizer).items():
        expected = slots(dense)[name]
        np.testing.assert_allclose(
            array, expected, rtol=0.6, atol=0.1 * np.abs(expected).max(), err_msg=name
        )


@pytest.mark.parametrize("columns", [1, 63, 65, 100])
@pytest.mark.parametrize("rule", RULES)
def test_rows_that_share_blocks_are_refused(rule: str, columns: int) -> None:
    optimizer, table = built(rule, "float8", (100, columns))
    before = table.tobytes()
    state = {name: array.tobytes() for name, array in optimizer._core.state()}
    gradient = fo.RowGradient(np.ones((1, columns), np.float32), np.array([1]))
    with pytest.raises(ValueError, match="'table'") as caught:
        optimizer.apply({"table": gradient})
    for part in ("64", str(columns), "slot_dtypes={'table': 'bfloat16'}"):
        assert part in str(caught.value)
    assert table.tobytes() == before
    assert {name: array.tobytes() for name, array in optimizer._core.state()} == state
    optimizer.apply({"table": np.ones_like(table)})
    other, table = built(rule, "bfloat16", (100, columns))
    other.apply({"table": gradient})
