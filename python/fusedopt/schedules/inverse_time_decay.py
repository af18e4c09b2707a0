"""Decay with the inverse of time."""

from __future__ import annotations

from fusedopt.runtime import _core
from fusedopt.schedules.declared_schedule import DeclaredSchedule, flag, numeric, schedule_name


class InverseTimeDecay(DeclaredSchedule):
    r"""A learning rate that is divided by a line in time.

    .. math:: \eta(s) = \frac{\text{initial\_learning\_rate}}{1 + \text{decay\_rate} \cdot p},
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
    >>> schedule = fo.schedules.InverseTimeDecay(0.5, decay_steps=10, decay_rate=1.0)
    >>> [schedule(step) for step in (0, 10, 30)]
    [0.5, 0.25, 0.125]

    References
    ----------
    Keras 3, ``keras.optimizers.schedules.InverseTimeDecay``.
    """

    initial_learning_rate: float = numeric(">= 0.")
    decay_steps: float = numeric("> 0; a whole number as a rule.")
    decay_rate: float = numeric(">= 0.")
    staircase: bool = flag(
        "Round p down, so that the rate changes every ``decay_steps`` steps only.", default=False
    )
    name: str | None = schedule_name(default="InverseTimeDecay")

    _formula = staticmethod(_core.inverse_time_decay)
