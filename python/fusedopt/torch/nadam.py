"""NAdam in PyTorch's numbers."""

from __future__ import annotations

from typing import ClassVar

from fusedopt.torch.arguments import Betas, Number, ParamsT, arguments_in
from fusedopt.torch.fused_optimizer import FusedOptimizer, Scalars, Slots


class NAdam(FusedOptimizer):
    """Adam with Nesterov's momentum, in PyTorch's numbers.

    In a parameter's update t = 1, 2, ...::

        g <- g + weight_decay w                         or, decoupled, w <- w - lr weight_decay w
        m <- m + (g - m) (1 - beta_1)
        v <- v + (g^2 - v) (1 - beta_2)
        m_hat = mu_(t+1) m / (1 - P_(t+1)) + (1 - mu_t) g / (1 - P_t)
        w <- w - lr m_hat / (sqrt(v / (1 - beta_2^t)) + eps)
        mu_t = beta_1 (1 - 0.96^(t momentum_decay) / 2),  P_t = mu_1 mu_2 ... mu_t

    In ``state[parameter]``, m is ``exp_avg``, v is ``exp_avg_sq``, t is ``step`` and P_t is ``mu_product``.

    Examples
    --------
    >>> import torch
    >>> from fusedopt.torch import NAdam
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> optimizer = NAdam([w], lr=0.1)
    >>> w.grad = torch.tensor([0.5, -8.0])
    >>> optimizer.step()
    >>> [round(x, 3) for x in w.tolist()]
    [0.894, 2.106]

    References
    ----------
    Dozat, Incorporating Nesterov Momentum into Adam, ICLR workshop 2016. PyTorch, ``torch.optim.NAdam``.
    """

    _rule = "TorchNAdam"
    _scalars: ClassVar[Scalars] = {"step": 0.0, "mu_product": 1.0}
    _slots: ClassVar[Slots] = {"exp_avg": None, "exp_avg_sq": None}

    def __init__(
        self,
        params: ParamsT,
        lr: Number = 2e-3,
        betas: Betas = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        max_norm: float | None = None,
        ema_decay: float | None = None,
        master_weights: bool = True,
    ) -> None:
        super().__init__(**arguments_in(locals()))
