"""Who takes part besides fusedopt: in plain steps, and in the mixed pipeline."""

from __future__ import annotations

import compiled
import deepspeed_adam
import mixed
import naive
from fusedopt.bench import contestants, pytorch
from fusedopt.bench.contestants import Contestant
from fusedopt.bench.results import NO_THREADS


class FixedThreads(Contestant):
    """Keeps the number of threads that it is prepared with, so it is timed on the largest number only."""

    def thread_counts(self, threads: list[int]) -> list[int]:
        return threads[-1:]


class NoThreads(Contestant):
    """Runs on the calling thread."""

    def thread_counts(self, threads: list[int]) -> list[int]:
        return [NO_THREADS]


PEERS = [
    *contestants.PEERS,
    Contestant("DeepSpeed", "deepspeed", deepspeed_adam.in_deepspeed),
    NoThreads("naive NumPy", "numpy", naive.in_numpy),
]
COMPILED_PEERS = [
    FixedThreads("PyTorch compiled", "torch", compiled.torch_compiled),
    FixedThreads("optax", "optax", compiled.in_optax),
]
MIXED_PEERS = [
    Contestant("PyTorch fused", "torch", mixed.in_pytorch(pytorch.fused)),
    Contestant("PyTorch foreach", "torch", mixed.in_pytorch(pytorch.foreach)),
    Contestant("Keras", "keras", mixed.in_keras, is_slow=True),
    *COMPILED_PEERS,
    Contestant("DeepSpeed", "deepspeed", mixed.in_pytorch(deepspeed_adam.optimizer_of)),
    NoThreads("naive NumPy", "numpy", naive.in_numpy),
]
