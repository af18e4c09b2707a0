"""PyTorch's optimizers, and DeepSpeed's, which is one of them, on the same arrays.

Each public function makes a step from a workload, or raises Absent.
"""

from __future__ import annotations

import importlib
import inspect
from functools import partial
from typing import Any

from fusedopt.bench.peer_settings import (
    BACKOFF,
    GROWTH,
    GROWTH_STEPS,
    INITIAL_SCALE,
    made,
    settings_of,
)
from fusedopt.bench.workload import Absent, Array, Ready, Step, Workload

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

# PyTorch's compiler needs a minute for a hundred tensors, and three for half as many more.
MOST_COMPILED_TENSORS = 200


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
    settings = settings_of(workload)
    optimizer = _torch_optimizer(torch, workload.rule, parameters, settings, form)
    return _torch_ready(torch, workload, optimizer, variables, gradients)


def in_deepspeed(workload: Workload, variables: list[Array], gradients: list[Array]) -> Ready:
    """DeepSpeed's Adam for the CPU, which is a PyTorch optimizer: one sweep for each tensor."""
    if workload.rule not in ("Adam", "AdamW"):
        raise Absent("no such rule")
    torch: Any = importlib.import_module("torch")
    deepspeed: Any = importlib.import_module("deepspeed.ops.adam")
    settings = settings_of(workload)
    arguments = {
        "lr": settings["learning_rate"],
        "betas": (settings["beta_1"], settings["beta_2"]),
        "eps": settings["epsilon"],
        "weight_decay": settings["weight_decay"] or 0.0,
        "amsgrad": settings["amsgrad"],
        "adamw_mode": workload.rule == "AdamW",
    }
    parameters = [torch.from_numpy(w).requires_grad_() for w in variables]
    try:
        optimizer = made(partial(deepspeed.DeepSpeedCPUAdam, parameters), arguments)
    except RuntimeError as error:  # it is compiled when it is first made
        raise Absent(f"cannot be made: {str(error).splitlines()[0]}") from error
    return _torch_ready(torch, workload, optimizer, variables, gradients)


def _torch_ready(
    torch: Any, workload: Workload, optimizer: Any, variables: list[Array], gradients: list[Array]
) -> Ready:
    parameters = optimizer.param_groups[0]["params"]
    settings = settings_of(workload)

    def slots() -> list[list[Array]]:
        states = [optimizer.state[parameter].values() for parameter in parameters]
        return [
            [one.numpy() for one in state if torch.is_tensor(one) and one.ndim] for state in states
        ]

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
    return made(partial(rule_class, parameters), arguments | form)


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


def torch_compiled(workload: Workload, variables: list[Array], gradients: list[Array]) -> Ready:
    """The same for AdamW, compiled: two sweeps, and no float32 gradient is ever written.

    The question whether to skip lies between the two, as in GradScaler, whose own update follows.
    """
    if not workload.is_mixed or workload.rule != "AdamW":
        raise Absent("compiled for the mixed pipeline with AdamW only")
    if len(variables) > MOST_COMPILED_TENSORS:
        raise Absent(f"takes minutes to compile {workload.name}")
    torch: Any = importlib.import_module("torch")
    adamw = importlib.import_module("torch.optim.adamw").adamw
    settings = settings_of(workload)
    scaled = [torch.from_numpy(g) for g in gradients]
    parameters = [torch.from_numpy(w) for w in variables]
    momenta, velocities = ([torch.zeros_like(w) for w in parameters] for _ in range(2))
    averages = [w.clone() for w in parameters]
    counts = [torch.zeros(()) for _ in parameters]
    scale = torch.tensor(INITIAL_SCALE)
    growth = torch.tensor(0, dtype=torch.int32)

    def measured() -> tuple[Any, Any]:
        norm = torch.nn.utils.get_total_norm([g.float() / scale for g in scaled])
        clip = torch.clamp(settings["global_clipnorm"] / (norm + 1e-6), max=1.0)
        # A float16's square is no infinity in float32.
        return (~torch.isfinite(norm)).float(), clip / scale

    def update(factor: Any) -> None:
        adamw(
            parameters,
            [g.float() * factor for g in scaled],
            momenta,
            velocities,
            [],
            counts,
            foreach=True,
            capturable=True,
            amsgrad=settings["amsgrad"],
            beta1=settings["beta_1"],
            beta2=settings["beta_2"],
            lr=settings["learning_rate"],
            weight_decay=settings["weight_decay"],
            eps=settings["epsilon"],
            maximize=False,
        )
        torch._foreach_lerp_(averages, parameters, 1 - settings["ema_momentum"])

    # Other shapes' versions of these two functions count against a limit.
    torch.compiler.reset()
    compiled_measured, compiled_update = (
        torch.compile(one, fullgraph=True, dynamic=False) for one in (measured, update)
    )

    def step() -> None:
        overflow, factor = compiled_measured()
        if not overflow.item():
            compiled_update(factor)
        torch._amp_update_scale_(scale, growth, overflow, GROWTH, BACKOFF, GROWTH_STEPS)

    slots = [[slot.numpy() for slot in own] for own in zip(momenta, velocities, strict=True)]
    return Ready(step, variables, lambda: slots)
