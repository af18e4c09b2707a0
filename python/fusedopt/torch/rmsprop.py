"""RMSprop in PyTorch's numbers."""

from __future__ import annotations

from typing import ClassVar

from fusedopt.torch.arguments import Number, ParamsT, arguments_in
from fusedopt.torch.fused_optimizer import FusedOptimizer, Slots


class RMSprop(FusedOptimizer):
    """RMSprop, with momentum and the centered form, in PyTorch's numbers.

    In each update of a parameter::

        g <- g + weight_decay w
        v <- alpha v + (1 - alpha) g^2
        d = sqrt(v) + eps
        w <- w - lr g / d

    With ``centered``, a <- a + (g - a) (1 - alpha), and d = sqrt(max(v - a^2, 0)) + eps. With ``momentum``,
    b <- momentum b + g / d, and w <- w - lr b. In ``state[parameter]``, v is ``square_avg``, a is ``grad_avg`` and b
    is ``momentum_buffer``.

    Examples
    --------
    >>> import torch
    >>> from fusedopt.torch import RMSprop
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> optimizer = RMSprop([w], lr=0.1, alpha=0.75)
    >>> w.grad = torch.tensor([0.5, -8.0])
    >>> optimizer.step()
    >>> [round(x, 3) for x in w.tolist()]
    [0.8, 2.2]

    References
    ----------
    Hinton, Neural Networks for Machine Learning, lecture 6, 2012. Graves, Generating Sequences With Recurrent Neural
    Networks, 2013. PyTorch, ``torch.optim.RMSprop``, in which rounding can make v - a^2 negative and its root NaN;
    here it is not below 0.
    """

    _rule = "TorchRMSprop"
    _slots: ClassVar[Slots] = {
        "square_avg": None,
        "momentum_buffer": "momentum",
        "grad_avg": "centered",
    }

    def __init__(
        self,
        params: ParamsT,
        lr: Number = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        max_norm: float | None = None,
        ema_decay: float | None = None,
        master_weights: bool = True,
    ) -> None:
        super().__init__(**arguments_in(locals()))
