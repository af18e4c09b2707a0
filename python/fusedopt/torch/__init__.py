"""PyTorch's optimizers, in one fused sweep over CPU memory: the same arguments, state and numbers.

Change one import, ``from fusedopt.torch import AdamW``, and keep the rest of the program. Each class is a
`torch.optim.Optimizer`: parameter groups, closures, hooks, learning rate schedulers, ``torch.amp.GradScaler``,
checkpoints, ``deepcopy`` and ``pickle`` work as with the class of the same name in `torch.optim`, and a checkpoint of
either goes on in the other.

Beyond PyTorch, ``max_norm`` clips the gradients in the sweep, ``ema_decay`` keeps moving averages of the parameters,
and float16 and bfloat16 parameters train with float32 state.

`Optimizer` runs any other rule of fusedopt, such as ``fusedopt.Lion``, with fusedopt's numbers.

`Communicator` makes the processes of `torch.distributed` the ranks of a `fusedopt.Sharded`.

Examples
--------
>>> import torch
>>> from fusedopt.torch import AdamW
>>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
>>> optimizer = AdamW([w], lr=0.1, max_norm=1.0)
>>> optimizer.zero_grad()
>>> w.square().sum().backward()
>>> optimizer.step()
>>> w
Parameter containing:
tensor([0.8990, 1.8980], requires_grad=True)
"""

try:
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ImportError(
        "fusedopt.torch: expected PyTorch, found none; install the extra fusedopt[torch], or pip install torch"
    ) from error

from fusedopt.torch.adadelta import Adadelta
from fusedopt.torch.adagrad import Adagrad
from fusedopt.torch.adam import Adam
from fusedopt.torch.adamax import Adamax
from fusedopt.torch.adamw import AdamW
from fusedopt.torch.any_rule import Optimizer
from fusedopt.torch.communicator import Communicator
from fusedopt.torch.nadam import NAdam
from fusedopt.torch.rmsprop import RMSprop
from fusedopt.torch.sgd import SGD

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Communicator",
    "NAdam",
    "Optimizer",
    "RMSprop",
]
