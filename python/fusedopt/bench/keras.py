"""Keras's optimizers on the same numbers, in variables of its own. It is imported only when it is asked for."""

from __future__ import annotations

import importlib
from typing import Any

from fusedopt.bench.peer_settings import made
from fusedopt.bench.workload import Absent, Array, Ready, Workload


def in_keras(workload: Workload, variables: list[Array], gradients: list[Array]) -> Ready:
    """Keras, on the backend that `environment` chose."""
    return ready(optimizer_of(workload), variables, gradients)


def optimizer_of(workload: Workload) -> Any:
    """Make Keras's optimizer, or raise Absent."""
    keras: Any = importlib.import_module("keras")
    rule_class = getattr(keras.optimizers, workload.rule, None)
    if rule_class is None:
        raise Absent("no such rule")
    return made(rule_class, workload.arguments)


def ready(optimizer: Any, variables: list[Array], gradients: list[Array]) -> Ready:
    """Let one of Keras's optimizers take the step."""
    keras: Any = importlib.import_module("keras")
    own = [keras.Variable(w) for w in variables]
    tensors = [keras.ops.convert_to_tensor(g) for g in gradients]
    optimizer.build(own)

    def step() -> None:
        optimizer.apply(tensors, own)

    return Ready(step, own, list)
