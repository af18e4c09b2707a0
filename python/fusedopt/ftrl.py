"""Ftrl-proximal."""

from __future__ import annotations

from typing import Any

from fusedopt import arguments
from fusedopt.optimizer import LearningRate, Optimizer
from fusedopt.runtime import _core


class Ftrl(Optimizer):
    r"""Follow the regularized leader, for sparse models.

    .. math::

        n' &= n + g^2 \\
        z &\leftarrow z + (g + 2 \lambda_s w) - \frac{n'^p - n^p}{\eta} w, \qquad n \leftarrow n' \\
        w &\leftarrow \frac{\mathrm{clip}(z, -\lambda_1, \lambda_1) - z}{n'^p / \eta + 2 \lambda_2'}, \qquad
        \lambda_2' = \lambda_2 + \frac{\beta}{2 \eta}

    with :math:`p` = -learning_rate_power. The weights are written anew in each step: what they were before
    the first survives only through :math:`z`. Where the denominator is zero, which takes a zero
    accumulator and a zero gradient, Keras gives NaN and the weight stays as it is here.

    The rule divides by the learning rate. A rate of 0, with which a schedule may end, is no step: weights,
    :math:`n` and :math:`z` stay as they are, and only the counter and a moving average move. Keras gives NaN
    there. The same holds for a rate so small that the computing type cannot hold its inverse (below about
    3e-39 for float32).

    Parameters
    ----------
    learning_rate : float, LearningRateSchedule or callable
        :math:`\eta`.
    learning_rate_power : float
        <= 0. With -0.5 the power is a square root and runs at full speed. Any other calls the C
        library for each element, many times slower, and its last bits may differ between
        systems.
    initial_accumulator_value : float
        What :math:`n` starts at, >= 0.
    l1_regularization_strength : float
        :math:`\lambda_1`, >= 0.
    l2_regularization_strength : float
        :math:`\lambda_2`, >= 0.
    l2_shrinkage_regularization_strength : float
        :math:`\lambda_s`, >= 0; unlike L2 it acts on the gradient alone.
    beta : float
        :math:`\beta`, >= 0.
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
    >>> optimizer = fo.Ftrl(learning_rate=0.1)
    >>> optimizer.build([w])
    >>> optimizer.apply([np.array([0.5, -8.0])])
    >>> w.round(3)
    array([0.381, 2.021])

    References
    ----------
    McMahan et al., Ad Click Prediction: a View from the Trenches, KDD 2013. Keras 3,
    ``keras.optimizers.Ftrl``.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        learning_rate_power: float = -0.5,
        initial_accumulator_value: float = 0.1,
        l1_regularization_strength: float = 0.0,
        l2_regularization_strength: float = 0.0,
        l2_shrinkage_regularization_strength: float = 0.0,
        beta: float = 0.0,
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
        self.learning_rate_power = arguments.real("learning_rate_power", learning_rate_power)
        self.initial_accumulator_value = arguments.real(
            "initial_accumulator_value", initial_accumulator_value
        )
        self.l1_regularization_strength = arguments.real(
            "l1_regularization_strength", l1_regularization_strength
        )
        self.l2_regularization_strength = arguments.real(
            "l2_regularization_strength", l2_regularization_strength
        )
        self.l2_shrinkage_regularization_strength = arguments.real(
            "l2_shrinkage_regularization_strength", l2_shrinkage_regularization_strength
        )
        self.beta = arguments.real("beta", beta)
        super().__init__(
            _core.rule(
                "Ftrl",
                learning_rate_power=self.learning_rate_power,
                initial_accumulator_value=self.initial_accumulator_value,
                l1_regularization_strength=self.l1_regularization_strength,
                l2_regularization_strength=self.l2_regularization_strength,
                l2_shrinkage_regularization_strength=self.l2_shrinkage_regularization_strength,
                beta=self.beta,
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
            "learning_rate_power": self.learning_rate_power,
            "initial_accumulator_value": self.initial_accumulator_value,
            "l1_regularization_strength": self.l1_regularization_strength,
            "l2_regularization_strength": self.l2_regularization_strength,
            "l2_shrinkage_regularization_strength": self.l2_shrinkage_regularization_strength,
            "beta": self.beta,
        }
