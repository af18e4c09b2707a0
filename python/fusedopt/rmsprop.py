"""RMSprop."""

from __future__ import annotations

from typing import Any

from fusedopt import arguments
from fusedopt.optimizer import LearningRate, Optimizer
from fusedopt.runtime import _core


class RMSprop(Optimizer):
    r"""Divide the gradient by a running root mean square of itself.

    .. math::

        v &\leftarrow \rho v + (1 - \rho) g^2 \\
        a &\leftarrow \rho a + (1 - \rho) g \qquad\text{(centered)} \\
        d &= v + \epsilon \qquad\text{or, centered,}\qquad d = \max(v - a^2, 0) + \epsilon \\
        p &\leftarrow \mu p + \eta g / \sqrt d \\
        w &\leftarrow w - p

    Without momentum there is no slot :math:`p`. Keras lets rounding make :math:`v - a^2` negative,
    which can turn weights into NaN; here the variance is clamped at zero.

    Parameters
    ----------
    learning_rate : float, LearningRateSchedule or callable
        :math:`\eta`.
    rho : float
        Discounting factor, in [0, 1).
    momentum : float
        :math:`\mu`, in [0, 1]; plain momentum.
    epsilon : float
        Added under the root, > 0.
    centered : bool
        Divide by an estimate of the variance instead of the mean square.
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
    >>> optimizer = fo.RMSprop(learning_rate=0.1, rho=0.75)
    >>> optimizer.build([w])
    >>> optimizer.apply([np.array([0.5, -8.0])])
    >>> w.round(3)
    array([0.8, 2.2])

    References
    ----------
    Hinton, Neural Networks for Machine Learning, lecture 6e, 2012. Keras 3, ``keras.optimizers.RMSprop``.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
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
        self.rho = arguments.real("rho", rho)
        self.momentum = arguments.real("momentum", momentum)
        self.epsilon = arguments.real("epsilon", epsilon)
        self.centered = arguments.flag("centered", centered)
        super().__init__(
            _core.rule(
                "RMSprop",
                rho=self.rho,
                momentum=self.momentum,
                epsilon=self.epsilon,
                centered=self.centered,
            ),
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
        return super().get_config() | {
            "rho": self.rho,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "centered": self.centered,
        }
