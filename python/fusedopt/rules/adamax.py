"""Adamax."""

from __future__ import annotations

from fusedopt.hyperparameters import Decay, decay, real
from fusedopt.rules.rule_optimizer import Rate, RuleOptimizer, rate


class Adamax(RuleOptimizer):
    """Adam with the infinity norm in place of the second moment.

    In update t = 1, 2, ...::

        m <- m + (g - m) (1 - beta_1)
        u <- max(beta_2 u, |g|)
        w <- w - learning_rate / (1 - beta_1^t) m / (u + epsilon)

    Examples
    --------
    >>> import numpy as np
    >>> import fusedopt as fo
    >>> w = np.array([1.0, 2.0])
    >>> optimizer = fo.Adamax(learning_rate=0.1)
    >>> optimizer.build([w])
    >>> optimizer.apply([np.array([0.5, -8.0])])
    >>> w.round(3)
    array([0.9, 2.1])

    References
    ----------
    Kingma and Ba, Adam: A Method for Stochastic Optimization, ICLR 2015, section 7.1. Keras 3,
    ``keras.optimizers.Adamax``.
    """

    learning_rate: Rate = rate(0.001)
    beta_1: Decay = decay(0.9, "Decay of the first moment, in [0, 1).")
    beta_2: Decay = decay(0.999, "Decay of the norm u, in [0, 1).")
    epsilon: float = real(1e-7, "Added to the norm, > 0.")
