"""SGD in PyTorch's numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from fusedopt.torch.arguments import Number, ParamsT, arguments_in
from fusedopt.torch.fused_optimizer import FusedOptimizer, Scalars, Slots
from fusedopt.torch.state import scalar


class SGD(FusedOptimizer):
    """Gradient descent, with momentum and Nesterov's momentum, in PyTorch's numbers.

    In each update of a parameter::

        g <- g + weight_decay w
        m <- momentum m + (1 - dampening) g             in the first update m <- g
        w <- w - lr d

    Without ``momentum`` d = g, else d = m, and with ``nesterov`` d = g + momentum m. In ``state[parameter]``, m is
    ``momentum_buffer``.

    A sparse gradient, as of ``torch.nn.Embedding(sparse=True)``, updates its own rows and their m, and all others stay
    as they are. With ``momentum``, `torch.optim.SGD` goes on to move every row that ever had a gradient.
    ``fusedopt.torch.Optimizer`` with ``fusedopt.SGD(row_updates="caught_up")`` does so at the cost of the rows.

    Examples
    --------
    >>> import torch
    >>> from fusedopt.torch import SGD
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> optimizer = SGD([w], lr=0.5, momentum=0.5)
    >>> for _ in range(2):
    ...     w.grad = torch.tensor([1.0, -2.0])
    ...     optimizer.step()
    >>> w.tolist()
    [-0.25, 4.5]

    References
    ----------
    Sutskever et al., On the Importance of Initialization and Momentum in Deep Learning, ICML 2013. PyTorch,
    ``torch.optim.SGD``, which keeps the learning rate out of the momentum.
    """

    _rule = "TorchSGD"
    _scalars: ClassVar[Scalars] = {}
    _slots: ClassVar[Slots] = {"momentum_buffer": "momentum"}

    def __init__(
        self,
        params: ParamsT,
        lr: Number = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: Number = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        max_norm: float | None = None,
        ema_decay: float | None = None,
        master_weights: bool = True,
    ) -> None:
        if nesterov and (momentum <= 0.0 or dampening != 0.0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        super().__init__(**arguments_in(locals()))

    def _completed(self, parameter: torch.Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
        """Tell the core of a momentum that begins: by a count of updates, which it takes away again."""
        begins = group["momentum"] and self.state.get(parameter, {}).get("momentum_buffer") is None
        return {**super()._completed(parameter, group), **({"step": scalar(0.0)} if begins else {})}
