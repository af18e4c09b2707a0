"""fusedopt against recordings of optax, for the rules that Keras lacks and that have optax's numbers.

The recordings are in `golden/optax.json`; `golden/README.md` tells how they were made.
"""

from __future__ import annotations

import json
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from fusedopt import _core
from golden import problem

RECORDED = json.loads((problem.FOLDER / "optax.json").read_text(encoding="utf-8"))
RUNS = problem.optax_runs()


def recording(run: problem.Run, dtype: str) -> dict[str, Any]:
    assert RECORDED["inputs"] == problem.fingerprint()
    found: list[dict[str, Any]] = [
        one
        for one in RECORDED["recordings"][dtype]
        if json.dumps(one["description"]) == json.dumps(run.description())
    ]
    assert len(found) == 1, (
        f"no recording of {run.label}; record it: python tests/golden/record_optax.py"
    )
    return found[0]


def flat(arrays: list[problem.Array]) -> problem.Array:
    return np.concatenate([np.ravel(array) for array in arrays])


def compare(found: list[problem.Array], expected: list[float], tolerance: float) -> None:
    """Where one is finite. An infinite m turns NaN in the next step, as it is m + (g - m)(1 - beta_1) here."""
    mine, other = flat(found), np.array(expected)
    finite = np.isfinite(other)
    assert (np.isfinite(mine) == finite).all()
    np.testing.assert_allclose(mine[finite], other[finite], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.label)
def test_run_is_that_of_optax(run: problem.Run, dtype: str) -> None:
    expected = recording(run, dtype)
    weights = problem.weights(dtype)
    optimizer = getattr(fo, run.rule)(problem.LEARNING_RATE, **run.arguments)
    optimizer.build(weights)
    # optax takes beta_2^t in the gradient's dtype, and float32 has 1 - 0.999 to 6e-5. The root halves that, and an
    # update is about a rate long.
    of_beta = 6e-5 if dtype == "float32" else 0.0
    for step in range(1, problem.STEPS + 1):
        optimizer.apply([g for _, g in problem.pairs(run, step, 1.0, dtype)])
        rounding = float(np.finfo(dtype).eps) * (step + 2)
        if step in problem.RECORDED:
            tolerance = rounding + of_beta / 2 * problem.LEARNING_RATE * step
            compare(weights, expected["weights"][str(step)], tolerance)
    named = optimizer.named_variables()
    for slot in ("momentum", "velocity"):
        arrays = [array for name, array in named.items() if name.startswith(slot)]
        compare(arrays, expected[slot], rounding + of_beta)
    if run.planted is not None:
        assert np.isnan(flat(weights)).sum() == len(
            problem.SHAPES
        )  # one per variable, and no other


@pytest.mark.parametrize("level", fo.show_config()["levels_supported"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_second_moment_of_yogi_at_rest(dtype: str, level: str) -> None:
    """sign(0) is 0: where v is g^2 it stays, above it falls, below it rises."""
    before = _core.level()
    _core.set_level(level)
    try:
        w = np.ones(70, dtype)
        optimizer = fo.Yogi(initial_accumulator_value=0.25, beta_2=0.5)
        optimizer.build([w])
        optimizer.apply([np.array([0.5, -0.5, 0.25, 0.0, 1.0] * 14, dtype)])
        (v,) = [array for name, array in optimizer.named_variables().items() if "velocity" in name]
        assert v.tolist() == [0.25, 0.25, 0.25 - 0.03125, 0.25, 0.75] * 14
    finally:
        _core.set_level(before)
