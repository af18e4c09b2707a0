"""Adagrad in PyTorch's numbers."""

from __future__ import annotations

from typing import ClassVar

from fusedopt.torch.arguments import Number, ParamsT, arguments_in
from fusedopt.torch.fused_optimizer import FusedOptimizer, Slots
from fusedopt.torch.parameters import is_updatable


class Adagrad(FusedOptimizer):
    """Adagrad, in PyTorch's numbers.

    In a parameter's update t = 1, 2, ...::

        g <- g + weight_decay w
        s <- s + g^2                                    s starts as initial_accumulator_value
        w <- w - lr_t g / (sqrt(s) + eps)
        lr_t = lr / (1 + (t - 1) lr_decay)

    In ``state[parameter]``, s is ``sum`` and t is ``step``.

    Examples
    --------
    >>> import torch
    >>> from fusedopt.torch import Adagrad
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> optimizer = Adagrad([w], lr=0.5)
    >>> w.grad = torch.tensor([0.5, -8.0])
    >>> optimizer.step()
    >>> w.tolist()
    [0.5, 2.5]

    References
    ----------
    Duchi, Hazan and Singer, Adaptive Subgradient Methods for Online Learning and Stochastic Optimization, JMLR 2011.
    PyTorch, ``torch.optim.Adagrad``.
    """

    _rule = "TorchAdagrad"
    _slots: ClassVar[Slots] = {"sum": None}

    def __init__(
        self,
        params: ParamsT,
        lr: Number = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        max_norm: float | None = None,
        ema_decay: float | None = None,
        master_weights: bool = True,
    ) -> None:
        super().__init__(**arguments_in(locals()))
        # As in PyTorch the first groups have their state from the start.
        for group in self.param_groups:
            for parameter in filter(is_updatable, group["params"]):
                self.state[parameter] = self._started(parameter, group)

    @property
    def _start(self) -> float:
        """The value that the sums start with, which is the optimizer's, as in PyTorch, and not a group's."""
        start: float = self.defaults["initial_accumulator_value"]
        return start

    def share_memory(self) -> None:
        """Move the sums of squares to shared memory."""
        for state in self.state.values():
            state["sum"].share_memory_()
