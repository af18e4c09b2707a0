"""What zero gradients would have done to the rows that steps left out: composed in double, applied at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from reference.rule import Array

NO_ROWS = ("Adafactor", "Lamb")
"""The rules that take no gradients of rows. Muon takes none of matrices."""

BLOCK = 64


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
        if self.moving is None:
            w[...] = T(self.keep) * w
        else:
            x = slots[self.moving]
            w[...] = T(self.keep) * w + T(self.move) * (np.sign(x) if self.by_sign else x)
        for name, factor in self.factors.items():
            slots[name][...] = T(factor) * slots[name]


Coefficients = Callable[[dict[str, Any], float], Missed]
CATCHING_UP: dict[str, Coefficients] = {}
"""What one step with a zero gradient does, by rule, without weight decay. Other rules cannot catch up."""


def catching_up(*rules: str) -> Callable[[Coefficients], Coefficients]:
    def register(coefficients: Coefficients) -> Coefficients:
        CATCHING_UP.update(dict.fromkeys(rules, coefficients))
        return coefficients

    return register


@catching_up("SGD")
def sgd(a: dict[str, Any], lr: float) -> Missed:
    mu = a["momentum"]
    if not mu:
        return Missed(1.0, 0.0, {})
    return Missed(1.0, mu * mu if a["nesterov"] else mu, {"momentum": mu}, "momentum")


@catching_up("RMSprop")
def rmsprop(a: dict[str, Any], lr: float) -> Missed:
    factors = {"velocity": a["rho"]}
    if a["centered"]:
        factors["average_gradient"] = a["rho"]
    if not a["momentum"]:
        return Missed(1.0, 0.0, factors)
    return Missed(1.0, -a["momentum"], factors | {"momentum": a["momentum"]}, "momentum")


@catching_up("Adam", "AdamW", "Nadam")
def adam(a: dict[str, Any], lr: float) -> Missed:
    factors = {"momentum": 1 - (1 - a["beta_1"]), "velocity": 1 - (1 - a["beta_2"])}
    return Missed(1.0, 0.0, factors | ({"velocity_hat": 1.0} if a.get("amsgrad") else {}))


@catching_up("Muon")
def muon(a: dict[str, Any], lr: float) -> Missed:
    return adam({"beta_1": a["adam_beta_1"], "beta_2": a["adam_beta_2"]}, lr)


@catching_up("Yogi")
def yogi(a: dict[str, Any], lr: float) -> Missed:
    return Missed(1.0, 0.0, {"momentum": 1 - (1 - a["beta_1"]), "velocity": 1.0})


@catching_up("Adamax")
def adamax(a: dict[str, Any], lr: float) -> Missed:
    return Missed(1.0, 0.0, {"momentum": 1 - (1 - a["beta_1"]), "norm": a["beta_2"]})


@catching_up("Adagrad")
def adagrad(a: dict[str, Any], lr: float) -> Missed:
    return Missed(1.0, 0.0, {"accumulator": 1.0})


@catching_up("Adadelta")
def adadelta(a: dict[str, Any], lr: float) -> Missed:
    return Missed(1.0, 0.0, {"accumulated_grad": a["rho"], "accumulated_delta_var": a["rho"]})


@catching_up("Lion")
def lion(a: dict[str, Any], lr: float) -> Missed:
    return Missed(1.0, -lr, {"momentum": a["beta_2"]}, "momentum", by_sign=True)


class History:
    """The steps of one table since all its rows were caught up, and the number of steps that each row has seen.

    Steps are composed by blocks: first what is left of a row's own block, then all later blocks as one.
    """

    def __init__(self, rows: int) -> None:
        self.steps: list[Missed] = []
        self.seen = np.zeros(rows, np.int64)

    def since(self, step: int) -> Missed | None:
        border = (step // BLOCK + 1) * BLOCK
        parts = [composed(part) for part in (self.steps[step:border], self.steps[border:]) if part]
        return composed(parts) if parts else None

    def add(self, missed: Missed, rows: Array) -> None:
        """Note a step that these rows have taken part in."""
        self.steps.append(missed)
        self.seen[rows] = len(self.steps)

    def catch_up_all(self, w: Array, slots: dict[str, Array]) -> None:
        if self.steps:
            self.catch_up(np.arange(len(self.seen)), w, slots)
        self.steps.clear()
        self.seen[...] = 0

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
                for name, slot in slots.items():
                    slot[behind] = some[name]
        self.seen[rows] = len(self.steps)


def composed(steps: list[Missed]) -> Missed:
    first, *later = steps
    for step in later:
        first = first.then(step)
    return first
