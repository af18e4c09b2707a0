"""Gradient-descent optimizers that run in place, in one fused sweep, on arrays in CPU memory.

Names, arguments, defaults and numbers are those of Keras 3. The rule that Keras lacks, `Yogi`, has optax's numbers.

Examples
--------
>>> import numpy as np
>>> import fusedopt as fo
>>> w = np.ones(3, dtype=np.float32)
>>> optimizer = fo.SGD(learning_rate=0.5)
>>> optimizer.build([w])
>>> optimizer.apply([np.array([1, 0, -1], dtype=np.float32)])
>>> w
array([0.5, 1. , 1.5], dtype=float32)
"""

from fusedopt import runtime, schedules
from fusedopt.configuration.optimizers import deserialize, get, serialize
from fusedopt.loss_scale_optimizer import LossScaleOptimizer
from fusedopt.multi_optimizer import MultiOptimizer
from fusedopt.optimizer import Optimizer
from fusedopt.optimizer_map import OptimizerMap
from fusedopt.row_gradient import RowGradient
from fusedopt.rules.adadelta import Adadelta
from fusedopt.rules.adafactor import Adafactor
from fusedopt.rules.adagrad import Adagrad
from fusedopt.rules.adam import Adam
from fusedopt.rules.adamax import Adamax
from fusedopt.rules.adamw import AdamW
from fusedopt.rules.ftrl import Ftrl
from fusedopt.rules.lamb import Lamb
from fusedopt.rules.lion import Lion
from fusedopt.rules.muon import Muon
from fusedopt.rules.nadam import Nadam
from fusedopt.rules.rmsprop import RMSprop
from fusedopt.rules.schedule_free_adamw import ScheduleFreeAdamW
from fusedopt.rules.sgd import SGD
from fusedopt.rules.yogi import Yogi
from fusedopt.runtime import get_num_threads, set_num_threads, show_config
from fusedopt.sharded import Sharded

__version__: str = runtime.__version__
"""The version of this package, such as ``"0.2.0"``."""

__all__ = [
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Ftrl",
    "Lamb",
    "Lion",
    "LossScaleOptimizer",
    "MultiOptimizer",
    "Muon",
    "Nadam",
    "Optimizer",
    "OptimizerMap",
    "RMSprop",
    "RowGradient",
    "ScheduleFreeAdamW",
    "Sharded",
    "Yogi",
    "__version__",
    "deserialize",
    "get",
    "get_num_threads",
    "schedules",
    "serialize",
    "set_num_threads",
    "show_config",
]
