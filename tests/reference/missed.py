"""What zero gradients would have done to the rows that steps left out: composed in double, applied at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from reference.rule import Array

NO_ROWS = ("Adafactor", "Lamb")
"""The rules that take no gradients of rows. Muon takes none of matrices."""


class Missed(NamedTuple):
    """slot <- factor slot, and w <- keep w + move x, where x is what one slot was before, or its sign."""

    keep: float
    move: float
    factors: dict[str, float]
    moving: str | None = None
    by_sign: bool = False

    def then(self, later: Missed) -> Missed:
        moved = 1.0 if self.by_sign or later.moving is None else self.factors[later.moving]
        return later._replace(
            keep=later.keep * self.keep,
            move=later.keep * self.move + later.move * moved,
            factors={name: later.factors[name] * f for name, f in self.factors.items()},
        )

    def apply(self, w: Array, slots: dict[str, Array]) -> None:
        T = w.dtype.type
        if self.moving is None or self.move == 0:
            w[...] = T(self.keep) * w
        else:
            x = slots[self.moving]
            w[...] = T(self.keep) * w + T(self.move) * (np.sign(x) if self.by_sign else x)
        for name, factor in self.factors.items():
            slots[name][...] = T(factor) * slots[name]


# Rounds a number to the type that the kernel computes in.
Narrow: TypeAlias = Callable[[float], float]
Coefficients: TypeAlias = Callable[[dict[str, Any], float, Narrow], Missed]
CATCHING_UP: dict[str, Coefficients] = {}
"""What one step with a zero gradient does, by rule, without weight decay. Other rules cannot catch up."""


def catching_up(*rules: str) -> Callable[[Coefficients], Coefficients]:
    def register(coefficients: Coefficients) -> Coefficients:
        CATCHING_UP.update(dict.fromkeys(rules, coefficients))
        return coefficients

    return register


@catching_up("SGD")
def sgd(a: dict[str, Any], lr: float, narrow: Narrow) -> Missed:
    mu = narrow(a["momentum"])
    if not a["momentum"]:
        return Missed(1.0, 0.0, {})
    return Missed(1.0, mu * mu if a["nesterov"] else mu, {"momentum": mu}, "momentum")


@catching_up("RMSprop")
def rmsprop(a: dict[str, Any], lr: float, narrow: Narrow) -> Missed:
    mu, rho = narrow(a["momentum"]), narrow(a["rho"])
    factors = {"velocity": rho} | ({"average_gradient": rho} if a["centered"] else {})
    if not a["momentum"]:
        return Missed(1.0, 0.0, factors)
    return Missed(1.0, -mu, factors | {"momentum": mu}, "momentum")


@catching_up("Adam", "AdamW", "Nadam")
def adam(a: dict[str, Any], lr: float, narrow: Narrow) -> Missed:
    factors = {"momentum": 1 - narrow(1 - a["beta_1"]), "velocity": 1 - narrow(1 - a["beta_2"])}
    return Missed(1.0, 0.0, factors | ({"velocity_hat": 1.0} if a.get("amsgrad") else {}))


@catching_up("Muon")
def muon(a: dict[str, Any], lr: float, narrow: Narrow) -> Missed:
    return adam({"beta_1": a["adam_beta_1"], "beta_2": a["adam_beta_2"]}, lr, narrow)


@catching_up("Yogi")
def yogi(a: dict[str, Any], lr: float, narrow: Narrow) -> Missed:
    return Missed(1.0, 0.0, {"momentum": 1 - narrow(1 - a["beta_1"]), "velocity": 1.0})


@catching_up("Adamax")
def adamax(a: dict[str, Any], lr: float, narrow: Narrow) -> Missed:
    return Missed(1.0, 0.0, {"momentum": 1 - narrow(1 - a["beta_1"]), "norm": narrow(a["beta_2"])})


@catching_up("Adagrad")
def adagrad(a: dict[str, Any], lr: float, narrow: Narrow) -> Missed:
    return Missed(1.0, 0.0, {"accumulator": 1.0})


@catching_up("Adadelta")
def adadelta(a: dict[str, Any], lr: float, narrow: Narrow) -> Missed:
    rho = narrow(a["rho"])
    return Missed(1.0, 0.0, {"accumulated_grad": rho, "accumulated_delta_var": rho})


@catching_up("Lion")
def lion(a: dict[str, Any], lr: float, narrow: Narrow) -> Missed:
    return Missed(1.0, -narrow(lr), {"momentum": narrow(a["beta_2"])}, "momentum", by_sign=True)


class History:
    """The steps of one table since all its rows were caught up, and how many of them each row has seen."""

    def __init__(self, rows: int) -> None:
        self.seen = np.zeros(rows, np.int64)
        self.steps: list[Missed] = []
        self.most_steps = min(max(rows // 8, 64), 1 << 17)
        self.block = 1
        while self.block**3 < 4 * self.most_steps:
            self.block *= 2

    @property
    def is_full(self) -> bool:
        return len(self.steps) == self.most_steps

    def add(self, missed: Missed, rows: Array) -> None:
        """Note a step in which these rows took part."""
        self.steps.append(missed)
        self.seen[rows] = len(self.steps)

    def since(self, step: int) -> Missed | None:
        """Compose what is left of a row's own block of steps, whole blocks, and the present block."""
        blocks = [
            composed(self.steps[max(step, start) : start + self.block])
            for start in range(step // self.block * self.block, len(self.steps), self.block)
        ]
        whole = [missed for missed in blocks[1:] if missed]
        present = whole.pop() if len(self.steps) % self.block and whole else None
        return composed([blocks[0], composed(whole), present]) if blocks else None

    def catch_up(self, rows: Array, w: Array, slots: dict[str, Array]) -> None:
        """Give rows of a whole table what they have missed."""
        for step in np.unique(self.seen[rows]):
            behind = rows[self.seen[rows] == step]
            missed = self.since(step)
            if missed is not None:
                some = {name: slot[behind] for name, slot in slots.items()}
                of_w = w[behind]
                missed.apply(of_w, some)
                w[behind] = of_w
                for name, slot in some.items():
                    slots[name][behind] = slot
        self.seen[rows] = len(self.steps)

    def catch_up_all(self, w: Array, slots: dict[str, Array]) -> None:
        if self.steps:
            self.catch_up(np.arange(len(self.seen)), w, slots)
        self.steps.clear()
        self.seen[...] = 0


def narrowing(w: Array) -> Narrow:
    return lambda x: float(w.dtype.type(x))


def composed(steps: Sequence[Missed | None]) -> Missed | None:
    taken = [step for step in steps if step is not None]
    return functools.reduce(Missed.then, taken) if taken else None
