"""Adamax in PyTorch's numbers."""

from __future__ import annotations

from typing import ClassVar

from fusedopt.torch.arguments import Betas, Number, ParamsT, arguments_in
from fusedopt.torch.fused_optimizer import FusedOptimizer, Slots


class Adamax(FusedOptimizer):
    """Adamax, which is Adam with the infinity norm, in PyTorch's numbers.

    In a parameter's update t = 1, 2, ...::

        g <- g + weight_decay w
        m <- m + (g - m) (1 - beta_1)
        u <- max(beta_2 u, |g| + eps)
        w <- w - lr m / ((1 - beta_1^t) u)

    In ``state[parameter]``, m is ``exp_avg``, u is ``exp_inf`` and t is ``step``.

    Examples
    --------
    >>> import torch
    >>> from fusedopt.torch import Adamax
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> optimizer = Adamax([w], lr=0.1)
    >>> w.grad = torch.tensor([0.5, -8.0])
    >>> optimizer.step()
    >>> [round(x, 3) for x in w.tolist()]
    [0.9, 2.1]

    References
    ----------
    Kingma and Ba, Adam: A Method for Stochastic Optimization, ICLR 2015. PyTorch, ``torch.optim.Adamax``.
    """

    _rule = "TorchAdamax"
    _slots: ClassVar[Slots] = {"exp_avg": None, "exp_inf": None}

    def __init__(
        self,
        params: ParamsT,
        lr: Number = 2e-3,
        betas: Betas = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        max_norm: float | None = None,
        ema_decay: float | None = None,
        master_weights: bool = True,
    ) -> None:
        super().__init__(**arguments_in(locals()))
