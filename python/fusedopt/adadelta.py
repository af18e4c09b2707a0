"""Adadelta."""

from __future__ import annotations

from typing import Any

from fusedopt import arguments
from fusedopt.optimizer import LearningRate, Optimizer
from fusedopt.runtime import _core


class Adadelta(Optimizer):
    r"""Scale the gradient by the ratio of two running means, of past steps and of past gradients.

    .. math::

        e &\leftarrow \rho e + (1 - \rho) g^2 \\
        d &= \sqrt{(x + \epsilon) / (e + \epsilon)}\; g \\
        x &\leftarrow \rho x + (1 - \rho) d^2 \\
        w &\leftarrow w - \eta d

    The paper's form has :math:`\eta = 1`.

    Parameters
    ----------
    learning_rate : float, LearningRateSchedule or callable
        :math:`\eta`.
    rho : float
        Decay of both means, in [0, 1).
    epsilon : float
        > 0.
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
    >>> optimizer = fo.Adadelta(learning_rate=1.0, epsilon=0.01)
    >>> optimizer.build([w])
    >>> optimizer.apply([np.array([0.5, -8.0])])
    >>> w.round(3)
    array([0.667, 2.447])

    References
    ----------
    Zeiler, ADADELTA: An Adaptive Learning Rate Method, 2012. Keras 3,
    ``keras.optimizers.Adadelta``.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        rho: float = 0.95,
        epsilon: float = 1e-7,
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
        self.epsilon = arguments.real("epsilon", epsilon)
        super().__init__(
            _core.rule(
                "Adadelta",
                rho=self.rho,
                epsilon=self.epsilon,
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
            "epsilon": self.epsilon,
        }
