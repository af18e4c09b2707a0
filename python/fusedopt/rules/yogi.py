"""Yogi."""

from __future__ import annotations

from dataclasses import KW_ONLY

from fusedopt.hyperparameters import Decay, decay, real
from fusedopt.rules.rowwise import one_per_row
from fusedopt.rules.rule_optimizer import Rate, RuleOptimizer, rate


class Yogi(RuleOptimizer):
    """Adam whose second moment moves by the squared gradient, and so falls slowly.

    In update t = 1, 2, ...::

        m <- m + (g - m) (1 - beta_1)
        v <- v - (1 - beta_2) g^2 sign(v - g^2)
        w <- w - learning_rate m / (1 - beta_1^t) / (sqrt(v / (1 - beta_2^t)) + epsilon)

    Adam's v moves by a part of its distance from g^2, so it forgets a large gradient as soon as small ones follow.
    Yogi's moves by a part of g^2. The sign of 0 is 0, that of NaN is NaN.

    With ``rowwise`` a row of a variable has one v, which moves by the mean of g^2 over the row::

        v <- v - (1 - beta_2) mean(g^2) sign(v - mean(g^2))

    Keras has no such rule. Arguments have the names of Keras's Adam. Numbers and defaults are those of optax, where m
    starts at ``initial_accumulator_value`` as v does. The paper starts v there, and corrects no bias.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedopt as fo
    >>> w = np.array([1.0, 2.0])
    >>> optimizer = fo.Yogi(learning_rate=0.1)
    >>> optimizer.build([w])
    >>> optimizer.apply([np.array([0.5, -8.0])])
    >>> w.round(3)
    array([0.9, 2.1])

    References
    ----------
    Zaheer et al., Adaptive Methods for Nonconvex Optimization, NeurIPS 2018. optax, ``optax.yogi``.
    """

    learning_rate: Rate = rate(0.01)
    beta_1: Decay = decay(0.9, "Decay of the first moment, in [0, 1).")
    beta_2: Decay = decay(0.999, "Decay of the second moment, in [0, 1).")
    epsilon: float = real(1e-3, "Added to the root, > 0.")
    initial_accumulator_value: float = real(1e-6, "What m and v start at, >= 0.", shapes_state=True)
    _: KW_ONLY
    rowwise: bool = one_per_row("v")
