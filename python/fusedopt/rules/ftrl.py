"""Ftrl-proximal."""

from __future__ import annotations

from fusedopt.hyperparameters import real
from fusedopt.rules.rule_optimizer import Rate, RuleOptimizer, rate


class Ftrl(RuleOptimizer):
    """Follow the regularized leader, for sparse models.

    In each update, with p = -learning_rate_power and the names l1, l2 and shrinkage for the three strengths::

        n' = n + g^2
        z <- z + (g + 2 shrinkage w) - (n'^p - n^p) / learning_rate w
        n <- n'
        w <- (clip(z, -l1, l1) - z) / (n^p / learning_rate + 2 l2')
        l2' = l2 + beta / (2 learning_rate)

    The weights are written anew in each step. What they were before the first survives only through z. If the
    denominator is zero, which takes a zero accumulator and a zero gradient, Keras gives NaN, and the weight stays
    as it is here.

    The rule divides by the learning rate. A rate of 0, with which a schedule may end, is no step: weights,
    n and z stay as they are, and only the counter and a moving average move. Keras gives NaN
    there. The same holds for a rate so small that the computing type cannot hold its inverse (below about
    3e-39 for float32).

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

    learning_rate: Rate = rate(0.001)
    learning_rate_power: float = real(
        -0.5,
        """
        <= 0. With -0.5 the power is a square root and runs at full speed. Any other calls the C library
        for each element, many times slower, and its last bits may differ between systems.
        """,
    )
    initial_accumulator_value: float = real(0.1, "What n starts at, >= 0.", shapes_state=True)
    l1_regularization_strength: float = real(0.0, "l1, >= 0.")
    l2_regularization_strength: float = real(0.0, "l2, >= 0.")
    l2_shrinkage_regularization_strength: float = real(
        0.0, "shrinkage, >= 0. Unlike l2 it acts on the gradient alone."
    )
    beta: float = real(0.0, "Adds beta / (2 learning_rate) to l2, >= 0.")
