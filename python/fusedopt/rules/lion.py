"""Lion."""

from __future__ import annotations

from fusedopt.hyperparameters import Decay, decay
from fusedopt.rules.rule_optimizer import Rate, RuleOptimizer, rate


class Lion(RuleOptimizer):
    """Move by the sign of a momentum.

    In each update::

        c = beta_1 m + (1 - beta_1) g
        w <- w - learning_rate sign(c)
        m <- beta_2 m + (1 - beta_2) g

    The sign of 0 is 0, that of NaN is NaN.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedopt as fo
    >>> w = np.array([1.0, 2.0])
    >>> optimizer = fo.Lion(learning_rate=0.1)
    >>> optimizer.build([w])
    >>> optimizer.apply([np.array([0.5, -8.0])])
    >>> w.round(3)
    array([0.9, 2.1])

    References
    ----------
    Chen et al., Symbolic Discovery of Optimization Algorithms, NeurIPS 2023. Keras 3,
    ``keras.optimizers.Lion``.
    """

    learning_rate: Rate = rate(0.001)
    beta_1: Decay = decay(0.9, "Weight of the momentum in the step, in (0, 1].")
    beta_2: Decay = decay(0.99, "Decay of the momentum, in [0, 1).")
