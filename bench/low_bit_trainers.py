"""Who trains: AdamW of the library with each of its kinds of slots, and AdamW in NumPy with the slots of others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import fusedopt as fo
import numpy as np
from fusedopt.bench.workload import Array
from low_bit_codes import CODES, Code, Slot

FLOAT32, BFLOAT16, FLOAT8 = OURS = ("float32", "bfloat16", "float8")
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7


class Trainer(Protocol):
    """An AdamW that holds its variables."""

    def step(self, gradients: Sequence[Array], learning_rate: float) -> None: ...

    def momenta(self) -> list[Slot]: ...

    def velocities(self) -> list[Slot]: ...


class OfTheLibrary:
    """AdamW as users have it."""

    def __init__(
        self, slot_dtype: str, variables: Sequence[Slot], weight_decay: float, seed: int
    ) -> None:
        # Without arguments that it does not need, so that float32 is what it was before.
        more = {} if slot_dtype == FLOAT32 else {"slot_dtype": slot_dtype, "seed": seed}
        self.optimizer = fo.AdamW(weight_decay=weight_decay, **more)
        self.optimizer.build(list(variables))

    def step(self, gradients: Sequence[Array], learning_rate: float) -> None:
        self.optimizer.learning_rate = learning_rate
        self.optimizer.apply(list(gradients))

    def momenta(self) -> list[Slot]:
        return self._slots("momentum")

    def velocities(self) -> list[Slot]:
        return self._slots("velocity")

    def _slots(self, name: str) -> list[Slot]:
        named = self.optimizer.named_variables()
        return [slot for key, slot in named.items() if key.startswith(f"{name}/")]


class InNumpy:
    """AdamW in the library's order of operations, with slots that a code has stored after each step."""

    def __init__(
        self, code: Code | None, variables: Sequence[Slot], weight_decay: float, seed: int
    ) -> None:
        self.variables, self.weight_decay, self.steps = list(variables), weight_decay, 0
        self.slots = [(np.zeros_like(w), np.zeros_like(w)) for w in variables]
        self.codes = [code if code and w.size >= code.smallest else None for w in variables]

    def step(self, gradients: Sequence[Array], learning_rate: float) -> None:
        self.steps += 1
        correction = math.sqrt(1 - BETA_2**self.steps) / (1 - BETA_1**self.steps)
        alpha = np.float32(learning_rate * correction)
        keep = np.float32(1 - learning_rate * self.weight_decay)
        every = zip(self.variables, gradients, self.slots, self.codes, strict=True)
        for w, g, (m, v), code in every:
            w *= keep
            m += (g - m) * np.float32(1 - BETA_1)
            v += (g * g - v) * np.float32(1 - BETA_2)
            w -= alpha * m / (np.sqrt(v) + np.float32(EPSILON))
            if code:
                m[...], v[...] = code.momentum(m), code.velocity(v)

    def momenta(self) -> list[Slot]:
        return [m for m, _ in self.slots]

    def velocities(self) -> list[Slot]:
        return [v for _, v in self.slots]


Make = Callable[[Sequence[Slot], float, int], Trainer]
"""Takes variables, weight decay and the seed of rounding at random."""

TRAINERS: dict[str, Make] = {name: partial(OfTheLibrary, name) for name in OURS} | {
    name: partial(InNumpy, code) for name, code in CODES.items()
}
