"""Adam, with AMSGrad."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fusedopt import arguments
from fusedopt.optimizer import LearningRate, Optimizer, hyperparameter
from fusedopt.runtime import _core


class Adam(Optimizer):
    r"""Adaptive moment estimation.

    .. math::

        m &\leftarrow m + (g - m)(1 - \beta_1) \\
        v &\leftarrow v + (g^2 - v)(1 - \beta_2) \\
        w &\leftarrow w - \alpha m / (\sqrt v + \epsilon), \qquad
        \alpha = \eta \sqrt{1 - \beta_2^t} / (1 - \beta_1^t)

    in update :math:`t = 1, 2, \dots` With ``amsgrad`` a further slot keeps the largest :math:`v` so
    far, which stands under the root. :math:`\epsilon` is added to the root before its bias is
    corrected ("epsilon hat" in the paper).

    Parameters
    ----------
    learning_rate : float, LearningRateSchedule or callable
        :math:`\eta`.
    beta_1, beta_2 : float or callable
        Decay of the two moments, in [0, 1). A callable takes no arguments and is called exactly once in
        each update.
    epsilon : float
        > 0.
    amsgrad : bool
        Use the AMSGrad variant.
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
    >>> optimizer = fo.Adam(learning_rate=0.1)
    >>> optimizer.build([w])
    >>> optimizer.apply([np.array([0.5, -8.0])])
    >>> w.round(3)
    array([0.9, 2.1])

    References
    ----------
    Kingma and Ba, Adam: A Method for Stochastic Optimization, ICLR 2015. Reddi et al., On the
    Convergence of Adam and Beyond, ICLR 2018. Keras 3, ``keras.optimizers.Adam``, which computes
    :math:`\beta^t` in float32; here it is computed in double.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float | Callable[[], float] = 0.9,
        beta_2: float | Callable[[], float] = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
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
        self.beta_1 = hyperparameter("beta_1", beta_1)
        self.beta_2 = hyperparameter("beta_2", beta_2)
        self.epsilon = arguments.real("epsilon", epsilon)
        self.amsgrad = arguments.flag("amsgrad", amsgrad)
        super().__init__(
            _core.rule(
                "Adam",
                beta_1=self._core_hyperparameter("beta_1"),
                beta_2=self._core_hyperparameter("beta_2"),
                epsilon=self.epsilon,
                amsgrad=self.amsgrad,
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
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "amsgrad": self.amsgrad,
        }
