"""Adam with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fusedopt import arguments
from fusedopt.adam import Adam
from fusedopt.optimizer import LearningRate


class AdamW(Adam):
    r"""Adam with decoupled weight decay on by default.

    .. math:: w \leftarrow w - \eta \lambda w \qquad\text{and then Adam's update of } w

    Parameters
    ----------
    learning_rate, beta_1, beta_2, epsilon, amsgrad
        As in `Adam`.
    weight_decay : float
        :math:`\lambda`, >= 0. None is refused: that would be Adam.
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
    >>> optimizer = fo.AdamW(learning_rate=0.1, weight_decay=0.5)
    >>> optimizer.build([w])
    >>> optimizer.apply([np.array([0.5, -8.0])])
    >>> w.round(3)
    array([0.85, 2.  ])

    References
    ----------
    Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019. Keras 3,
    ``keras.optimizers.AdamW``.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        weight_decay: float = 0.004,
        beta_1: float | Callable[[], float] = 0.9,
        beta_2: float | Callable[[], float] = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
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
        if weight_decay is None:
            raise ValueError(
                "weight_decay: expected a number >= 0, found None; Adam is AdamW without it"
            )
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            amsgrad=amsgrad,
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
