"""Polynomial decay, once or in cycles."""

from __future__ import annotations

from typing import Any

from fusedopt import arguments
from fusedopt.runtime import _core
from fusedopt.schedules.arguments import Steps, number, optional_text, steps
from fusedopt.schedules.learning_rate_schedule import LearningRateSchedule


class PolynomialDecay(LearningRateSchedule):
    r"""A learning rate that goes from one value to another along a power of the time that is left.

    .. math::

        \eta(s) &= (\text{initial\_learning\_rate} - \text{end\_learning\_rate})\,(1 - p)^{\text{power}}
            + \text{end\_learning\_rate} \\
        p &= \min(s / \text{decay\_steps},\ 1)

    With ``cycle``, ``decay_steps`` is replaced by its first multiple that is not below the step. So a
    new cycle starts lower than the one before, and a multiple itself is the end of its cycle, not
    the start of the next.

    Parameters
    ----------
    initial_learning_rate : float
        >= 0.
    decay_steps : float
        > 0; a whole number as a rule.
    end_learning_rate : float
        >= 0.
    power : float
        >= 0.
    cycle : bool
        Start again after ``decay_steps`` steps, instead of staying at the end.
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
    >>> schedule = fo.schedules.PolynomialDecay(1.0, decay_steps=10, end_learning_rate=0.0, power=2.0)
    >>> [schedule(step) for step in (0, 5, 10, 15)]
    [1.0, 0.25, 0.0, 0.0]

    References
    ----------
    Keras 3, ``keras.optimizers.schedules.PolynomialDecay``.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        end_learning_rate: float = 0.0001,
        power: float = 1.0,
        cycle: bool = False,
        name: str | None = "PolynomialDecay",
    ) -> None:
        self.initial_learning_rate = number("initial_learning_rate", initial_learning_rate)
        self.decay_steps = number("decay_steps", decay_steps)
        self.end_learning_rate = number("end_learning_rate", end_learning_rate)
        self.power = number("power", power)
        self.cycle = arguments.flag("cycle", cycle)
        self.name = optional_text("name", name)
        PolynomialDecay.__call__(self, 0)  # refuses what is out of range

    def __call__(self, step: Steps) -> Steps:
        """Return the learning rate after so many steps, or an array of them for an array of steps."""
        return _core.polynomial_decay(
            steps(step),
            initial_learning_rate=self.initial_learning_rate,
            decay_steps=self.decay_steps,
            end_learning_rate=self.end_learning_rate,
            power=self.power,
            cycle=self.cycle,
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal schedule."""
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "decay_steps": self.decay_steps,
            "end_learning_rate": self.end_learning_rate,
            "power": self.power,
            "cycle": self.cycle,
            "name": self.name,
        }
