"""Adam with decoupled weight decay."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Any

from fusedopt import arguments
from fusedopt.hyperparameters import hyperparameter
from fusedopt.rules.adam import Adam
from fusedopt.rules.rule_optimizer import Rate, rate


def _checked_weight_decay(name: str, value: Any) -> float:
    if value is None:
        raise ValueError(f"{name}: expected a number >= 0, found None; Adam is AdamW without it")
    return arguments.real(name, value)


class AdamW(Adam):
    """Adam with decoupled weight decay on by default.

    In each update::

        w <- w - learning_rate weight_decay w       and then Adam's update of w

    Examples
    --------
    >>> import numpy as np
    >>> import fusedopt as fo
    >>> w = np.array([1.0, 2.0])
    >>> optimizer = fo.AdamW(learning_rate=0.1, weight_decay=0.5)
    >>> optimizer.build([w])
    >>> optimizer.apply([np.array([0.5, -8.0])])
    >>> w.round(3)
    array([0.85, 2.  ])

    References
    ----------
    Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019. Keras 3,
    ``keras.optimizers.AdamW``.
    """

    learning_rate: Rate = rate(0.001)
    _: KW_ONLY
    weight_decay: float = hyperparameter(
        0.004,
        _checked_weight_decay,
        "float",
        "Decoupled weight decay, >= 0: before the rule, w <- w - learning_rate * weight_decay * w. None is refused: "
        "that would be Adam.",
    )
