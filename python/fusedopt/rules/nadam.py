"""Nadam."""

from __future__ import annotations

from dataclasses import KW_ONLY

from fusedopt.hyperparameters import Decay, decay, real
from fusedopt.rules.rowwise import one_per_row
from fusedopt.rules.rule_optimizer import Rate, RuleOptimizer, rate


class Nadam(RuleOptimizer):
    """Adam with Nesterov's momentum.

    In update t = 1, 2, ...::

        m <- m + (g - m) (1 - beta_1)
        v <- v + (g^2 - v) (1 - beta_2)
        mu_t = beta_1 (1 - 0.96^t / 2)
        U = mu_1 mu_2 ... mu_t
        d = mu_(t+1) m / (1 - U mu_(t+1)) + (1 - mu_t) g / (1 - U)
        w <- w - learning_rate d / (sqrt(v / (1 - beta_2^t)) + epsilon)

    With ``rowwise`` a row of a variable has one v, which moves by the mean of g^2 over the row::

        v <- v + (mean(g^2) - v) (1 - beta_2)

    The product U is the last of `variables`. Stores that Keras writes through its LossScaleOptimizer leave it out.
    It is then recomputed from the number of updates.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedopt as fo
    >>> w = np.array([1.0, 2.0])
    >>> optimizer = fo.Nadam(learning_rate=0.1)
    >>> optimizer.build([w])
    >>> optimizer.apply([np.array([0.5, -8.0])])
    >>> w.round(3)
    array([0.894, 2.106])

    References
    ----------
    Dozat, Incorporating Nesterov Momentum into Adam, ICLR workshop 2016. Keras 3,
    ``keras.optimizers.Nadam``.
    """

    learning_rate: Rate = rate(0.001)
    beta_1: Decay = decay(0.9, "Decay of the first moment, in [0, 1).")
    beta_2: Decay = decay(0.999, "Decay of the second moment, in [0, 1).")
    epsilon: float = real(1e-7, "Added to the root, > 0.")
    _: KW_ONLY
    rowwise: bool = one_per_row("v")
