"""Half a wave of the cosine, again and again."""

from __future__ import annotations

from fusedopt.runtime import _core
from fusedopt.schedules.declared_schedule import DeclaredSchedule, numeric, schedule_name


class CosineDecayRestarts(DeclaredSchedule):
    r"""A learning rate that falls along half a wave of the cosine and starts again.

    Period :math:`i = 0, 1, \dots` takes :math:`\text{first\_decay\_steps} \cdot \text{t\_mul}^i` steps.
    When the part :math:`p` of it is over,

    .. math:: \eta = \text{initial\_learning\_rate} \cdot \Big((1 - \text{alpha})\, \text{m\_mul}^i\,
        \frac{1 + \cos(\pi p)}{2} + \text{alpha}\Big)

    A step on which a period starts has :math:`p = 0`, always: Keras rounds, and can give the end of the
    period before. Periods that shrink (``t_mul < 1``) come to an end, after which the rate stays at
    ``initial_learning_rate * alpha``; Keras gives NaN there.

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

    initial_learning_rate: float = numeric(">= 0.")
    first_decay_steps: float = numeric("> 0; a whole number as a rule.")
    t_mul: float = numeric(
        "By how much each period is longer than the one before. > 0.", default=2.0
    )
    m_mul: float = numeric(
        "By how much each period starts higher than the one before. > 0.", default=1.0
    )
    alpha: float = numeric(
        "The learning rate at the end of a period, as a fraction of ``initial_learning_rate``. >= 0.",
        default=0.0,
    )
    name: str | None = schedule_name(default="SGDRDecay")

    _formula = staticmethod(_core.cosine_decay_restarts)
