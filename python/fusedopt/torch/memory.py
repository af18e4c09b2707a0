"""Where tensors lie in memory: which can be updated in place, and in which order of dimensions the core sees them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found, unused-ignore]

from fusedopt.arrays import Array, checked_values
from fusedopt.torch.parameters import check_parameter

__all__ = [
    "Order",
    "is_same",
    "order_of",
    "permuted",
    "places_of",
    "require_apart",
    "require_updatable",
    "restored",
    "value_for",
]

Order = tuple[int, ...] | None
"""The order of dimensions in which a tensor is C-contiguous; None for their own."""


def require_updatable(parameter: torch.Tensor, who: str) -> None:
    """Refuse what cannot be updated in place."""
    check_parameter(who, parameter)
    if torch.nn.parameter.is_lazy(parameter):
        raise ValueError(
            f"{who}: expected memory, found a lazy parameter; make the optimizer after the model has seen an input"
        )
    if not permuted(parameter, order_of(parameter)).is_contiguous():
        raise ValueError(
            f"{who}: expected memory without gaps and overlaps, found the shape {tuple(parameter.shape)} "
            f"with the strides {parameter.stride()}; give a .contiguous() copy"
        )


def require_apart(parameters: Sequence[tuple[torch.Tensor, str]]) -> None:
    """Refuse tensors that share memory."""
    ranges = sorted(
        (tensor.data_ptr(), tensor.data_ptr() + tensor.numel() * tensor.element_size(), who)
        for tensor, who in parameters
        if tensor.numel() > 0
    )
    for (_, end, first), (begin, _, second) in pairwise(ranges):
        if begin < end:
            raise ValueError(
                f"{second}: expected memory of its own, found it overlapping {first}; give tied weights once"
            )


def order_of(tensor: torch.Tensor) -> Order:
    """Return the order of a tensor's dimensions in memory."""
    if tensor.is_contiguous():
        return None
    strides = tensor.stride()
    return tuple(sorted(range(len(strides)), key=lambda d: (-strides[d], -tensor.shape[d])))


def permuted(tensor: torch.Tensor, order: Order) -> torch.Tensor:
    """See a tensor with its dimensions in another order."""
    return tensor if order is None else tensor.permute(order)


def restored(tensor: torch.Tensor, order: Order) -> torch.Tensor:
    """See what was permuted as before."""
    return tensor if order is None else tensor.permute([order.index(d) for d in range(len(order))])


def places_of(tensors: Iterable[Any]) -> list[int]:
    """Return where tensors lie. Other objects count by their identity."""
    found = list(tensors)
    try:
        return list(map(torch.Tensor.data_ptr, found))
    except TypeError:
        return [t.data_ptr() if isinstance(t, torch.Tensor) else id(t) for t in found]


def is_same(tensor: Any, other: torch.Tensor) -> bool:
    """Whether something is a tensor with the same values in the same memory."""
    return (
        isinstance(tensor, torch.Tensor)
        and tensor.data_ptr() == other.data_ptr()
        and tensor.dtype == other.dtype
        and tensor.shape == other.shape
        and tensor.stride() == other.stride()
    )


def value_for(target: Array, name: str, value: Any, order: Order, who: str) -> Array:
    """Bring a value of the state to the type of an array, or refuse it."""
    if isinstance(value, torch.Tensor):
        value = permuted(value.detach().cpu(), order)
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return checked_values(f"state of {who}", [(name, target)], [np.asarray(value)])[0]
