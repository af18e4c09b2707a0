"""PyTorch's parameters with the values of arrays, trained beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import fusedopt as fo
import fusedopt.torch
import numpy as np
import torch
from cases import Case
from training import make

SHAPES = [(3, 4), (5,), (), (2, 3, 4)]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def tensors(seed: int, dtype: torch.dtype = torch.float64, shapes: Any = SHAPES) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(np.asarray(rng.standard_normal(shape))).to(dtype) for shape in shapes]


def parameters(
    seed: int = 0, dtype: torch.dtype = torch.float64, shapes: Any = SHAPES
) -> list[Any]:
    return [torch.nn.Parameter(tensor) for tensor in tensors(seed, dtype, shapes)]


def gradients(step: int, dtype: torch.dtype = torch.float64, shapes: Any = SHAPES) -> list[Any]:
    return tensors(100 + step, dtype, shapes)


def array_of(tensor: torch.Tensor) -> Any:
    """A tensor's memory as an array; bfloat16 as that of ml_dtypes."""
    tensor = tensor.detach()
    if tensor.dtype != torch.bfloat16:
        return tensor.numpy()
    import ml_dtypes

    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def bits(values: Sequence[torch.Tensor]) -> list[bytes]:
    return [array_of(tensor.contiguous()).tobytes() for tensor in values]


def give(params: Sequence[Any], values: Sequence[Any]) -> None:
    for parameter, value in zip(params, values, strict=True):
        parameter.grad = None if value is None else value.clone()


def take_steps(optimizer: Any, steps: range) -> None:
    """Train all parameters of an optimizer with the gradients of these steps."""
    params = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for step in steps:
        for i, parameter in enumerate(params):
            parameter.grad = tensors(1000 * step + i, parameter.dtype, [parameter.shape])[0]
        optimizer.step()


def everything(optimizer: Any) -> list[Any]:
    """The bits of the parameters and of their state."""
    params = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = [sorted(optimizer.state.get(parameter, {}).items()) for parameter in params]
    return [
        bits(params),
        [[(name, value.dtype, *bits([value])) for name, value in own] for own in state],
    ]


def made(case: Case | Callable[[], fo.Optimizer], params: Any, **options: Any) -> Any:
    rule = make(case, **options) if isinstance(case, Case) else case()
    return fusedopt.torch.Optimizer(params, rule)
