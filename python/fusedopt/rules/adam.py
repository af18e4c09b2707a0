"""Adam, with AMSGrad."""

from __future__ import annotations

from dataclasses import KW_ONLY

from fusedopt.hyperparameters import Decay, decay, flag, real
from fusedopt.rules.rowwise import one_per_row
from fusedopt.rules.rule_optimizer import Rate, RuleOptimizer, rate


class Adam(RuleOptimizer):
    """Adaptive moment estimation.

    In update t = 1, 2, ...::

        m <- m + (g - m) (1 - beta_1)
        v <- v + (g^2 - v) (1 - beta_2)
        w <- w - alpha m / (sqrt(v) + epsilon)
        alpha = learning_rate sqrt(1 - beta_2^t) / (1 - beta_1^t)

    With ``amsgrad`` a further slot keeps the largest v so far, and its root is taken instead. ``epsilon`` is added
    to the root before its bias is corrected ("epsilon hat" in the paper).

    With ``rowwise`` a row of a variable has one v, which moves by the mean of g^2 over the row. The state of a large
    table then takes half the memory::

        v <- v + (mean(g^2) - v) (1 - beta_2)

    Examples
    --------
    >>> import numpy as np
    >>> import fusedopt as fo
    >>> w = np.array([1.0, 2.0])
    >>> optimizer = fo.Adam(learning_rate=0.1)
    >>> optimizer.build([w])
    >>> optimizer.apply([np.array([0.5, -8.0])])
    >>> w.round(3)
    array([0.9, 2.1])

    References
    ----------
    Kingma and Ba, Adam: A Method for Stochastic Optimization, ICLR 2015. Reddi et al., On the
    Convergence of Adam and Beyond, ICLR 2018. Keras 3, ``keras.optimizers.Adam``, which computes
    beta^t in float32; here it is computed in double.
    """

    learning_rate: Rate = rate(0.001)
    beta_1: Decay = decay(0.9, "Decay of the first moment, in [0, 1).")
    beta_2: Decay = decay(0.999, "Decay of the second moment, in [0, 1).")
    epsilon: float = real(1e-7, "Added to the root, > 0.")
    amsgrad: bool = flag(False, "Divide by the root of the largest v so far.", shapes_state=True)
    _: KW_ONLY
    rowwise: bool = one_per_row("v")
