"""Adagrad."""

from __future__ import annotations

from dataclasses import KW_ONLY

from fusedopt.hyperparameters import real
from fusedopt.rules.rowwise import one_per_row
from fusedopt.rules.rule_optimizer import Rate, RuleOptimizer, rate


class Adagrad(RuleOptimizer):
    """Divide the gradient by the root of the sum of its squares so far.

    In each update::

        a <- a + g^2
        w <- w - learning_rate g / sqrt(a + epsilon)

    With ``rowwise`` a row of a variable has one a, to which the mean of g^2 over the row is added. The state of a large
    table then takes next to no memory::

        a <- a + mean(g^2)

    FBGEMM's rowwise Adagrad, which recommenders use, adds epsilon to the root instead of under it.

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

    learning_rate: Rate = rate(0.001)
    initial_accumulator_value: float = real(0.1, "What a starts at, >= 0.", shapes_state=True)
    epsilon: float = real(1e-7, "Added under the root, > 0.")
    _: KW_ONLY
    rowwise: bool = one_per_row("a")
