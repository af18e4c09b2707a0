"""The state of a parameter: how it starts, and how it is loaded.

It holds plain tensors, so that ``torch.load`` takes it with ``weights_only=True``. They lie in memory as the parameter
does, in the type that its update is computed in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch

from fusedopt.torch.parameters import state_dtype

__all__ = ["AVERAGE", "MASTER", "copied", "filled", "has_master", "loaded", "scalar"]

AVERAGE = "average"
MASTER = "master"
_SCALARS = ("step", "mu_product")


def scalar(value: float) -> torch.Tensor:
    """Return a number as PyTorch keeps the count of updates."""
    is_double = torch.get_default_dtype() == torch.float64
    return torch.tensor(value, dtype=torch.float64 if is_double else torch.float32)


def filled(parameter: torch.Tensor, value: float) -> torch.Tensor:
    """Return a slot with one value everywhere."""
    return torch.full_like(
        parameter, value, dtype=state_dtype(parameter), memory_format=torch.preserve_format
    )


def copied(parameter: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return a slot with these values."""
    slot = torch.empty_like(
        parameter, dtype=state_dtype(parameter), memory_format=torch.preserve_format
    )
    return slot.copy_(values)


def has_master(parameter: torch.Tensor) -> bool:
    """Whether a parameter has fewer bits than its update is computed in."""
    return bool(parameter.dtype != state_dtype(parameter))


def loaded(
    optimizer: str,
    state_dict: Mapping[str, Any],
    param_groups: list[dict[str, Any]],
    needed: Collection[str],
    known: Collection[str],
) -> defaultdict[Any, Any]:
    """Return the state of a `state_dict`, by parameter, or raise.

    A parameter must have none, or at least what is `needed`. What is `known` gets the parameter's form.
    """
    parameters = dict(_numbered(state_dict["param_groups"], param_groups))
    states: defaultdict[Any, Any] = defaultdict(dict)
    for key, state in state_dict["state"].items():
        if key not in parameters:
            states[key] = state
            continue
        parameter = parameters[key]
        who = f"load_state_dict: parameter {key}"
        lacking = [name for name in needed if state.get(name) is None]
        if state and lacking:
            raise ValueError(
                f"{who}: expected the state of {optimizer}, which has {lacking[0]!r}, found "
                f"{', '.join(map(repr, state))}; load what an optimizer of the same name has saved"
            )
        states[parameter] = {
            name: _loaded_value(f"{who}, {name!r}", parameter, name, value, known)
            for name, value in state.items()
            if value is not None and (name != MASTER or MASTER in known)
        }
    return states


def _numbered(
    saved_groups: list[dict[str, Any]], param_groups: list[dict[str, Any]]
) -> Iterator[tuple[int, torch.Tensor]]:
    for saved, group in zip(saved_groups, param_groups, strict=True):
        yield from zip(saved["params"], group["params"], strict=True)


def _loaded_value(
    who: str, parameter: torch.Tensor, name: str, value: Any, known: Collection[str]
) -> Any:
    if name in _SCALARS:  # of old checkpoints they are numbers
        is_tensor = isinstance(value, torch.Tensor)
        return value.detach().to("cpu", copy=True) if is_tensor else scalar(value)
    if name not in known:
        return value.detach().clone() if isinstance(value, torch.Tensor) else value
    if not isinstance(value, torch.Tensor) or value.shape != parameter.shape:
        found = tuple(value.shape) if isinstance(value, torch.Tensor) else repr(value)
        raise ValueError(
            f"{who}: expected a tensor of shape {tuple(parameter.shape)}, found {found}"
        )
    # PyTorch's SGD keeps the momentum of sparse gradients sparse.
    return copied(parameter, value.to_dense() if value.is_sparse else value)
