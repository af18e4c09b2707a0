"""Other libraries' optimizers on the same arrays, with the hyperparameters of fusedopt's own.

Each function makes a step from a workload, or raises Absent. A library is imported only when it is
asked for.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import fusedopt as fo
from fusedopt.bench.workload import Absent, Array, Ready, Step, Workload, optimizer_of

# Keras's names of arguments, and PyTorch's for the same.
_TORCH_NAMES = [
    ("learning_rate", "lr"),
    ("rho", "alpha"),
    ("rho", "rho"),
    ("epsilon", "eps"),
    ("momentum", "momentum"),
    ("nesterov", "nesterov"),
    ("centered", "centered"),
    ("amsgrad", "amsgrad"),
    ("weight_decay", "weight_decay"),
    ("initial_accumulator_value", "initial_accumulator_value"),
]


def torch_fused(workload: Workload, variables: list[Array], gradients: list[Array]) -> Ready:
    """PyTorch's one sweep, where it has one for the rule."""
    return _torch(workload, variables, gradients, {"fused": True})


def torch_foreach(workload: Workload, variables: list[Array], gradients: list[Array]) -> Ready:
    """PyTorch's operations on lists of tensors."""
    return _torch(workload, variables, gradients, {"foreach": True})


def _torch(
    workload: Workload, variables: list[Array], gradients: list[Array], form: dict[str, bool]
) -> Ready:
    torch: Any = importlib.import_module("torch")

    parameters = [torch.from_numpy(w).requires_grad_() for w in variables]
    settings = _settings(workload)
    optimizer = _torch_optimizer(torch, workload.rule, parameters, settings, form)

    def slots() -> list[Array]:
        states = [value for state in optimizer.state.values() for value in state.values()]
        return [state.numpy() for state in states if torch.is_tensor(state) and state.ndim]

    if workload.is_mixed:
        step = _torch_mixed_step(torch, optimizer, parameters, gradients, settings)
        return Ready(step, variables, slots)
    options = ("clipnorm", "clipvalue", "global_clipnorm", "use_ema", "loss_scale_factor")
    if any(settings[option] for option in options):
        raise Absent("no such option inside the step")
    for parameter, g in zip(parameters, gradients, strict=True):
        parameter.grad = torch.from_numpy(g)
    return Ready(optimizer.step, variables, slots)


def _torch_optimizer(
    torch: Any, rule: str, parameters: list[Any], settings: dict[str, Any], form: dict[str, bool]
) -> Any:
    found = [name for name in dir(torch.optim) if name.lower() == rule.lower()]
    if not found:
        raise Absent("no such rule")
    rule_class = getattr(torch.optim, found[0])
    accepted = inspect.signature(rule_class).parameters
    if not form.keys() <= accepted.keys():
        raise Absent(f"not {' or '.join(form)}")
    arguments = {
        theirs: settings[ours]
        for ours, theirs in _TORCH_NAMES
        if ours in settings and theirs in accepted
    }
    arguments["weight_decay"] = settings["weight_decay"] or 0.0
    if "betas" in accepted:
        arguments["betas"] = (settings["beta_1"], settings["beta_2"])
    if "momentum_decay" in accepted:
        arguments["momentum_decay"] = 1.0  # Keras has no such argument, and this schedule
    return _made(partial(rule_class, parameters), arguments | form)


def _torch_mixed_step(
    torch: Any,
    optimizer: Any,
    parameters: list[Any],
    gradients: list[Array],
    settings: dict[str, Any],
) -> Step:
    """Make the step that PyTorch's documentation puts together from its parts."""
    scaled = [torch.from_numpy(g) for g in gradients]
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    scaler = torch.amp.GradScaler("cpu", init_scale=fo.LossScaleOptimizer(fo.SGD()).initial_scale)
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
    """Keras, on the backend that `environment` chose."""
    keras: Any = importlib.import_module("keras")

    rule_class = getattr(keras.optimizers, workload.rule, None)
    if rule_class is None:
        raise Absent("no such rule")
    optimizer = _made(rule_class, workload.arguments)
    if workload.is_mixed:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    own = [keras.Variable(w) for w in variables]
    tensors = [keras.ops.convert_to_tensor(g) for g in gradients]
    optimizer.build(own)

    def step() -> None:
        optimizer.apply(tensors, own)

    return Ready(step, own, list)


def _made(rule_class: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Make another library's optimizer; a rule of the same name need not take the same arguments."""
    try:
        return rule_class(**arguments)
    except (TypeError, ValueError) as error:
        raise Absent(f"refuses the arguments: {error}") from error


def _settings(workload: Workload) -> dict[str, Any]:
    optimizer = optimizer_of(workload)
    settings: dict[str, Any] = getattr(optimizer, "inner_optimizer", optimizer).get_config()
    return settings
