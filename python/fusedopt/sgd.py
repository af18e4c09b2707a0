"""Gradient descent, with momentum."""

from __future__ import annotations

from typing import Any

from fusedopt import arguments
from fusedopt.optimizer import LearningRate, Optimizer
from fusedopt.runtime import _core


class SGD(Optimizer):
    r"""Gradient descent, with momentum and Nesterov's momentum.

    Without momentum there is no slot:

    .. math:: w \leftarrow w - \eta g

    With momentum :math:`\mu` the learning rate is inside the slot:

    .. math::

        m &\leftarrow \mu m - \eta g \\
        w &\leftarrow w + m \qquad\text{or, with nesterov,}\qquad w \leftarrow w + \mu m - \eta g

    Parameters
    ----------
    learning_rate : float, LearningRateSchedule or callable
        :math:`\eta`.
    momentum : float
        :math:`\mu`, in [0, 1].
    nesterov : bool
        Look ahead along the momentum. No effect without momentum.
    weight_decay : float, optional
    clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum, ema_overwrite_frequency
        As in `Optimizer`.
    loss_scale_factor, gradient_accumulation_steps, name, skip_nonfinite
        As in `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        As in `Optimizer`.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedopt as fo
    >>> w = np.array([1.0, 2.0])
    >>> optimizer = fo.SGD(learning_rate=0.1, momentum=0.9)
    >>> optimizer.build([w])
    >>> for _ in range(2):
    ...     optimizer.apply([np.array([1.0, 1.0])])
    >>> w
    array([0.71, 1.71])

    References
    ----------
    Sutskever et al., On the importance of initialization and momentum in deep learning, ICML 2013.
    Keras 3, ``keras.optimizers.SGD``.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        skip_nonfinite: bool = False,
        **kwargs: Any,
    ) -> None:
        arguments.none_left(kwargs)
        self.momentum = arguments.real("momentum", momentum)
        self.nesterov = arguments.flag("nesterov", nesterov)
        super().__init__(
            _core.rule("SGD", momentum=self.momentum, nesterov=self.nesterov),
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
            skip_nonfinite=skip_nonfinite,
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal optimizer, without its state."""
        return super().get_config() | {"momentum": self.momentum, "nesterov": self.nesterov}
