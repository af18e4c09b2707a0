"""Constants between boundaries."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fusedopt.runtime import _core
from fusedopt.schedules.arguments import Steps, numbers_list, optional_text, steps
from fusedopt.schedules.learning_rate_schedule import LearningRateSchedule


class PiecewiseConstantDecay(LearningRateSchedule):
    r"""A learning rate that is constant between boundaries.

    .. math:: \eta(s) = \text{values}_i \quad\text{for the first } i
        \text{ with } s \le \text{boundaries}_i

    Beyond the last boundary it is the last value. A boundary belongs to the piece before it.

    Parameters
    ----------
    boundaries : list of float
        Steps, each greater than the one before.
    values : list of float
        One more than boundaries, each >= 0.
    name : str, optional
        For the configuration.

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

    def __init__(
        self,
        boundaries: Iterable[float],
        values: Iterable[float],
        name: str | None = "PiecewiseConstant",
    ) -> None:
        self.boundaries = numbers_list("boundaries", boundaries)
        self.values = numbers_list("values", values)
        self.name = optional_text("name", name)
        PiecewiseConstantDecay.__call__(self, 0)  # refuses what is out of range

    def __call__(self, step: Steps) -> Steps:
        """Return the learning rate after so many steps, or an array of them for an array of steps."""
        return _core.piecewise_constant_decay(
            steps(step), boundaries=self.boundaries, values=self.values
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal schedule."""
        return {
            "boundaries": list(self.boundaries),
            "values": list(self.values),
            "name": self.name,
        }
