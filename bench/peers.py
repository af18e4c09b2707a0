"""Other libraries' optimizers on the same arrays, with the hyperparameters of fusedopt's own.

Each function makes a step from a workload, or raises Absent. A library is imported only when it is
asked for.
"""

from __future__ import annotations

import inspect
from typing import Any

import fusedopt as fo
from workloads import Absent, Array, Step, Workload, optimizer_of

# Keras's names of arguments and PyTorch's.
_TORCH_NAMES = {
    "learning_rate": "lr",
    "rho": "alpha",
    "epsilon": "eps",
    "momentum": "momentum",
    "nesterov": "nesterov",
    "centered": "centered",
    "amsgrad": "amsgrad",
    "weight_decay": "weight_decay",
}


def torch_fused_step(workload: Workload, variables: list[Array], gradients: list[Array]) -> Step:
    return _torch_step(workload, variables, gradients, {"fused": True})


def torch_foreach_step(workload: Workload, variables: list[Array], gradients: list[Array]) -> Step:
    return _torch_step(workload, variables, gradients, {"foreach": True})


def _torch_step(
    workload: Workload, variables: list[Array], gradients: list[Array], form: dict[str, bool]
) -> Step:
    import torch

    parameters = [torch.from_numpy(w).requires_grad_() for w in variables]
    settings = _settings(workload)
    optimizer = _torch_optimizer(torch, workload.rule, parameters, settings, form)
    if workload.is_mixed:
        return _torch_mixed_step(torch, optimizer, parameters, gradients, settings)
    options = ("clipnorm", "clipvalue", "global_clipnorm", "use_ema", "loss_scale_factor")
    if any(settings[option] for option in options):
        raise Absent("no such option inside the step")
    for parameter, g in zip(parameters, gradients, strict=True):
        parameter.grad = torch.from_numpy(g)
    return optimizer.step  # type: ignore[no-any-return]


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
        for ours, theirs in _TORCH_NAMES.items()
        if ours in settings and theirs in accepted
    }
    arguments["weight_decay"] = settings["weight_decay"] or 0.0
    if "betas" in accepted:
        arguments["betas"] = (settings["beta_1"], settings["beta_2"])
    return rule_class(parameters, **arguments, **form)


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

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step() -> None:
        for parameter, g in zip(parameters, scaled, strict=True):
            parameter.grad.copy_(g)
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, settings["global_clipnorm"])
        scaler.step(optimizer)
        scaler.update()
        torch._foreach_lerp_(averages, parameters, 1 - settings["ema_momentum"])

    return step


def keras_step(workload: Workload, variables: list[Array], gradients: list[Array]) -> Step:
    import keras

    rule_class = getattr(keras.optimizers, workload.rule, None)
    if rule_class is None:
        raise Absent("no such rule")
    optimizer = rule_class(**workload.arguments)
    if workload.is_mixed:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    own = [keras.Variable(w) for w in variables]
    tensors = [keras.ops.convert_to_tensor(g) for g in gradients]
    optimizer.build(own)

    def step() -> None:
        optimizer.apply(tensors, own)

    # The agreement check reads the variables, and Keras has its own.
    step.variables = own  # type: ignore[attr-defined]
    return step


def _settings(workload: Workload) -> dict[str, Any]:
    optimizer = optimizer_of(workload)
    settings: dict[str, Any] = getattr(optimizer, "inner_optimizer", optimizer).get_config()
    return settings
