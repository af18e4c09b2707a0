"""RMSprop."""

from __future__ import annotations

from dataclasses import KW_ONLY

from fusedopt.hyperparameters import flag, real
from fusedopt.rules.rowwise import one_per_row
from fusedopt.rules.rule_optimizer import Rate, RuleOptimizer, rate


class RMSprop(RuleOptimizer):
    """Divide the gradient by a running root mean square of itself.

    With or without centering and momentum::

        v <- rho v + (1 - rho) g^2
        a <- rho a + (1 - rho) g                    if centered
        d = v + epsilon                             or, if centered,
        d = max(v - a^2, 0) + epsilon
        p <- momentum p + learning_rate g / sqrt(d)
        w <- w - p

    With ``rowwise`` a row of a variable has one v, which moves by the mean of g^2 over the row. ``centered`` needs one
    v per element, so only one of the two can be on::

        v <- rho v + (1 - rho) mean(g^2)

    Without momentum there is no slot p. Keras lets rounding make v - a^2 negative, which can turn weights
    into NaN. Here the variance is clamped at zero.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedopt as fo
    >>> w = np.array([1.0, 2.0])
    >>> optimizer = fo.RMSprop(learning_rate=0.1, rho=0.75)
    >>> optimizer.build([w])
    >>> optimizer.apply([np.array([0.5, -8.0])])
    >>> w.round(3)
    array([0.8, 2.2])

    References
    ----------
    Hinton, Neural Networks for Machine Learning, lecture 6e, 2012. Keras 3, ``keras.optimizers.RMSprop``.
    """

    learning_rate: Rate = rate(0.001)
    rho: float = real(0.9, "Share of the means that is kept, in [0, 1).")
    momentum: float = real(
        0.0,
        """
        Share of the slot p that is kept, in [0, 1]. An optimizer that is built with 0 has no slot, and its
        momentum stays 0.
        """,
    )
    epsilon: float = real(1e-7, "Added under the root, > 0.")
    centered: bool = flag(
        False,
        "Divide by an estimate of the variance instead of the mean square.",
        shapes_state=True,
    )
    _: KW_ONLY
    rowwise: bool = one_per_row("v")
