"""Adagrad."""

from __future__ import annotations

from typing import Any

from fusedopt import arguments
from fusedopt.optimizer import LearningRate, Optimizer
from fusedopt.runtime import _core


class Adagrad(Optimizer):
    r"""Divide the gradient by the root of the sum of its squares so far.

    .. math::

        a &\leftarrow a + g^2 \\
        w &\leftarrow w - \eta g / \sqrt{a + \epsilon}

    Parameters
    ----------
    learning_rate : float, LearningRateSchedule or callable
        :math:`\eta`.
    initial_accumulator_value : float
        What :math:`a` starts at, >= 0.
    epsilon : float
        Added under the root, > 0.
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
    >>> optimizer = fo.Adagrad(learning_rate=0.1)
    >>> optimizer.build([w])
    >>> optimizer.apply([np.array([0.5, -8.0])])
    >>> w.round(3)
    array([0.915, 2.1  ])

    References
    ----------
    Duchi, Hazan and Singer, Adaptive Subgradient Methods for Online Learning and Stochastic
    Optimization, JMLR 2011. Keras 3, ``keras.optimizers.Adagrad``.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        initial_accumulator_value: float = 0.1,
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
        self.initial_accumulator_value = arguments.real(
            "initial_accumulator_value", initial_accumulator_value
        )
        self.epsilon = arguments.real("epsilon", epsilon)
        super().__init__(
            _core.rule(
                "Adagrad",
                initial_accumulator_value=self.initial_accumulator_value,
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
            "initial_accumulator_value": self.initial_accumulator_value,
            "epsilon": self.epsilon,
        }
