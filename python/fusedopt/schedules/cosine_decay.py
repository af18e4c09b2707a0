"""Half a wave of the cosine, with a warm-up."""

from __future__ import annotations

from fusedopt.runtime import _core
from fusedopt.schedules.declared_schedule import (
    DeclaredSchedule,
    numeric,
    optional_numeric,
    schedule_name,
)


class CosineDecay(DeclaredSchedule):
    r"""A learning rate that falls along half a wave of the cosine, after a linear warm-up.

    .. math::

        \eta(s) &= \text{initial\_learning\_rate} \cdot c(s / \text{decay\_steps}) \\
        c(p) &= (1 - \text{alpha}) \frac{1 + \cos(\pi \min(p, 1))}{2} + \text{alpha}

    With a ``warmup_target`` it first goes there from ``initial_learning_rate``, on a straight line in
    ``warmup_steps`` steps, and then

    .. math:: \eta(s) = \text{warmup\_target} \cdot
        c\big((s - \text{warmup\_steps}) / \text{decay\_steps}\big)

    Raises
    ------
    ValueError
        If a number is out of its range; in a call, if the step is not finite.
    TypeError
        If an argument is of another type.

    Examples
    --------
    >>> import fusedopt as fo
    >>> schedule = fo.schedules.CosineDecay(0.0, 100, alpha=0.5, warmup_target=1.0, warmup_steps=10)
    >>> [schedule(step) for step in (0, 5, 10, 60, 110, 111)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.5]

    References
    ----------
    Loshchilov & Hutter, SGDR: stochastic gradient descent with warm restarts, ICLR 2017.
    Keras 3, ``keras.optimizers.schedules.CosineDecay``.
    """

    initial_learning_rate: float = numeric(">= 0.")
    decay_steps: float = numeric("Steps after the warm-up, > 0; a whole number as a rule.")
    alpha: float = numeric(
        "The last learning rate, as a fraction of the one the cosine starts from. >= 0.",
        default=0.0,
    )
    name: str | None = schedule_name(default="CosineDecay")
    warmup_target: float | None = optional_numeric(">= 0. None: no warm-up.", default=None)
    warmup_steps: float = numeric(
        ">= 0; without a ``warmup_target`` it has no effect.", default=0, needs="warmup_target"
    )

    _formula = staticmethod(_core.cosine_decay)
