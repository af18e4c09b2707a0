"""Adam's loop over codes of 8 bits takes common pieces only, and no other one may come into it."""

from __future__ import annotations

from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from fusedopt import _core
from low_bit import assert_equal, spread_out
from machine import LEVELS
from reference import Array, Reference

pytestmark = pytest.mark.usefixtures("restore_runtime")
SIZE = 64 * 8 * 5
"""Five pieces of eight blocks."""


def check(gradients: list[Array], **arguments: Any) -> None:
    """Compare everything after each step, on every level."""
    arguments |= {"learning_rate": 0.01, "slot_dtypes": {"v0": "float8"}, "seed": 3}
    for rule in ("Adam", "AdamW"):
        for level in LEVELS:
            _core.set_level(level)
            w = np.linspace(-1, 1, SIZE, dtype=np.float32)
            reference = Reference(rule, **arguments)
            reference.build([w.copy()], names=["v0"])
            optimizer = getattr(fo, rule)(**arguments)
            optimizer.build({"v0": w})
            for gradient in gradients:
                with np.errstate(all="ignore"):
                    reference.apply([gradient])
                optimizer.apply([gradient])
                assert_equal(optimizer, [w], reference)


def mild(step: int) -> Array:
    return np.random.default_rng(step).standard_normal(SIZE).astype(np.float32)


@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan, 3e20, 1e38, 1e-30])
@pytest.mark.parametrize("places", [[70], [5, 700, 1800], slice(None, None, 64)])
def test_special_numbers_stay_where_they_are(number: float, places: Any) -> None:
    """The square of 3e20 is infinite, so that one slot has a special code and the other has none."""
    gradients = [mild(step) for step in range(6)]
    gradients[1][places] = number
    check(gradients)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.0), (0.0, 0.0), (0.5, 0.25)])
def test_blocks_that_are_fine_in_one_slot_alone(betas: tuple[float, float]) -> None:
    """With a beta_2 of zero no guard watches the slots, and then the signed one is never fine."""
    own = dict(zip(("beta_1", "beta_2"), betas, strict=True))
    factor = np.random.default_rng(0).choice([1e-3, 1.0, 30.0], SIZE // 64).repeat(64)
    check([(np.sign(mild(step)) * factor).astype(np.float32) for step in range(6)], **own)
    check([spread_out((SIZE,), [step]).astype(np.float32) for step in range(6)], **own)
