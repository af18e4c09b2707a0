"""Every schedule with its arguments, and the recordings of the real Keras.

`golden/record_schedules.py` made the recordings.
"""

from __future__ import annotations

import inspect
import itertools
import json
from pathlib import Path
from typing import Any

import fusedopt as fo

RECORDING = json.loads((Path(__file__).parent / "golden" / "schedules.json").read_text())
STEPS: list[int] = RECORDING["steps"]
CLASSES = [
    name
    for name in fo.schedules.__all__
    if inspect.isclass(getattr(fo.schedules, name)) and name != "LearningRateSchedule"
]


def make(name: str, /, **arguments: Any) -> Any:
    return getattr(fo.schedules, name)(**arguments)


# Every combination of these; all numbers of steps are exact in binary.
ARGUMENTS: dict[str, dict[str, list[Any]]] = {
    "ExponentialDecay": {
        "initial_learning_rate": [0.1, 0.0, 1],
        "decay_steps": [1, 7, 50, 2.5],
        "decay_rate": [0.96, 0.5, 1, 0.0, 1.0001],
        "staircase": [False, True],
    },
    "InverseTimeDecay": {
        "initial_learning_rate": [0.1, 0.0, 1],
        "decay_steps": [1, 7, 50, 2.5],
        "decay_rate": [0.96, 0.5, 0.0, 3],
        "staircase": [False, True],
    },
    "PolynomialDecay": {
        "initial_learning_rate": [0.1, 1],
        "decay_steps": [1, 7, 50, 2.5],
        "end_learning_rate": [0.0001, 0.0, 0.25],
        "power": [1.0, 2, 0.5, 0.0],
        "cycle": [False, True],
    },
    "CosineDecay": {
        "initial_learning_rate": [0.1, 0, 0.7],
        "decay_steps": [1, 7, 50, 2.5],
        "alpha": [0.0, 0.25, 1.0],
        "warmup_target": [None, 0.5, 0.0],
        "warmup_steps": [0, 3, 40, 0.5],
    },
    "CosineDecayRestarts": {
        "initial_learning_rate": [0.1, 1],
        "first_decay_steps": [1, 7, 50, 2.5],
        "t_mul": [2.0, 1.0, 1.5, 3, 1.1, 0.5],
        "m_mul": [1.0, 0.9, 1.0001],
        "alpha": [0.0, 0.25],
    },
    "PiecewiseConstantDecay": {
        "boundaries": [[3, 7]],
        "values": [[0.3, 0.2, 0.1], [0, 1, 0]],
    },
}


def combinations(name: str) -> list[dict[str, Any]]:
    table = ARGUMENTS[name]
    return [dict(zip(table, values, strict=True)) for values in itertools.product(*table.values())]


GOOD: dict[str, dict[str, Any]] = {
    "ExponentialDecay": {"initial_learning_rate": 0.1, "decay_steps": 10, "decay_rate": 0.5},
    "InverseTimeDecay": {"initial_learning_rate": 0.1, "decay_steps": 10, "decay_rate": 0.5},
    "PolynomialDecay": {"initial_learning_rate": 0.1, "decay_steps": 10},
    "PiecewiseConstantDecay": {"boundaries": [3, 7], "values": [0.3, 0.2, 0.1]},
    "CosineDecay": {"initial_learning_rate": 0.1, "decay_steps": 10},
    "CosineDecayRestarts": {"initial_learning_rate": 0.1, "first_decay_steps": 10},
}
