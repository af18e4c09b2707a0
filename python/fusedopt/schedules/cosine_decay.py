"""Half a wave of the cosine, with a warm-up."""

from __future__ import annotations

from typing import Any

from fusedopt.runtime import _core
from fusedopt.schedules.arguments import Steps, number, optional_number, optional_text, steps
from fusedopt.schedules.learning_rate_schedule import LearningRateSchedule


class CosineDecay(LearningRateSchedule):
    r"""A learning rate that falls along half a wave of the cosine, after a linear warm-up.

    .. math::

        \eta(s) &= \text{initial\_learning\_rate} \cdot c(s / \text{decay\_steps}) \\
        c(p) &= (1 - \text{alpha}) \frac{1 + \cos(\pi \min(p, 1))}{2} + \text{alpha}

    With a ``warmup_target`` it first goes there from ``initial_learning_rate``, on a straight line in
    ``warmup_steps`` steps, and then

    .. math:: \eta(s) = \text{warmup\_target} \cdot
        c\big((s - \text{warmup\_steps}) / \text{decay\_steps}\big)

    Parameters
    ----------
    initial_learning_rate : float
        >= 0.
    decay_steps : float
        Steps after the warm-up, > 0; a whole number as a rule.
    alpha : float
        The last learning rate, as a fraction of the one the cosine starts from. >= 0.
    name : str, optional
        For the configuration.
    warmup_target : float, optional
        >= 0. None: no warm-up.
    warmup_steps : float
        >= 0; without a ``warmup_target`` it has no effect.

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

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        alpha: float = 0.0,
        name: str | None = "CosineDecay",
        warmup_target: float | None = None,
        warmup_steps: float = 0,
    ) -> None:
        self.initial_learning_rate = number("initial_learning_rate", initial_learning_rate)
        self.decay_steps = number("decay_steps", decay_steps)
        self.alpha = number("alpha", alpha)
        self.name = optional_text("name", name)
        self.warmup_target = optional_number("warmup_target", warmup_target)
        self.warmup_steps = number("warmup_steps", warmup_steps)
        CosineDecay.__call__(self, 0)  # refuses what is out of range

    def __call__(self, step: Steps) -> Steps:
        """Return the learning rate after so many steps, or an array of them for an array of steps."""
        return _core.cosine_decay(
            steps(step),
            initial_learning_rate=self.initial_learning_rate,
            decay_steps=self.decay_steps,
            alpha=self.alpha,
            warmup_target=self.warmup_target,
            warmup_steps=self.warmup_steps,
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal schedule."""
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "decay_steps": self.decay_steps,
            "alpha": self.alpha,
            "name": self.name,
            "warmup_target": self.warmup_target,
            "warmup_steps": self.warmup_steps,
        }
