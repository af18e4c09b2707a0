"""Schedule-free AdamW."""

from __future__ import annotations

from fusedopt.hyperparameters import Decay, decay, integer, real
from fusedopt.rules.rule_optimizer import Rate, RuleOptimizer, rate


class ScheduleFreeAdamW(RuleOptimizer):
    """AdamW that needs no learning-rate schedule.

    In update t = 1, 2, ...::

        v <- v + (g^2 - v) (1 - beta_2)
        z' = z - lr_t g / (sqrt(v / (1 - beta_2^t)) + epsilon)
        x <- (1 - 1/t) x + z' / t,   where before x = (w - (1 - beta_1) z) / beta_1
        w <- (1 - beta_1) z' + beta_1 x
        z <- z'
        lr_t = learning_rate min(t / warmup_steps, 1)

    The variables w are where gradients are taken (the paper's y). z, the first slot, starts as a copy of them.
    Evaluate the model at x: `evaluation_weights` puts it into the variables for a ``with`` block.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedopt as fo
    >>> w = np.array([1.0, 2.0])
    >>> optimizer = fo.ScheduleFreeAdamW(learning_rate=0.1)
    >>> optimizer.build([w])
    >>> optimizer.apply([np.array([0.5, -8.0])])
    >>> w.round(3)
    array([0.9, 2.1])

    References
    ----------
    Defazio et al., The Road Less Scheduled, NeurIPS 2024. Keras 3,
    ``keras.optimizers.ScheduleFreeAdamW``, on its NumPy backend; two other backends read the
    slot after writing it.
    """

    learning_rate: Rate = rate(0.0025)
    beta_1: Decay = decay(0.9, "Weight of the average x in w, in (0, 1).")
    beta_2: Decay = decay(0.999, "Decay of the second moment, in [0, 1).")
    epsilon: float = real(1e-8, "Added to the root, > 0.")
    warmup_steps: int = integer(0, "Updates over which the learning rate grows to its value, >= 0.")
