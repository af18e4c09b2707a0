"""Adadelta in PyTorch's numbers."""

from __future__ import annotations

from typing import ClassVar

from fusedopt.torch.arguments import Number, ParamsT, arguments_in
from fusedopt.torch.fused_optimizer import FusedOptimizer, Slots


class Adadelta(FusedOptimizer):
    """Adadelta, in PyTorch's numbers.

    In each update of a parameter::

        g <- g + weight_decay w
        v <- rho v + (1 - rho) g^2
        d = sqrt(u + eps) / sqrt(v + eps) g
        u <- rho u + (1 - rho) d^2
        w <- w - lr d

    In ``state[parameter]``, v is ``square_avg`` and u is ``acc_delta``.

    Examples
    --------
    >>> import torch
    >>> from fusedopt.torch import Adadelta
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> optimizer = Adadelta([w], lr=1.0, rho=0.75, eps=0.01)
    >>> w.grad = torch.tensor([0.5, -8.0])
    >>> optimizer.step()
    >>> [round(x, 3) for x in w.tolist()]
    [0.814, 2.2]

    References
    ----------
    Zeiler, ADADELTA: An Adaptive Learning Rate Method, 2012. PyTorch, ``torch.optim.Adadelta``.
    """

    _rule = "TorchAdadelta"
    _slots: ClassVar[Slots] = {"square_avg": None, "acc_delta": None}

    def __init__(
        self,
        params: ParamsT,
        lr: Number = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        max_norm: float | None = None,
        ema_decay: float | None = None,
        master_weights: bool = True,
    ) -> None:
        super().__init__(**arguments_in(locals()))
