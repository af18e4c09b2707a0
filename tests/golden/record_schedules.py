"""Evaluates the schedules of the real Keras and writes `schedules.json` beside this file.

    python tests/golden/record_schedules.py

Needs keras, tensorflow and numpy, not fusedopt. Keras computes a schedule in the dtype of its first
argument, and only TensorFlow keeps float64 there: so float32, which is what users of Keras see, comes
from the NumPy backend, float64 from TensorFlow with arguments of that dtype, a process each.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

BACKENDS = {"float32": "numpy", "float64": "tensorflow"}
FILE = Path(__file__).with_name("schedules.json")
REQUIRED = "required"

STEPS = [
    *range(21),
    *(24, 25, 26, 33, 49, 50, 51, 62, 75, 99, 100, 101, 102, 125, 149, 150, 151, 200, 255),
    *(300, 350, 500, 999, 1000, 1001, 12345, 100_000, 1_000_000),
]

# None of STEPS is where CosineDecayRestarts restarts with t_mul other than 1: there Keras rounds to either side.
CASES: list[tuple[str, dict[str, Any]]] = [
    *(
        (name, {"initial_learning_rate": 0.1, "decay_steps": n, "decay_rate": rate, **staircase})
        for name in ("ExponentialDecay", "InverseTimeDecay")
        for n, rate in ((50, 0.96), (2.5, 0.999), (100, 1.5))
        for staircase in ({}, {"staircase": True})
        if (name, rate) != ("ExponentialDecay", 1.5)  # beyond float32
    ),
    *(
        ("PolynomialDecay", {"initial_learning_rate": 0.1, "decay_steps": n, **options})
        for n in (50, 333)
        for options in (
            {},
            {"end_learning_rate": 0.01, "power": 0.5},
            {"end_learning_rate": 0.2, "power": 3.0},
            {"end_learning_rate": 0.01, "power": 2.0, "cycle": True},
        )
    ),
    ("PiecewiseConstantDecay", {"boundaries": [0], "values": [0.3, 0.1]}),
    ("PiecewiseConstantDecay", {"boundaries": [5, 100, 1000], "values": [0.1, 0.05, 0.2, 0.0]}),
    *(
        ("CosineDecay", {"initial_learning_rate": 0.1, "decay_steps": 100, **alpha, **warmup})
        for alpha in ({}, {"alpha": 0.25})
        for warmup in (
            {},
            {"warmup_steps": 50},
            {"warmup_target": 0.5},
            {"warmup_target": 0.5, "warmup_steps": 50},
            {"warmup_target": 0.05, "warmup_steps": 3},
        )
    ),
    (
        "CosineDecay",
        {"initial_learning_rate": 0.0, "decay_steps": 7, "warmup_target": 0.3, "warmup_steps": 9},
    ),
    *(
        (
            "CosineDecayRestarts",
            {"initial_learning_rate": 0.1, "first_decay_steps": first, **options},
        )
        for first, options in (
            (9, {}),
            (9, {"m_mul": 0.9}),
            (9, {"m_mul": 1.1, "alpha": 0.1}),
            (8, {"t_mul": 1.5}),
            (8, {"t_mul": 1.5, "m_mul": 0.8, "alpha": 0.25}),
            (25, {"t_mul": 1.0}),
            (25, {"t_mul": 1.0, "m_mul": 0.99, "alpha": 0.1}),
            (100_000, {"t_mul": 1.0, "m_mul": 1.5}),
            (600_000, {"t_mul": 0.5}),
            (600_000, {"t_mul": 0.5, "m_mul": 0.9, "alpha": 0.25}),
        )
    ),
]


def _of_float64(value: Any) -> Any:
    import numpy as np

    if isinstance(value, list):
        return [_of_float64(element) for element in value]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return np.float64(value) if is_number else value


def _signature(schedule_class: Any) -> dict[str, Any]:
    return {
        p.name: REQUIRED if p.default is p.empty else p.default
        for p in inspect.signature(schedule_class).parameters.values()
    }


def _record(dtype: str) -> None:
    """Print what one backend gives as JSON."""
    import keras
    import numpy as np

    schedules = keras.optimizers.schedules
    versions = {
        "keras": keras.__version__,
        "numpy": np.__version__,
        "backend": keras.backend.backend(),
    }
    outcome: dict[str, Any] = {"versions": versions, "values": []}
    if dtype == "float64":
        import tensorflow

        versions["tensorflow"] = tensorflow.__version__
    signatures = {name: _signature(getattr(schedules, name)) for name in dict(CASES)}
    for name, arguments in CASES:
        given = arguments
        if dtype == "float64":
            given = {k: _of_float64(v) for k, v in {**signatures[name], **arguments}.items()}
        schedule = getattr(schedules, name)(**given)
        values = [np.asarray(schedule(step)) for step in STEPS]
        assert {str(value.dtype) for value in values} == {dtype}, (name, arguments)
        outcome["values"].append([float(value) for value in values])
    if dtype == "float32":
        outcome["signatures"] = signatures
        outcome["serialized"] = [
            schedules.serialize(getattr(schedules, name)(**arguments)) for name, arguments in CASES
        ]
    print(json.dumps(outcome))


def _text(head: dict[str, Any], cases: list[Any]) -> str:
    """Write JSON with a line for each case."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    lines.append('"cases": [\n' + ",\n".join(json.dumps(case) for case in cases) + "\n]")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    if sys.argv[1:]:
        _record(sys.argv[1])
        return
    outcomes = {}
    for dtype, backend in BACKENDS.items():
        environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, "KERAS_BACKEND": backend}
        run = subprocess.run(
            [sys.executable, __file__, dtype], env=environment, check=True, stdout=subprocess.PIPE
        )
        outcomes[dtype] = json.loads(run.stdout)
    plain = outcomes["float32"]
    head = {
        "versions": {dtype: outcome["versions"] for dtype, outcome in outcomes.items()},
        "signatures": plain["signatures"],
        "steps": STEPS,
    }
    cases = [
        {
            "class": name,
            "arguments": arguments,
            "serialized": plain["serialized"][i],
            **{dtype: outcome["values"][i] for dtype, outcome in outcomes.items()},
        }
        for i, (name, arguments) in enumerate(CASES)
    ]
    FILE.write_text(_text(head, cases))
    print(f"{FILE.name}: {len(CASES)} schedules")


if __name__ == "__main__":
    main()
