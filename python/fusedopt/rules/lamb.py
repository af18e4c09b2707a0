"""LAMB."""

from __future__ import annotations

from fusedopt.hyperparameters import Decay, decay, real
from fusedopt.rules.rule_optimizer import Rate, RuleOptimizer, rate


class Lamb(RuleOptimizer):
    """Adam's direction, scaled for each variable by a trust ratio.

    In update t = 1, 2, ...::

        m <- m + (g - m) (1 - beta_1)
        v <- v + (g^2 - v) (1 - beta_2)
        u = m / (1 - beta_1^t) / (sqrt(v / (1 - beta_2^t)) + epsilon)
        w <- w - r learning_rate u,   r = norm(w) / norm(u)

    r is 1 if a norm is zero or NaN. As in Keras weight decay is decoupled and comes before the norm
    of w is taken. In the paper it is part of u. The norms make two sweeps of the step: 40 bytes per
    element of float32.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedopt as fo
    >>> w = np.array([1.0, 2.0])
    >>> optimizer = fo.Lamb(learning_rate=0.1)
    >>> optimizer.build([w])
    >>> optimizer.apply([np.array([0.5, -8.0])])
    >>> w.round(3)
    array([0.842, 2.158])

    References
    ----------
    You et al., Large Batch Optimization for Deep Learning: Training BERT in 76 minutes, ICLR
    2020. Keras 3, ``keras.optimizers.Lamb``.
    """

    learning_rate: Rate = rate(0.001)
    beta_1: Decay = decay(0.9, "Decay of the first moment, in [0, 1).")
    beta_2: Decay = decay(0.999, "Decay of the second moment, in [0, 1).")
    epsilon: float = real(1e-7, "Added to the root, > 0.")
