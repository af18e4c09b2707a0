"""The optimizers of `fusedopt.torch` with their options, and small trainings to compare them with those of PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import fusedopt.torch
import torch

# Rates are such that the parameters move by their own size in 200 updates, so that an error shows.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "SGD": [
        {"lr": 0.01},
        {"lr": 0.01, "weight_decay": 0.1, "maximize": True},
        {"lr": 0.01, "momentum": 0.9},
        {"lr": 0.01, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
        {"lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        {"lr": 0.01, "momentum": 0.9, "nesterov": True, "maximize": True},
    ],
    "Adam": [
        {},
        {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1},
        {"lr": 0.01, "amsgrad": True, "betas": (0.9, 0.9)},
        {"lr": 0.01, "amsgrad": True, "weight_decay": 0.1, "maximize": True},
        {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True},
        {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True, "amsgrad": True},
    ],
    "AdamW": [
        {},
        {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1},
        {"lr": 0.01, "amsgrad": True, "betas": (0.9, 0.9)},
        {"lr": 0.01, "weight_decay": 0.0, "maximize": True},
    ],
    "RMSprop": [
        {"lr": 0.001},
        {"lr": 0.001, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1, "maximize": True},
        {"lr": 0.001, "momentum": 0.9},
        {"lr": 0.001, "centered": True, "weight_decay": 0.1},
        {"lr": 0.001, "momentum": 0.9, "centered": True, "maximize": True},
    ],
    "Adagrad": [
        {},
        {"lr_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-3},
        {"weight_decay": 0.1, "maximize": True},
    ],
    "Adadelta": [
        {},
        {"rho": 0.7, "eps": 1e-3, "weight_decay": 0.1},
        {"lr": 0.1, "rho": 1.0, "maximize": True},
    ],
    "Adamax": [
        {},
        {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1},
        {"maximize": True},
    ],
    "NAdam": [
        {},
        {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1},
        {"lr": 0.01, "momentum_decay": 0.1, "maximize": True},
        {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True},
    ],
}

NAMES = sorted(OPTIONS)
CASES = [(name, options) for name in NAMES for options in OPTIONS[name]]
IDS = [
    "-".join([name, *(f"{option}={value}" for option, value in options.items())])
    for name, options in CASES
]
# Of each optimizer the options that give it the most state.
FULL = {
    "SGD": {"lr": 0.01, "momentum": 0.9, "dampening": 0.5},
    "Adam": {"lr": 0.01, "amsgrad": True},
    "AdamW": {"lr": 0.01, "amsgrad": True},
    "RMSprop": {"lr": 0.001, "momentum": 0.9, "centered": True},
    "Adagrad": {"lr_decay": 0.1, "initial_accumulator_value": 0.5},
    "Adadelta": {},
    "Adamax": {},
    "NAdam": {},
}
SHAPES = [(5, 3), (7,), (), (1, 1), (0,), (2, 3, 4, 5)]


def ours(name: str) -> Any:
    return getattr(fusedopt.torch, name)


def theirs(name: str) -> Any:
    return getattr(torch.optim, name)


def parameters(
    dtype: torch.dtype = torch.float64, shapes: Iterable[tuple[int, ...]] = SHAPES
) -> list[torch.nn.Parameter]:
    """The same ones in each call."""
    generator = torch.Generator().manual_seed(1)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
        for shape in shapes
    ]


def gradients(of: list[Any], seed: int = 2) -> Iterator[list[torch.Tensor]]:
    """One after another, the same ones in each call."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield [
            torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype) for p in of
        ]


def step_with(optimizer: Any, of: list[Any], values: Iterable[torch.Tensor | None]) -> None:
    """One step with these gradients."""
    for parameter, gradient in zip(of, values, strict=True):
        parameter.grad = None if gradient is None else gradient.to(parameter.dtype, copy=True)
    optimizer.step()


def train(
    make: Callable[[list[Any]], Any],
    steps: int,
    dtype: torch.dtype = torch.float64,
    shapes: Iterable[tuple[int, ...]] = SHAPES,
) -> tuple[list[torch.nn.Parameter], Any]:
    """Make an optimizer for the parameters, and take steps."""
    of = parameters(dtype, shapes)
    optimizer = make(of)
    for _, values in zip(range(steps), gradients(of), strict=False):
        step_with(optimizer, of, values)
    return of, optimizer


def assert_same_numbers(
    found: tuple[list[Any], Any], expected: tuple[list[Any], Any], **tolerances: float
) -> None:
    """Compare parameters, and all that PyTorch keeps in their state."""
    for i, (p, q) in enumerate(zip(found[0], expected[0], strict=True)):
        torch.testing.assert_close(p, q, **tolerances, msg=partial("parameter {}: {}".format, i))
        state = found[1].state.get(p, {})
        for key, value in expected[1].state.get(q, {}).items():
            if value is not None:
                torch.testing.assert_close(
                    state[key], value, **tolerances, msg=partial("{} of {}: {}".format, key, i)
                )


def bits(tensor: torch.Tensor) -> bytes:
    """What must not change at all."""
    flat = tensor.detach().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).tolist())


def snapshot(optimizer: Any) -> list[Any]:
    """Parameters, state and options of all groups, for comparison."""
    found: list[Any] = []
    for group in optimizer.param_groups:
        found.append({key: value for key, value in group.items() if key != "params"})
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            found.append(bits(parameter))
            found.append(
                {k: bits(v) if isinstance(v, torch.Tensor) else v for k, v in state.items()}
            )
    return found
