"""Adadelta."""

from __future__ import annotations

from fusedopt.hyperparameters import real
from fusedopt.rules.rule_optimizer import Rate, RuleOptimizer, rate


class Adadelta(RuleOptimizer):
    """Scale the gradient by the ratio of two running means, of past steps and of past gradients.

    In each update::

        e <- rho e + (1 - rho) g^2
        d = sqrt((x + epsilon) / (e + epsilon)) g
        x <- rho x + (1 - rho) d^2
        w <- w - learning_rate d

    The paper's form has a learning rate of 1.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedopt as fo
    >>> w = np.array([1.0, 2.0])
    >>> optimizer = fo.Adadelta(learning_rate=1.0, epsilon=0.01)
    >>> optimizer.build([w])
    >>> optimizer.apply([np.array([0.5, -8.0])])
    >>> w.round(3)
    array([0.667, 2.447])

    References
    ----------
    Zeiler, ADADELTA: An Adaptive Learning Rate Method, 2012. Keras 3,
    ``keras.optimizers.Adadelta``.
    """

    learning_rate: Rate = rate(0.001)
    rho: float = real(0.95, "Share of both means that is kept, in [0, 1).")
    epsilon: float = real(1e-7, "Added to both means, > 0.")
