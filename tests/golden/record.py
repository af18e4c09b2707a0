"""Plays every run of `problem.py` with the real Keras and writes what came out beside this file.

    python tests/golden/record.py
    python tests/golden/record.py --rules Adam SGD

Needs keras, tensorflow and numpy, not fusedopt. Only TensorFlow keeps float64 in float64 under
Keras, so float32 comes from the NumPy backend and float64 from TensorFlow, a process each.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("KERAS_BACKEND", "numpy")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
from cases import KERAS_RULES
from golden import problem
from golden.problem import Array, Recording, Run

BACKENDS = {"float32": "numpy", "float64": "tensorflow"}


def _keep_python_floats() -> None:
    """tf.cast takes a Python float for a float32: a beta would lose half of its digits."""
    import tensorflow

    cast = tensorflow.cast
    tensorflow.cast = lambda x, *args, **kwargs: cast(
        np.float64(x) if isinstance(x, float) else x, *args, **kwargs
    )


class Decay(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step: Any) -> np.float64:
        return np.float64(problem.decayed_rate(int(step)))


def _parameters(optimizer_class: Any) -> list[inspect.Parameter]:
    return [
        parameter
        for parameter in inspect.signature(optimizer_class.__init__).parameters.values()
        if parameter.name != "self" and parameter.kind is not parameter.VAR_KEYWORD
    ]


def _create(run: Run, clock: problem.Clock) -> Any:
    rates = {"number": problem.LEARNING_RATE, "schedule": Decay(), "callable": clock}
    arguments = {"learning_rate": rates[run.rate], **run.arguments}
    optimizer = getattr(keras.optimizers, run.rule)(**arguments)
    if run.planted is None:
        return optimizer
    return keras.optimizers.LossScaleOptimizer(
        optimizer,
        initial_scale=problem.INITIAL_SCALE,
        dynamic_growth_steps=problem.GROWTH_STEPS,
    )


def _variables(dtype: str) -> list[Any]:
    return [
        keras.Variable(value, dtype=dtype, name=name)
        for name, value in zip(problem.SHAPES, problem.weights(dtype), strict=True)
    ]


def _layout(optimizer: Any) -> list[tuple[str, list[int], str]]:
    # An unnamed variable is numbered by how many there were before it in this process.
    return [
        (re.sub(r"^variable_\d+$", "variable", v.path.split("/")[-1]), list(v.shape), str(v.dtype))
        for v in optimizer.variables
    ]


def _flat(arrays: list[Any], dtype: str) -> Array:
    return np.concatenate([np.ravel(np.asarray(array)).astype(dtype) for array in arrays])


def _play(run: Run, dtype: str) -> Recording:
    clock = problem.Clock()
    optimizer, variables = _create(run, clock), _variables(dtype)
    if run.excluded or run.excluded_names:
        optimizer.exclude_from_weight_decay(
            var_list=[variables[i] for i in run.excluded], var_names=list(run.excluded_names)
        )
    optimizer.build(variables)
    weights, state, scales = [], [], []
    for step in range(1, problem.STEPS + 1):
        clock.step = step
        pairs = problem.pairs(run, step, float(optimizer.scale_loss(1.0)), dtype)
        optimizer.apply(
            [None if g is None else keras.ops.convert_to_tensor(g) for _, g in pairs],
            [variables[i] for i, _ in pairs],
        )
        if run.finalize and step == problem.STEPS:
            optimizer.finalize_variable_values(variables)
        if run.planted is not None:
            scales.append((float(optimizer.dynamic_scale), int(optimizer.step_counter)))
        if step in problem.RECORDED:
            weights.append(_flat([v.numpy() for v in variables], dtype))
        if step in (problem.HANDOVER, problem.STEPS):
            store: dict[str, Any] = {}
            optimizer.save_own_variables(store)
            state.append(_flat(list(store.values()), dtype))
    return Recording(
        run.description(), _layout(optimizer), np.stack(weights), np.stack(state), scales
    )


def _versions(dtype: str) -> dict[str, str]:
    versions = {
        "keras": keras.__version__,
        "numpy": np.__version__,
        "backend": keras.backend.backend(),
    }
    if dtype == "float64":
        import tensorflow

        versions["tensorflow"] = tensorflow.__version__
    return versions


def _signature(name: str) -> dict[str, Any]:
    keras.utils.clear_session()
    optimizer_class = getattr(keras.optimizers, name)
    wraps = name == "LossScaleOptimizer"
    optimizer = optimizer_class(keras.optimizers.Adam()) if wraps else optimizer_class()
    config = optimizer.get_config()
    optimizer.build(_variables("float32"))
    return {
        "arguments": {
            p.name: problem.REQUIRED if p.default is p.empty else p.default
            for p in _parameters(optimizer_class)
        },
        "config": config,
        "variables": _layout(optimizer),
    }


def _record(dtype: str, rules: list[str]) -> None:
    keras.config.set_floatx(dtype)
    warnings.filterwarnings("ignore", message="Gradients do not exist")
    if dtype == "float64":
        _keep_python_floats()
    else:
        signatures = {name: _signature(name) for name in [*KERAS_RULES, "LossScaleOptimizer"]}
        text = json.dumps({"versions": _versions(dtype), "signatures": signatures}, indent=1)
        (problem.FOLDER / "signatures.json").write_text(text + "\n")
    for rule in rules:
        if dtype not in problem.dtypes(rule):
            continue
        recordings = [_play(run, dtype) for run in problem.runs(rule)]
        problem.save(rule, dtype, _versions(dtype), recordings)
        print(f"{problem.file_of(rule, dtype).name}: {len(recordings)} runs", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Record what Keras computes.")
    parser.add_argument("dtype", nargs="?", choices=BACKENDS, help="default: each in turn")
    parser.add_argument(
        "--rules", nargs="+", choices=KERAS_RULES, default=KERAS_RULES, metavar="RULE"
    )
    arguments = parser.parse_args()
    dtype, rules = arguments.dtype, arguments.rules
    if dtype and keras.backend.backend() == BACKENDS[dtype]:
        _record(dtype, rules)
        return
    for each in [dtype] if dtype else BACKENDS:
        environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, "KERAS_BACKEND": BACKENDS[each]}
        command = [sys.executable, __file__, each, "--rules", *rules]
        subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()
