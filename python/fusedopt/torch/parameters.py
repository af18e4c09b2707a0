"""Which tensors can be parameters. What a step alone can see is for the core to refuse."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

__all__ = ["check_parameter", "is_updatable", "state_dtype"]

_UPDATABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def is_updatable(parameter: torch.Tensor) -> bool:
    """Whether it has floating-point numbers; others never have a gradient and stand still."""
    return parameter.dtype in _UPDATABLE


def state_dtype(parameter: torch.Tensor) -> torch.dtype:
    """Return the type that a parameter's update is computed in, and its state kept in."""
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32


def check_parameter(who: str, parameter: Any) -> None:
    """Refuse what cannot be updated in place."""
    if is_traceable_wrapper_subclass(parameter):
        raise TypeError(
            f"{who}: expected a tensor with memory of its own, found {type(parameter).__name__}, a wrapper of others; "
            "give the tensors inside it, or use torch.optim"
        )
    dtype, device = parameter.dtype, parameter.device.type
    if (dtype.is_floating_point or dtype.is_complex) and not is_updatable(parameter):
        way_out = "; use torch.optim for complex parameters" if dtype.is_complex else ""
        raise TypeError(
            f"{who}: expected float16, bfloat16, float32 or float64, found {dtype}{way_out}"
        )
    if device == "meta":
        raise ValueError(
            f"{who}: expected memory, found a meta tensor; make the optimizer after the model has memory"
        )
    if device != "cpu":
        raise ValueError(
            f"{who}: expected CPU memory, found a tensor on {parameter.device}; "
            "make the optimizer after model.cpu(), or use torch.optim"
        )
    if parameter.layout != torch.strided:
        raise ValueError(
            f"{who}: expected a dense tensor, found layout {parameter.layout}; use torch.optim.SparseAdam"
        )
    if not torch.nn.parameter.is_lazy(parameter) and parameter.is_neg():
        raise ValueError(
            f"{who}: expected a plain tensor, found a negated view; give its .resolve_neg()"
        )
