"""Constants between boundaries."""

from __future__ import annotations

from fusedopt.runtime import _core
from fusedopt.schedules.declared_schedule import DeclaredSchedule, Numbers, schedule_name


class PiecewiseConstantDecay(DeclaredSchedule):
    r"""A learning rate that is constant between boundaries.

    .. math:: \eta(s) = \text{values}_i \quad\text{for the first } i
        \text{ with } s \le \text{boundaries}_i

    Beyond the last boundary it is the last value. A boundary belongs to the piece before it.

    Raises
    ------
    ValueError
        If the lists do not fit each other, or a number is out of its range; in a call, if the step
        is not finite.
    TypeError
        If an argument is of another type.

    Examples
    --------
    >>> import fusedopt as fo
    >>> schedule = fo.schedules.PiecewiseConstantDecay([100, 200], [0.1, 0.01, 0.001])
    >>> [schedule(step) for step in (0, 100, 101, 200, 201)]
    [0.1, 0.1, 0.01, 0.01, 0.001]

    References
    ----------
    Keras 3, ``keras.optimizers.schedules.PiecewiseConstantDecay``.
    """

    boundaries: Numbers = Numbers("Steps, each greater than the one before.")
    values: Numbers = Numbers("One more than boundaries, each >= 0.")
    name: str | None = schedule_name(default="PiecewiseConstant")

    _formula = staticmethod(_core.piecewise_constant_decay)
