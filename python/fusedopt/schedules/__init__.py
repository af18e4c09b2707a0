"""Learning-rate schedules: functions of the step counter, given in place of a learning rate.

Arguments, defaults and configurations are those of Keras 3. The C++ core computes them in double.
Keras computes in float32, and in whole numbers if the first argument is an int, so that
``CosineDecay(0, ...)`` never warms up there. A schedule refuses arguments that would give something
that is no learning rate, now or later.

Examples
--------
>>> import fusedopt as fo
>>> schedule = fo.schedules.CosineDecay(0.0, 900, warmup_target=0.1, warmup_steps=100)
>>> [schedule(step) for step in (0, 50, 100, 550, 1000)]
[0.0, 0.05, 0.1, 0.05, 0.0]
>>> fo.SGD(learning_rate=schedule).learning_rate
0.0
"""

from fusedopt.schedules.cosine_decay import CosineDecay
from fusedopt.schedules.cosine_decay_restarts import CosineDecayRestarts
from fusedopt.schedules.exponential_decay import ExponentialDecay
from fusedopt.schedules.inverse_time_decay import InverseTimeDecay
from fusedopt.schedules.learning_rate_schedule import LearningRateSchedule
from fusedopt.schedules.piecewise_constant_decay import PiecewiseConstantDecay
from fusedopt.schedules.polynomial_decay import PolynomialDecay
from fusedopt.schedules.serialization import deserialize, serialize

__all__ = [
    "CosineDecay",
    "CosineDecayRestarts",
    "ExponentialDecay",
    "InverseTimeDecay",
    "LearningRateSchedule",
    "PiecewiseConstantDecay",
    "PolynomialDecay",
    "deserialize",
    "serialize",
]
