"""Tables, gradients of their rows, and the check that an optimizer has every bit of its reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import fusedopt as fo
import numpy as np
import numpy.typing as npt
import pytest
import reference
from reference import Array, Reference
from sample_arrays import same_bits

TAKING_ROWS = [rule for rule in reference.RULES if rule not in reference.NO_ROWS]
"""The rules that take gradients of rows, Muon's for what is no matrix."""

every_optimizer = pytest.mark.parametrize(
    "make",
    [
        fo.Adam,
        lambda: fo.MultiOptimizer(fo.OptimizerMap(fo.SGD(), {"table": fo.Adam()})),
        lambda: fo.LossScaleOptimizer(fo.Adam(), initial_scale=1.0),
    ],
    ids=["adam", "multi", "loss_scale"],
)
"""Alone and in wrappers, for a variable named `table`."""

Pick = Callable[[np.random.Generator, int], Array]
PICKS: dict[str, Pick] = {
    "ascending": lambda rng, n: np.flatnonzero(rng.integers(0, 2, n)),
    "duplicates": lambda rng, n: rng.integers(0, n, 2 * n if n else 0),
    "all": lambda rng, n: rng.permutation(n),
    "none": lambda rng, n: np.empty(0, np.int64),
    "one": lambda rng, n: np.full(5 if n else 0, n - 1),
    "few": lambda rng, n: rng.integers(0, n, min(3, n)),
}
"""Ways to choose among n rows."""


def row_gradient(
    rng: np.random.Generator,
    shape: Sequence[int],
    pick: str,
    dtype: npt.DTypeLike = np.float64,
    index_dtype: npt.DTypeLike = np.int64,
    factor: float = 1.0,
) -> fo.RowGradient:
    """A gradient that nobody may write."""
    indices = PICKS[pick](rng, shape[0]).astype(index_dtype)
    with np.errstate(over="ignore"):  # a large factor makes float16 infinite
        values = (rng.standard_normal((len(indices), *shape[1:])) * factor).astype(dtype)
    indices.flags.writeable = values.flags.writeable = False
    return fo.RowGradient(values, indices)


def strided(gradient: fo.RowGradient) -> fo.RowGradient:
    """The same numbers with gaps, the values in another order of dimensions."""
    values = np.moveaxis(gradient.values, 0, -1).repeat(2, axis=-1)
    return fo.RowGradient(np.moveaxis(values[..., ::2], -1, 0), gradient.indices.repeat(3)[::3])


def dense(gradient: fo.RowGradient, shape: Sequence[int]) -> Array:
    """What a gradient of rows stands for."""
    whole = np.zeros(shape, gradient.values.dtype)
    np.add.at(whole, gradient.indices, gradient.values)
    return whole


def assert_same(optimizer: Any, variables: Sequence[Array], expected: Reference) -> None:
    for i, (mine, its) in enumerate(zip(variables, expected.stored(), strict=True)):
        assert same_bits(mine, its), f"variable {i}"
    state, its_state = optimizer.variables, expected.variables()
    assert len(state) == len(its_state)
    for i, (mine, its) in enumerate(zip(state, its_state, strict=True)):
        assert same_bits(mine, its), f"optimizer variable {i}"
    # What lists the state catches up all rows.
    for i, (mine, its) in enumerate(zip(variables, expected.stored(), strict=True)):
        assert same_bits(mine, its), f"variable {i}, caught up"
    assert optimizer.global_norm == expected.global_norm
