"""Adam in PyTorch's numbers."""

from __future__ import annotations

from typing import ClassVar

import torch

from fusedopt.torch.arguments import Betas, Number, ParamsT, arguments_in
from fusedopt.torch.fused_optimizer import FusedOptimizer, Slots


class Adam(FusedOptimizer):
    """Adaptive moment estimation, in PyTorch's numbers.

    In a parameter's update t = 1, 2, ...::

        g <- g + weight_decay w                         or, decoupled, w <- w - lr weight_decay w
        m <- m + (g - m) (1 - beta_1)
        v <- v + (g^2 - v) (1 - beta_2)
        w <- w - lr m_hat / (sqrt(v_hat) + eps)
        m_hat = m / (1 - beta_1^t),  v_hat = v / (1 - beta_2^t)

    With ``amsgrad`` a further slot keeps the largest v so far, which then takes its place in v_hat. In
    ``state[parameter]``, m is ``exp_avg``, v is ``exp_avg_sq``, the largest v is ``max_exp_avg_sq`` and t is ``step``.

    A sparse gradient, as of ``torch.nn.Embedding(sparse=True)``, updates its own rows and their m and v, and all others
    stay as they are. Then t counts the steps of the whole parameter, as in `torch.optim.SparseAdam`.

    Examples
    --------
    >>> import torch
    >>> from fusedopt.torch import Adam
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> optimizer = Adam([w], lr=0.1)
    >>> w.grad = torch.tensor([0.5, -8.0])
    >>> optimizer.step()
    >>> w.tolist()
    [0.8999999761581421, 2.0999999046325684]

    References
    ----------
    Kingma and Ba, Adam: A Method for Stochastic Optimization, ICLR 2015. Reddi et al., On the Convergence of Adam and
    Beyond, ICLR 2018. PyTorch, ``torch.optim.Adam``.
    """

    _rule = "TorchAdam"
    _slots: ClassVar[Slots] = {"exp_avg": None, "exp_avg_sq": None, "max_exp_avg_sq": "amsgrad"}

    def __init__(
        self,
        params: ParamsT,
        lr: Number = 1e-3,
        betas: Betas = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        max_norm: float | None = None,
        ema_decay: float | None = None,
        master_weights: bool = True,
    ) -> None:
        _check_tensors(lr, betas, foreach)
        super().__init__(**arguments_in(locals()))


def _check_tensors(lr: Number, betas: Betas, foreach: bool | None) -> None:
    """Refuse what PyTorch refuses, though here it would do no harm."""
    if len({isinstance(beta, torch.Tensor) for beta in betas}) > 1 or not all(
        isinstance(beta, (float, torch.Tensor)) for beta in betas
    ):
        raise ValueError("betas must be either both floats or both Tensors")
    for name, value in (("lr", lr), ("betas[0]", betas[0]), ("betas[1]", betas[1])):
        if foreach and isinstance(value, torch.Tensor):
            raise ValueError(
                f"{name} as a Tensor is not supported for capturable=False and foreach=True"
            )
