"""Gradient-descent optimizers that run in place, in one fused sweep, on arrays in CPU memory.

Names, arguments, defaults and numbers are those of Keras 3.

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

from fusedopt import schedules
from fusedopt.adadelta import Adadelta
from fusedopt.adafactor import Adafactor
from fusedopt.adagrad import Adagrad
from fusedopt.adam import Adam
from fusedopt.adamax import Adamax
from fusedopt.adamw import AdamW
from fusedopt.ftrl import Ftrl
from fusedopt.lamb import Lamb
from fusedopt.lion import Lion
from fusedopt.loss_scale_optimizer import LossScaleOptimizer
from fusedopt.multi_optimizer import MultiOptimizer, OptimizerMap
from fusedopt.muon import Muon
from fusedopt.nadam import Nadam
from fusedopt.optimizer import Optimizer
from fusedopt.rmsprop import RMSprop
from fusedopt.runtime import __version__, get_num_threads, set_num_threads, show_config
from fusedopt.schedule_free_adamw import ScheduleFreeAdamW
from fusedopt.serialization import deserialize, get, serialize
from fusedopt.sgd import SGD

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
    "ScheduleFreeAdamW",
    "__version__",
    "deserialize",
    "get",
    "get_num_threads",
    "schedules",
    "serialize",
    "set_num_threads",
    "show_config",
]
