"""The arguments of the optimizers: what each means, which values it takes, and its name in the core.

What PyTorch refuses is refused in its words.
"""

from __future__ import annotations

import inspect
import math
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.optim.optimizer import ParamsT

__all__ = ["ARGUMENTS", "Betas", "Number", "ParamsT", "arguments_in", "check", "documented"]


Number: TypeAlias = float | torch.Tensor
Betas: TypeAlias = tuple[Number, Number]


@dataclass(frozen=True)
class Argument:
    """An argument of a constructor, which is also an option of a parameter group unless it is the optimizer's own."""

    kind: str
    text: str
    check: Callable[[str, Any], None] = lambda name, value: None
    core: str | None = None  # what the core calls it, if it gets it


def _not_negative(words: str = "", limit: float = math.inf) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor) and value.numel() != 1:
            raise ValueError(f"Tensor {name} must be 1-element")
        if not 0.0 <= value <= limit:  # a NaN, too
            raise ValueError(f"Invalid {words or f'{name} value'}: {value}")

    return check


def _check_betas(name: str, values: Any) -> None:
    for i, beta in enumerate(values):
        if isinstance(beta, torch.Tensor) and beta.numel() != 1:
            raise ValueError(f"Tensor {name}[{i}] must be 1-element")
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Invalid beta parameter at index {i}: {beta}")


def _refused(reason: str) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if value:
            raise ValueError(f"{name}: expected False, found {value!r}; {reason}")

    return check


def _check_max_norm(name: str, value: Any) -> None:
    if value is not None and not value > 0.0:
        raise ValueError(
            f"{name}: expected a number > 0, found {value!r}; None leaves the gradients as they are"
        )


def _check_ema_decay(name: str, value: Any) -> None:
    if value is not None and not 0.0 <= value <= 1.0:
        raise ValueError(
            f"{name}: expected a number in [0, 1], found {value!r}; None keeps no averages"
        )


ARGUMENTS: Mapping[str, Argument] = {
    "params": Argument(
        "iterable",
        "Parameters, pairs of name and parameter, or dicts that define groups. A group can have each of the options "
        "below but for the last three, and can be written to at any time: each step reads them all.",
    ),
    "lr": Argument(
        "float or Tensor",
        "Learning rate, >= 0. A tensor has one element and may be on any device.",
        _not_negative("learning rate"),
        "learning_rate",
    ),
    "betas": Argument(
        "pair of float or Tensor",
        "Decays of the two moments, in [0, 1).",
        _check_betas,
    ),
    "eps": Argument(
        "float", "Added to the denominator, >= 0.", _not_negative("epsilon value"), "epsilon"
    ),
    "alpha": Argument("float", "Decay of the mean square, >= 0.", _not_negative(), "rho"),
    "rho": Argument(
        "float", "Decay of both mean squares, in [0, 1].", _not_negative(limit=1.0), "rho"
    ),
    "momentum": Argument("float", "Decay of the momentum, >= 0.", _not_negative(), "momentum"),
    "dampening": Argument(
        "float",
        "How much less than a whole gradient enters the momentum, from the second update on.",
        core="dampening",
    ),
    "nesterov": Argument(
        "bool",
        "Nesterov's momentum. It needs a momentum > 0, and a dampening of 0.",
        core="nesterov",
    ),
    "centered": Argument(
        "bool", "Divide by the standard deviation of the gradient.", core="centered"
    ),
    "lr_decay": Argument(
        "float",
        "How the learning rate falls, >= 0.",
        _not_negative(),
        "lr_decay",
    ),
    "initial_accumulator_value": Argument(
        "float",
        "Where the sum of squares starts, >= 0.",
        _not_negative(),
    ),
    "momentum_decay": Argument(
        "float",
        "How the momentum's schedule approaches its limit, >= 0.",
        _not_negative(),
        "momentum_decay",
    ),
    "weight_decay": Argument(
        "float",
        "Weight decay, >= 0. The formula tells where it enters.",
        _not_negative(),
        "weight_decay",
    ),
    "decoupled_weight_decay": Argument(
        "bool",
        "Whether weight decay acts on the parameter instead of the gradient.",
        core="decoupled_weight_decay",
    ),
    "amsgrad": Argument("bool", "Divide by the root of the largest v so far.", core="amsgrad"),
    "maximize": Argument("bool", "Take the step for -g, to maximize.", core="maximize"),
    "foreach": Argument("bool, optional", "Accepted and ignored, as there is one way to step."),
    "fused": Argument("bool, optional", "Accepted and ignored, as every step is fused."),
    "capturable": Argument(
        "bool",
        "Must be False. A step on CPU memory cannot be part of a device's graph.",
        _refused("only steps on other devices can be captured in graphs"),
    ),
    "differentiable": Argument(
        "bool",
        "Must be False. Autograd does not see what a step does.",
        _refused("to differentiate through a step, use torch.optim"),
    ),
    "max_norm": Argument(
        "float, optional",
        "All gradients of all groups together are scaled down to at most this norm, > 0, as by "
        "``torch.nn.utils.clip_grad_norm_`` before the step. The tensors in ``.grad`` stay as they are. "
        "`global_norm` tells the norm.",
        _check_max_norm,
    ),
    "ema_decay": Argument(
        "float, optional",
        "Keep a moving average of each parameter, average <- ema_decay average + (1 - ema_decay) w, in [0, 1]. See "
        "`averages` and `evaluation_weights`.",
        _check_ema_decay,
    ),
    "master_weights": Argument(
        "bool",
        "Whether float16 and bfloat16 parameters have a float32 copy, which takes the updates, so that small ones are "
        "not lost. What is written into such a parameter between two steps replaces the copy's value. If False, the "
        "parameters themselves are updated and rounded stochastically: up or down, such that the mean is right. This "
        'takes less memory. The bits follow from the seed under ``"rounding_seed"`` in the first group, which is that '
        "of ``torch.manual_seed`` at the first step, and a checkpoint keeps it. Processes that train copies of a model "
        "need the same seed.",
    ),
}


def arguments_in(scope: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a constructor was given, from its ``locals()``."""
    return {name: value for name, value in scope.items() if name in ARGUMENTS}


def check(values: Mapping[str, Any]) -> None:
    """Refuse values out of their range; a name that is no argument is the user's own."""
    for name, value in values.items():
        if name in ARGUMENTS:
            ARGUMENTS[name].check(name, value)


def documented(cls: type) -> str | None:
    """Put the text of every argument into a class's docstring, before the examples."""
    if cls.__doc__ is None:  # python -OO
        return None
    head, examples, tail = inspect.cleandoc(cls.__doc__).partition("\nExamples\n--------\n")
    entries = "\n".join(
        f"{name} : {ARGUMENTS[name].kind}\n"
        + textwrap.fill(ARGUMENTS[name].text, 100, initial_indent="    ", subsequent_indent="    ")
        for name in inspect.signature(cls).parameters
    )
    return f"{head}\nParameters\n----------\n{entries}\n{_RAISES}{examples}{tail}"


_RAISES = """
Raises
------
ValueError
    If an argument is out of its range, or a parameter cannot be updated in place: on another device, sparse, or
    without memory.
TypeError
    If a parameter is of a type that cannot be updated, or is no tensor.
"""
