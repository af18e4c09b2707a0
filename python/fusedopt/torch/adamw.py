"""AdamW in PyTorch's numbers."""

from __future__ import annotations

from typing import Any

from fusedopt.torch.adam import Adam
from fusedopt.torch.arguments import Betas, Number, ParamsT, arguments_in


class AdamW(Adam):
    """Adam with decoupled weight decay, in PyTorch's numbers.

    In a parameter's update t = 1, 2, ...::

        w <- w - lr weight_decay w
        m <- m + (g - m) (1 - beta_1)
        v <- v + (g^2 - v) (1 - beta_2)
        w <- w - lr m_hat / (sqrt(v_hat) + eps)
        m_hat = m / (1 - beta_1^t),  v_hat = v / (1 - beta_2^t)

    With ``amsgrad`` a further slot keeps the largest v so far, which then takes its place in v_hat. In
    ``state[parameter]``, m is ``exp_avg``, v is ``exp_avg_sq``, the largest v is ``max_exp_avg_sq`` and t is ``step``.

    A sparse gradient, as of ``torch.nn.Embedding(sparse=True)``, updates its rows and their m and v. All others stay
    as they are, without weight decay. Then t counts the steps of the whole parameter, as in `torch.optim.SparseAdam`.

    Examples
    --------
    >>> import torch
    >>> from fusedopt.torch import AdamW
    >>> model = torch.nn.Linear(3, 1)
    >>> decayed, others = [model.weight], [model.bias]
    >>> optimizer = AdamW([{"params": decayed}, {"params": others, "weight_decay": 0.0}], lr=1e-3, max_norm=1.0)
    >>> model(torch.ones(2, 3)).mean().backward()
    >>> optimizer.step()
    >>> optimizer.global_norm
    2.0

    References
    ----------
    Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019. PyTorch, ``torch.optim.AdamW``.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Number = 1e-3,
        betas: Betas = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        max_norm: float | None = None,
        ema_decay: float | None = None,
        master_weights: bool = True,
    ) -> None:
        super().__init__(**arguments_in(locals()), decoupled_weight_decay=True)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what a copy, a pickle or `load_state_dict` holds, also of a PyTorch whose AdamW was no Adam."""
        super().__setstate__(state)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True
