"""Decay with the inverse of time."""

from __future__ import annotations

from typing import Any

from fusedopt import arguments
from fusedopt.runtime import _core
from fusedopt.schedules.arguments import Steps, number, optional_text, steps
from fusedopt.schedules.learning_rate_schedule import LearningRateSchedule


class InverseTimeDecay(LearningRateSchedule):
    r"""A learning rate that is divided by a line in time.

    .. math:: \eta(s) = \frac{\text{initial\_learning\_rate}}{1 + \text{decay\_rate} \cdot p},
        \qquad p = s / \text{decay\_steps}

    Parameters
    ----------
    initial_learning_rate : float
        >= 0.
    decay_steps : float
        > 0; a whole number as a rule.
    decay_rate : float
        >= 0.
    staircase : bool
        Round :math:`p` down, so that the rate changes every ``decay_steps`` steps only.
    name : str, optional
        For the configuration.

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

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        decay_rate: float,
        staircase: bool = False,
        name: str | None = "InverseTimeDecay",
    ) -> None:
        self.initial_learning_rate = number("initial_learning_rate", initial_learning_rate)
        self.decay_steps = number("decay_steps", decay_steps)
        self.decay_rate = number("decay_rate", decay_rate)
        self.staircase = arguments.flag("staircase", staircase)
        self.name = optional_text("name", name)
        InverseTimeDecay.__call__(self, 0)  # refuses what is out of range

    def __call__(self, step: Steps) -> Steps:
        """Return the learning rate after so many steps, or an array of them for an array of steps."""
        return _core.inverse_time_decay(
            steps(step),
            initial_learning_rate=self.initial_learning_rate,
            decay_steps=self.decay_steps,
            decay_rate=self.decay_rate,
            staircase=self.staircase,
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal schedule."""
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "decay_steps": self.decay_steps,
            "decay_rate": self.decay_rate,
            "staircase": self.staircase,
            "name": self.name,
        }
