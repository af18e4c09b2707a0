"""Adafactor."""

from __future__ import annotations

from fusedopt.hyperparameters import flag, real
from fusedopt.rules.rule_optimizer import Rate, RuleOptimizer, rate


class Adafactor(RuleOptimizer):
    """Adam's second moment, kept only as the means of its rows and columns.

    For a variable with two or more dimensions, over its last two, in update t = 1, 2, ...::

        q = g^2 + epsilon_1,   b = 1 - t^beta_2_decay
        r <- b r + (1 - b) mean of q over each row
        c <- b c + (1 - b) mean of q over each column
        u_ij = g_ij / sqrt(r_i c_j / mean(r))
        w <- w - alpha u / max(1, rms(u) / clip_threshold)
        alpha = max(epsilon_2, rms(w)) min(learning_rate, 1 / sqrt(t))

    rms is the root of the mean square. For a variable with fewer dimensions v <- b v + (1 - b) q is kept whole, and
    u = g / sqrt(v).

    A step reads the gradient three times and the variable twice: 24 bytes per element of float32. Memory between
    steps is one number per row and one per column. Keras also stores the second moment of matrices,
    r_i c_j / mean(r), and so `variables` lists it as ``velocity``. Here it is computed
    whenever `variables` is read, takes memory only from then on, and writing to it has no effect.

    If r_i or c_j is zero, the update is zero (in Keras the whole variable can become NaN).
    As in Keras, a gradient that is not finite makes its whole variable NaN, and so does one whose square float32
    cannot hold (beyond 1e19). In a variable of fewer than two dimensions such an element has an update of zero
    instead. As in Keras, ``relative_step`` makes no difference: the learning rate is always at most 1 / sqrt(t).

    Examples
    --------
    >>> import numpy as np
    >>> import fusedopt as fo
    >>> w = np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> optimizer = fo.Adafactor(learning_rate=0.1)
    >>> optimizer.build([w])
    >>> optimizer.apply([np.array([[0.5, -8.0], [1.0, 1.0]])])
    >>> w.round(3)
    array([[0.953, 2.104],
           [2.469, 3.926]])

    References
    ----------
    Shazeer & Stern, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost, ICML 2018.
    Keras 3, ``keras.optimizers.Adafactor``.
    """

    learning_rate: Rate = rate(0.001)
    beta_2_decay: float = real(-0.8, "How fast the means forget, <= 0.")
    epsilon_1: float = real(1e-30, "Added to the squared gradient, >= 0.")
    epsilon_2: float = real(1e-3, "Least factor on the learning rate, >= 0.")
    clip_threshold: float = real(1.0, "An update of a larger rms is scaled down to it, > 0.")
    relative_step: bool = flag(True, "Without effect.", reaches_core=False)
