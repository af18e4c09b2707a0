"""Plays runs of `problem.py` with optax, for the rules that have its numbers, and writes `optax.json` beside this file.

    pip install optax==0.2.8
    python tests/golden/record_optax.py

Needs optax and numpy, not fusedopt.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import optax
from golden import problem

FILE = problem.FOLDER / "optax.json"
NAMES = {"beta_1": "b1", "beta_2": "b2", "epsilon": "eps"}


def _play(run: problem.Run, dtype: str) -> dict[str, Any]:
    scale_by = getattr(optax, f"scale_by_{run.rule.lower()}")
    arguments = {NAMES.get(name, name): value for name, value in run.arguments.items()}
    transformation = optax.chain(
        scale_by(**arguments), optax.scale_by_learning_rate(problem.LEARNING_RATE)
    )
    weights: Any = [jax.numpy.asarray(w) for w in problem.weights(dtype)]
    state = transformation.init(weights)
    recorded = {}
    for step in range(1, problem.STEPS + 1):
        gradients = [jax.numpy.asarray(g) for _, g in problem.pairs(run, step, 1.0, dtype)]
        updates, state = transformation.update(gradients, state, weights)
        weights = optax.apply_updates(weights, updates)
        assert all(w.dtype == dtype for w in weights)
        if step in problem.RECORDED:
            recorded[step] = _flat(weights)
    return {
        "description": run.description(),
        "weights": recorded,
        "momentum": _flat(state[0].mu),
        "velocity": _flat(state[0].nu),
    }


def _flat(arrays: list[Any]) -> list[float]:
    numbers: list[float] = np.concatenate([np.ravel(x) for x in arrays]).astype(float).tolist()
    return numbers


def main() -> None:
    recordings: dict[str, Any] = {}
    for dtype in ("float32", "float64"):
        jax.config.update("jax_enable_x64", dtype == "float64")
        recordings[dtype] = [_play(run, dtype) for run in problem.optax_runs()]
    about = {
        "versions": {name: sys.modules[name].__version__ for name in ("optax", "jax", "numpy")},
        "inputs": problem.fingerprint(),
        "recordings": recordings,
    }
    FILE.write_text(json.dumps(about) + "\n")
    print(f"{FILE.name}: {[len(each) for each in recordings.values()]} runs")


if __name__ == "__main__":
    main()
