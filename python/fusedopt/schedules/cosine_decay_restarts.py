"""Half a wave of the cosine, again and again."""

from __future__ import annotations

from typing import Any

from fusedopt.runtime import _core
from fusedopt.schedules.arguments import Steps, number, optional_text, steps
from fusedopt.schedules.learning_rate_schedule import LearningRateSchedule


class CosineDecayRestarts(LearningRateSchedule):
    r"""A learning rate that falls along half a wave of the cosine and starts again.

    Period :math:`i = 0, 1, \dots` takes :math:`\text{first\_decay\_steps} \cdot \text{t\_mul}^i` steps.
    When the part :math:`p` of it is over,

    .. math:: \eta = \text{initial\_learning\_rate} \cdot \Big((1 - \text{alpha})\, \text{m\_mul}^i\,
        \frac{1 + \cos(\pi p)}{2} + \text{alpha}\Big)

    A step on which a period starts has :math:`p = 0`, always: Keras rounds, and can give the end of the
    period before. Periods that shrink (``t_mul < 1``) come to an end, after which the rate stays at
    ``initial_learning_rate * alpha``; Keras gives NaN there.

    Parameters
    ----------
    initial_learning_rate : float
        >= 0.
    first_decay_steps : float
        > 0; a whole number as a rule.
    t_mul : float
        By how much each period is longer than the one before. > 0.
    m_mul : float
        By how much each period starts higher than the one before. > 0.
    alpha : float
        The learning rate at the end of a period, as a fraction of ``initial_learning_rate``. >= 0.
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
    >>> schedule = fo.schedules.CosineDecayRestarts(1.0, first_decay_steps=10, m_mul=0.5)
    >>> [schedule(step) for step in (0, 5, 10, 20, 30)]
    [1.0, 0.5, 0.5, 0.25, 0.25]

    References
    ----------
    Loshchilov & Hutter, SGDR: stochastic gradient descent with warm restarts, ICLR 2017.
    Keras 3, ``keras.optimizers.schedules.CosineDecayRestarts``.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        first_decay_steps: float,
        t_mul: float = 2.0,
        m_mul: float = 1.0,
        alpha: float = 0.0,
        name: str | None = "SGDRDecay",
    ) -> None:
        self.initial_learning_rate = number("initial_learning_rate", initial_learning_rate)
        self.first_decay_steps = number("first_decay_steps", first_decay_steps)
        self.t_mul = number("t_mul", t_mul)
        self.m_mul = number("m_mul", m_mul)
        self.alpha = number("alpha", alpha)
        self.name = optional_text("name", name)
        CosineDecayRestarts.__call__(self, 0)  # refuses what is out of range

    def __call__(self, step: Steps) -> Steps:
        """Return the learning rate after so many steps, or an array of them for an array of steps."""
        return _core.cosine_decay_restarts(
            steps(step),
            initial_learning_rate=self.initial_learning_rate,
            first_decay_steps=self.first_decay_steps,
            t_mul=self.t_mul,
            m_mul=self.m_mul,
            alpha=self.alpha,
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal schedule."""
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "first_decay_steps": self.first_decay_steps,
            "t_mul": self.t_mul,
            "m_mul": self.m_mul,
            "alpha": self.alpha,
            "name": self.name,
        }
