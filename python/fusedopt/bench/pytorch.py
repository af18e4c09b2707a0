"""PyTorch's optimizers on the same arrays. It is imported only when it is asked for."""

from __future__ import annotations

import importlib
import inspect
from functools import partial
from typing import Any

from fusedopt.bench.peer_settings import made, settings_of
from fusedopt.bench.workload import Absent, Array, Ready, Workload

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
    """PyTorch's one sweep, if it has one for the rule."""
    return ready(workload, fused(workload, variables), variables, gradients)


def torch_foreach(workload: Workload, variables: list[Array], gradients: list[Array]) -> Ready:
    """PyTorch's operations on lists of tensors."""
    return ready(workload, foreach(workload, variables), variables, gradients)


def fused(workload: Workload, variables: list[Array]) -> Any:
    """Make PyTorch's optimizer in one sweep, or raise Absent."""
    return _optimizer_of(workload, variables, {"fused": True})


def foreach(workload: Workload, variables: list[Array]) -> Any:
    """Make PyTorch's optimizer on lists of tensors, or raise Absent."""
    return _optimizer_of(workload, variables, {"foreach": True})


def _optimizer_of(workload: Workload, variables: list[Array], form: dict[str, bool]) -> Any:
    torch: Any = importlib.import_module("torch")
    found = [name for name in dir(torch.optim) if name.lower() == workload.rule.lower()]
    if not found:
        raise Absent("no such rule")
    rule_class = getattr(torch.optim, found[0])
    accepted = inspect.signature(rule_class).parameters
    if not form.keys() <= accepted.keys():
        raise Absent(f"not {' or '.join(form)}")
    settings = settings_of(workload)
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
    return made(partial(rule_class, parameters_of(variables)), arguments | form)


def parameters_of(variables: list[Array]) -> list[Any]:
    """See variables as PyTorch's parameters, in the same memory."""
    torch: Any = importlib.import_module("torch")
    return [torch.from_numpy(w).requires_grad_() for w in variables]


def ready(
    workload: Workload, optimizer: Any, variables: list[Array], gradients: list[Array]
) -> Ready:
    """Let one of PyTorch's optimizers take the step, or raise Absent."""
    torch: Any = importlib.import_module("torch")
    settings = settings_of(workload)
    options = ("clipnorm", "clipvalue", "global_clipnorm", "use_ema", "loss_scale_factor")
    if any(settings[option] for option in options):
        raise Absent("no such option inside the step")
    for parameter, g in zip(optimizer.param_groups[0]["params"], gradients, strict=True):
        parameter.grad = torch.from_numpy(g)
    return Ready(optimizer.step, variables, partial(slots_of, optimizer))


def slots_of(optimizer: Any) -> list[list[Array]]:
    """Find the arrays that one of PyTorch's optimizers keeps for each parameter."""
    torch: Any = importlib.import_module("torch")
    states = [optimizer.state[one].values() for one in optimizer.param_groups[0]["params"]]
    return [[one.numpy() for one in state if torch.is_tensor(one) and one.ndim] for state in states]
