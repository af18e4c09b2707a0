"""The mixed pipeline: float16 gradients, overflow check, unscaling, clipping by the global norm, AdamW and an average.

fusedopt does it in one step. Each other library does the same work with its own parts, from the same gradients.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import fusedopt as fo
import numpy as np
from fusedopt.bench import keras, pytorch
from fusedopt.bench.peer_settings import settings_of
from fusedopt.bench.workload import Array, Ready, Step, Workload, noise_of

# Of a size that float16 holds, and that is still far above epsilon when divided by the loss scale.
SCALED_GRADIENT = np.float32(2**12)

# How a loss scale begins and changes, here and in all libraries.
_scaling = fo.LossScaleOptimizer(fo.SGD())
INITIAL_SCALE, GROWTH_STEPS = _scaling.initial_scale, _scaling.dynamic_growth_steps
GROWTH, BACKOFF = 2.0, 0.5


class MixedWorkload(Workload):
    """float16 gradients of a scaled loss, checked for overflow."""

    gradient_bytes = 2
    reads_gradients_first = True

    def optimizer(self) -> fo.Optimizer:
        return fo.LossScaleOptimizer(self.rule_optimizer())

    def gradients(self) -> list[Array]:
        return self.gradients_of((noise_of(seed=2) * SCALED_GRADIENT).astype(np.float16))


def in_pytorch(
    make: Callable[[Workload, list[Array]], Any],
) -> Callable[[Workload, list[Array], list[Array]], Ready]:
    """PyTorch's pipeline around an optimizer that `make` makes."""

    def prepare(workload: Workload, variables: list[Array], gradients: list[Array]) -> Ready:
        optimizer = make(workload, variables)
        step = _pytorch_step(optimizer, gradients, settings_of(workload))
        return Ready(step, variables, partial(pytorch.slots_of, optimizer))

    return prepare


def _pytorch_step(optimizer: Any, gradients: list[Array], settings: dict[str, Any]) -> Step:
    """Make the step that PyTorch's documentation puts together from its parts."""
    torch: Any = importlib.import_module("torch")
    parameters = optimizer.param_groups[0]["params"]
    scaled = [torch.from_numpy(g) for g in gradients]
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    scaler = torch.amp.GradScaler(
        "cpu", INITIAL_SCALE, GROWTH, BACKOFF, growth_interval=GROWTH_STEPS
    )
    scaler.scale(torch.zeros(()))
    averages = [parameter.detach().clone() for parameter in parameters]

    def step() -> None:
        for parameter, g in zip(parameters, scaled, strict=True):
            parameter.grad.copy_(g)
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, settings["global_clipnorm"])
        scaler.step(optimizer)
        scaler.update()
        with torch.no_grad():
            torch._foreach_lerp_(averages, parameters, 1 - settings["ema_momentum"])

    return step


def in_keras(workload: Workload, variables: list[Array], gradients: list[Array]) -> Ready:
    """Keras's own loss scaling around its optimizer."""
    of_keras: Any = importlib.import_module("keras.optimizers")
    optimizer = of_keras.LossScaleOptimizer(keras.optimizer_of(workload))
    return keras.ready(optimizer, variables, gradients)
