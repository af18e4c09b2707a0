"""Polynomial decay, once or in cycles."""

from __future__ import annotations

from fusedopt.runtime import _core
from fusedopt.schedules.declared_schedule import DeclaredSchedule, flag, numeric, schedule_name


class PolynomialDecay(DeclaredSchedule):
    r"""A learning rate that goes from one value to another along a power of the time that is left.

    .. math::

        \eta(s) &= (\text{initial\_learning\_rate} - \text{end\_learning\_rate})\,(1 - p)^{\text{power}}
            + \text{end\_learning\_rate} \\
        p &= \min(s / \text{decay\_steps},\ 1)

    With ``cycle``, ``decay_steps`` is replaced by its first multiple that is not below the step. So a
    new cycle starts lower than the one before, and a multiple itself is the end of its cycle, not
    the start of the next.

    Raises
    ------
    ValueError
        If a number is out of its range; in a call, if the step is not finite.
    TypeError
        If an argument is of another type.

    Examples
    --------
    >>> import fusedopt as fo
    >>> schedule = fo.schedules.PolynomialDecay(1.0, decay_steps=10, end_learning_rate=0.0, power=2.0)
    >>> [schedule(step) for step in (0, 5, 10, 15)]
    [1.0, 0.25, 0.0, 0.0]

    References
    ----------
    Keras 3, ``keras.optimizers.schedules.PolynomialDecay``.
    """

    initial_learning_rate: float = numeric(">= 0.")
    decay_steps: float = numeric("> 0; a whole number as a rule.")
    end_learning_rate: float = numeric(">= 0.", default=0.0001)
    power: float = numeric(">= 0.", default=1.0)
    cycle: bool = flag(
        "Start again after ``decay_steps`` steps, instead of staying at the end.", default=False
    )
    name: str | None = schedule_name(default="PolynomialDecay")

    _formula = staticmethod(_core.polynomial_decay)
