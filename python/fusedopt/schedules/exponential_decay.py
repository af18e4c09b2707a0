"""Exponential decay."""

from __future__ import annotations

from fusedopt.runtime import _core
from fusedopt.schedules.declared_schedule import DeclaredSchedule, flag, numeric, schedule_name


class ExponentialDecay(DeclaredSchedule):
    r"""A learning rate that is multiplied by a constant every so many steps.

    .. math:: \eta(s) = \text{initial\_learning\_rate} \cdot \text{decay\_rate}^{p},
        \qquad p = s / \text{decay\_steps}

    Raises
    ------
    ValueError
        If a number is out of its range; in a call, if the step is not finite.
    TypeError
        If an argument is of another type.

    Examples
    --------
    >>> import fusedopt as fo
    >>> schedule = fo.schedules.ExponentialDecay(0.5, decay_steps=10, decay_rate=0.25)
    >>> [schedule(step) for step in (0, 5, 10, 20)]
    [0.5, 0.25, 0.125, 0.03125]

    References
    ----------
    Keras 3, ``keras.optimizers.schedules.ExponentialDecay``.
    """

    initial_learning_rate: float = numeric(">= 0.")
    decay_steps: float = numeric("> 0; a whole number as a rule.")
    decay_rate: float = numeric(">= 0.")
    staircase: bool = flag(
        "Round p down, so that the rate changes every ``decay_steps`` steps only.", default=False
    )
    name: str | None = schedule_name(default="ExponentialDecay")

    _formula = staticmethod(_core.exponential_decay)
