# mypy: allow-subclassing-any, allow-untyped-decorators
"""The frame of a step: what PyTorch, its GradScaler and its autograd expect around an update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

__all__ = ["Stepping", "note_changes"]


class Stepping(torch.optim.Optimizer):
    """An optimizer that updates in one call. Its update runs no operation of PyTorch, and so needs no no_grad."""

    _require_training: Callable[[], None]
    _update: Callable[
        [float | None], None
    ]  # with the gradients divided by GradScaler's scale, if there is one

    # GradScaler leaves unscaling, and skipping a step, to this class.
    _step_supports_amp_scaling = True

    @torch.compiler.disable
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters that have a gradient.

        Parameters
        ----------
        closure : callable, optional
            Computes the loss, and the gradients by ``backward``. It is called first, with gradients enabled.

        Returns
        -------
        object
            What the closure returned.

        Raises
        ------
        ValueError, TypeError, AttributeError
            If a gradient, a parameter or its state cannot be used, or an option is out of its range or shapes a state
            that is there. The message names the group and the parameter. Nothing has changed then.
        ValueError, RuntimeError
            If the parameters hold the weights to evaluate with.
        """
        self._require_training()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scaler = vars(self)
        found_inf = scaler.get("found_inf")
        if found_inf is None or float(found_inf) == 0.0:
            scale = scaler.get("grad_scale")
            self._update(None if scale is None else float(scale))
        return loss


def note_changes(parameters: Sequence[torch.Tensor]) -> None:
    """Let autograd know of new values: a backward pass that needs the old ones must fail."""
    try:
        torch.autograd.graph.increment_version(parameters)
    except RuntimeError:  # tensors of torch.inference_mode have no version
        torch.autograd.graph.increment_version([p for p in parameters if not p.is_inference()])
