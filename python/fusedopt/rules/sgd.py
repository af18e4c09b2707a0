"""Gradient descent, with momentum."""

from __future__ import annotations

from fusedopt.hyperparameters import flag, real
from fusedopt.rules.rule_optimizer import Rate, RuleOptimizer, rate


class SGD(RuleOptimizer):
    """Gradient descent, with momentum and Nesterov's momentum.

    Without momentum there is no slot::

        w <- w - learning_rate g

    With momentum the learning rate is inside the slot::

        m <- momentum m - learning_rate g
        w <- w + m                                  or, with nesterov,
        w <- w + momentum m - learning_rate g

    Examples
    --------
    >>> import numpy as np
    >>> import fusedopt as fo
    >>> w = np.array([1.0, 2.0])
    >>> optimizer = fo.SGD(learning_rate=0.1, momentum=0.9)
    >>> optimizer.build([w])
    >>> for _ in range(2):
    ...     optimizer.apply([np.array([1.0, 1.0])])
    >>> w
    array([0.71, 1.71])

    References
    ----------
    Sutskever et al., On the importance of initialization and momentum in deep learning, ICML 2013.
    Keras 3, ``keras.optimizers.SGD``.
    """

    learning_rate: Rate = rate(0.01)
    momentum: float = real(
        0.0,
        """
        Share of the slot m that is kept, in [0, 1]. An optimizer that is built with 0 has no slot, and its
        momentum stays 0.
        """,
    )
    nesterov: bool = flag(
        False, "Look ahead along the momentum. No effect without momentum.", needs="momentum"
    )
