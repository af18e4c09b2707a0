"""The whole step: one optimizer, several as one, and dynamic loss scaling around one.

One file, though long: what is around an optimizer reaches into its step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reference import random_rounding
from reference.elementwise import nadam, nadam_product, schedule_free_adamw
from reference.low_bits import code_of, coded_slots, guard_of
from reference.matrices import muon
from reference.missed import CATCHING_UP, History, narrowing
from reference.rows import Gradient, Summed, SummedRows, each_summed, numbers_of, sum_of_squares
from reference.rule import RULES, Array
from reference.slot_codes import CodedSlots
from reference.sums import TILE


def empty_slot(name: str, w: Array, is_rowwise: bool) -> Array:
    """Zeros of a slot's shape; Keras lists integers where a vector has no means."""
    if is_rowwise and w.ndim > 1 and name in ("velocity", "velocity_hat", "accumulator"):
        return np.zeros(len(w), w.dtype)
    if name not in ("r", "c"):
        return np.zeros_like(w)
    if w.ndim < 2:
        return np.array(0)
    return np.zeros(w.shape[:-1] if name == "r" else w.shape[:-2] + w.shape[-1:], w.dtype)


OPTIONS: dict[str, Any] = {
    "weight_decay": None,
    "clipnorm": None,
    "clipvalue": None,
    "global_clipnorm": None,
    "use_ema": False,
    "ema_momentum": 0.99,
    "ema_overwrite_frequency": None,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
    "skip_nonfinite": False,
    "row_updates": "lazy",
    "slot_dtype": "float32",
    "slot_dtypes": None,
    "seed": 0,
    "master": True,
}


def is_representable(factor: float, dtype: npt.DTypeLike) -> bool:
    """Whether the factor is a normal number of this type (or zero, infinite, NaN)."""
    limits = np.finfo(dtype)
    size = abs(factor)
    return not (0 < size < limits.smallest_normal) and not (limits.max < size < math.inf)


def is_finite(grads: list[Summed | None]) -> bool:
    return all(np.isfinite(numbers_of(g)).all() for g in grads if g is not None)


def load(g: Array, factor: float, dtype: npt.DTypeLike) -> tuple[Array, Any]:
    """Bring a gradient to the computing type; return it and the factor that is left to apply."""
    wider = g.dtype == np.float64 and dtype == np.float32
    if wider or not is_representable(factor, dtype):
        return (g.astype(np.float64) * factor).astype(dtype), np.dtype(dtype).type(1)
    return g.astype(dtype), np.dtype(dtype).type(factor)


def global_clip_factor(norm: float, limit: float) -> float:
    if not math.isfinite(norm):
        return math.nan
    return limit / norm if norm > limit else 1.0


class Reference:
    """An optimizer in NumPy. `weights` are its own copies, in the computing type."""

    def __init__(self, rule: str, **arguments: Any) -> None:
        self.rule = rule
        self.formula, self.slot_groups, defaults, self.starting, _ = RULES[rule]
        self.a = {**OPTIONS, **defaults, **arguments}
        self.calls = 0
        self.skipped_steps = 0
        self.global_norm: float | None = None
        self.clip_factor = 1.0
        self.unscale = 1.0 / (self.a["loss_scale_factor"] or 1.0)
        self.dtypes: list[np.dtype[Any]] = []
        self.weights: list[Array] = []
        self.averages: list[Array] = []
        self.accumulators: list[Array] = []
        self.histories: list[History] = []
        self.groups: list[list[list[str]]] = []
        self.slots: list[dict[str, Array]] = []
        self.coded: list[CodedSlots | None] = []
        self.first_tiles: list[int] = []

    def build(
        self,
        variables: list[Array],
        excluded: tuple[int, ...] = (),
        names: Sequence[str] = (),
    ) -> None:
        """Begin with these variables, or go on with those of the last call and more behind them."""
        self.excluded = excluded
        for i, variable in enumerate(variables[len(self.weights) :], len(self.weights)):
            self.dtypes.append(variable.dtype)
            wide = variable.dtype == np.float64
            w = variable.astype(np.float64 if wide else np.float32)
            self.weights.append(w)
            self.averages.append(np.zeros_like(w))
            self.accumulators.append(np.zeros_like(w))
            self.histories.append(History(len(np.atleast_1d(w))))
            self.groups.append(self.slot_groups(self.a, w))
            is_rowwise = self.a.get("rowwise", False)
            slots = {
                name: empty_slot(name, w, is_rowwise) for group in self.groups[-1] for name in group
            }
            for name in self.starting:
                slots[name][...] = w.dtype.type(self.a["initial_accumulator_value"])
            if self.formula is schedule_free_adamw:
                slots["momentum"][...] = w
            self.slots.append(slots)
            code = code_of(self.a, names[i] if names else "", w)
            self.coded.append(coded_slots(code, w, slots, self.rule))
            self._settle_slots(i)
            tiles = [-(-w.size // TILE) for w in self.weights[:-1]]
            self.first_tiles.append(sum(tiles))

    def summed(self, grads: Sequence[Gradient | None]) -> list[Summed | None]:
        """Sum what rows have several times: everything else sees the sums."""
        return each_summed(grads, self.weights)

    def apply(self, gradients: Sequence[Gradient | None]) -> None:
        a = self.a
        grads = self.summed(gradients)
        if a["skip_nonfinite"] and not is_finite(grads):
            self.skipped_steps += 1
            return
        iteration = self.calls // self.steps
        if self.is_update:
            self._update(grads, iteration + 1)
        else:
            for i, g in enumerate(grads):
                if g is not None:
                    self.accumulators[i] = self._accumulated(i, numbers_of(g))
        if a["use_ema"]:
            momentum = 0.0 if iteration == 0 else a["ema_momentum"]
            frequency = a["ema_overwrite_frequency"]
            for w, average in zip(self.weights, self.averages, strict=True):
                T = w.dtype.type
                average[...] = T(momentum) * average + T(1 - momentum) * w
                if frequency and (iteration + 1) % frequency == 0:
                    w[...] = average
        for i, g in enumerate(grads):
            is_dense = self.is_update and isinstance(g, np.ndarray)
            self._round_weights(i, self._jobs(i) if is_dense else None)
        self.calls += 1

    @property
    def steps(self) -> int:
        return self.a["gradient_accumulation_steps"] or 1

    @property
    def is_update(self) -> bool:
        """Whether the next call updates."""
        return (self.calls + 1) % self.steps == 0

    @property
    def factor(self) -> float:
        """What gradients, or their sums, are multiplied by."""
        return 1.0 / self.steps if self.steps > 1 else self.unscale

    def raw(self, i: int, g: Summed) -> Summed:
        """Return what the factor applies to."""
        return self._accumulated(i, numbers_of(g)) if self.steps > 1 else g

    def _accumulated(self, i: int, g: Array) -> Array:
        x, unscale = load(g, self.unscale, self.weights[i].dtype)
        return self.accumulators[i] + x * unscale

    def _update(self, grads: list[Summed | None], t: int) -> None:
        a = self.a
        factor = self.factor
        raw = [None if g is None else self.raw(i, g) for i, g in enumerate(grads)]
        global_factor = self.clip_factor
        if a["global_clipnorm"]:
            total = 0.0
            for g in raw:
                if g is not None:
                    total += sum_of_squares(g)
            norm = self.global_norm = factor * math.sqrt(total)
            global_factor = global_clip_factor(norm, a["global_clipnorm"])
        lr = a["learning_rate"]
        for i, history in enumerate(self.histories):
            if history.is_full:
                self.catch_up(i)
        for i, g in enumerate(raw):
            if g is None:
                continue
            rows = g.rows if isinstance(g, SummedRows) else None
            if a["row_updates"] == "caught_up":
                self.catch_up(i, rows)
            # A touched row is a small variable.
            where: Any = ... if rows is None else rows
            w = self.weights[i][where]
            slots = {name: slot[where] for name, slot in self.slots[i].items()}
            T = w.dtype.type
            clip = global_factor
            if a["clipnorm"]:
                norm = factor * math.sqrt(sum_of_squares(g))
                clip = 1.0 if norm <= a["clipnorm"] else a["clipnorm"] / norm
            x, scale = load(numbers_of(g), factor * clip, w.dtype)
            x = x * scale
            if a["clipvalue"]:
                x = np.clip(x, T(-a["clipvalue"]), T(a["clipvalue"]))
            keep = self._keep(i)
            if keep != 1.0:
                w[...] = w * T(keep)
            self.formula(w, x, slots, a, lr, t)
            slots |= self._kept(i, t, rows, slots)
            self.weights[i][where] = w
            for name, slot in slots.items():
                self.slots[i][name][where] = slot
            if rows is not None:
                self._round_weights(i, rows)
            if rows is not None and a["row_updates"] == "caught_up":
                narrow = narrowing(w)
                missed = CATCHING_UP[self.rule](a, lr, narrow)
                self.histories[i].add(missed._replace(keep=narrow(keep)), rows)
        if self.steps > 1:
            self.accumulators = [np.zeros_like(w) for w in self.weights]

    @property
    def seed_of_call(self) -> int:
        return random_rounding.seed_of_call(self.a["seed"], self.calls)

    def _kept(
        self, i: int, t: int, rows: Array | None, slots: dict[str, Array]
    ) -> dict[str, Array]:
        """Code what a step made of a variable's slots, or of some of its rows; return what the codes hold."""
        coded = self.coded[i]
        if coded is None:
            return {}
        values = {name: slots[name] for name in coded.signs}
        guard = guard_of(self.rule, self.a, t, coded)
        jobs = self._jobs(i) if rows is None else rows
        coded.store(values, self.seed_of_call, self.first_tiles[i], guard, jobs)
        where: Any = ... if rows is None else rows
        return {name: coded.numbers(name)[where] for name in coded.signs}

    def load_slots(self, i: int, values: dict[str, Array]) -> None:
        """Take numbers for a variable's slots in fewer bits, each rounded to the nearest."""
        coded, updates = self.coded[i], self.calls // self.steps
        if coded is not None:
            coded.load(values, guard_of(self.rule, self.a, updates, coded) if updates else None)
            self._settle_slots(i)

    def _settle_slots(self, i: int) -> None:
        coded = self.coded[i]
        if coded is not None:
            self.slots[i].update({name: coded.numbers(name) for name in coded.signs})

    def _round_weights(self, i: int, rows: Array | None = None) -> None:
        """Round a 16-bit variable without a master copy; what it can hold stays."""
        if self.a["master"] or self.dtypes[i].itemsize != 2:
            return
        w = self.weights[i]
        where: Any = ... if rows is None else rows
        size = w.size if rows is None else math.prod(w.shape[1:])
        first = random_rounding.first_tiles(self.first_tiles[i], size, rows)
        random = random_rounding.random_bits(self.seed_of_call, 0, first, size)
        narrow = random_rounding.narrowed_at_random(w[where], self.dtypes[i], random)
        w[where] = narrow.astype(np.float32)

    def _jobs(self, i: int) -> Array | None:
        """Return the rows, if a dense gradient goes to the kernels row by row, as those of rows do."""
        is_by_rows = self.a.get("rowwise", False) and self.weights[i].ndim > 1
        return np.arange(len(self.weights[i])) if is_by_rows else None

    def _keep(self, i: int) -> float:
        of_adam = self.formula is muon and self.weights[i].ndim != 2
        weight_decay = self.a["adam_weight_decay" if of_adam else "weight_decay"]
        if not weight_decay or i in self.excluded:
            return 1.0
        return 1.0 - weight_decay * self.a["learning_rate"]

    def catch_up(self, i: int | None = None, rows: Array | None = None) -> None:
        """Give rows what they have missed: some of one variable, or all of one, or all of all."""
        if i is None:
            for each in range(len(self.weights)):
                self.catch_up(each)
        elif rows is None:
            self.histories[i].catch_up_all(self.weights[i], self.slots[i])
        else:
            self.histories[i].catch_up(np.unique(rows), self.weights[i], self.slots[i])

    def stored(self) -> list[Array]:
        """Return the weights as the variables hold them."""
        return [w.astype(d) for w, d in zip(self.weights, self.dtypes, strict=True)]

    def codes(self, names: Sequence[str]) -> dict[str, Array]:
        """Return what the complete state lists of the slots in fewer bits."""
        listed = {}
        for name, coded in zip(names, self.coded, strict=True):
            if coded is None:
                continue
            for slot in coded.signs:
                codes, *scales = coded.state(slot)
                listed[f"{slot}/{name}"] = codes
                listed.update({f"{slot}_scale/{name}": scale for scale in scales})
        return listed

    def variables(self) -> list[Array]:
        """Return all state in Keras's order, caught up."""
        self.catch_up()
        state = [np.array(self.calls), np.array(self.a["learning_rate"])]
        state += self.averages if self.a["use_ema"] else []
        state += self.accumulators if self.a["gradient_accumulation_steps"] else []
        for k in range(max(map(len, self.groups), default=0)):
            for slots, groups in zip(self.slots, self.groups, strict=True):
                state += [slots[name] for name in groups[k]]
        if self.formula is nadam:
            updates = self.calls // self.steps
            state.append(np.array(nadam_product(self.a, updates)))
        return state


class MultiReference:
    """Several `Reference`s, stepped as one: `owners` has the number of each variable's."""

    def __init__(
        self,
        members: list[Reference],
        owners: list[int],
        global_clipnorm: float | None = None,
        skip_nonfinite: bool = False,
    ) -> None:
        self.members, self.owners = members, owners
        self.global_clipnorm, self.skip_nonfinite = global_clipnorm, skip_nonfinite
        self.global_norm: float | None = None
        self.skipped_steps = 0

    def summed(self, grads: Sequence[Gradient | None]) -> list[Summed | None]:
        weights = [iter(member.weights) for member in self.members]
        return each_summed(grads, (next(weights[owner]) for owner in self.owners))

    def apply(self, gradients: Sequence[Gradient | None]) -> None:
        grads = self.summed(gradients)
        parts = [
            [g for g, owner in zip(grads, self.owners, strict=True) if owner == number]
            for number in range(len(self.members))
        ]
        guards = [m.a["skip_nonfinite"] for m in self.members]
        finite = [is_finite(part) for part in parts]
        guarded = [self.skip_nonfinite or guard for guard in guards]
        if any(guard and not ok for guard, ok in zip(guarded, finite, strict=True)):
            self.skipped_steps += 1
            for member, guard in zip(self.members, guards, strict=True):
                member.skipped_steps += guard
            return
        if self.global_clipnorm is not None:
            self._clip(grads)
        for member, part in zip(self.members, parts, strict=True):
            if part:
                member.apply(part)

    def _clip(self, grads: list[Summed | None]) -> None:
        updating = [n for n in set(self.owners) if self.members[n].is_update]
        if not updating:
            return
        unit = max(self.members[n].factor for n in updating)
        index = [0] * len(self.members)
        total = 0.0
        for g, n in zip(grads, self.owners, strict=True):
            if g is not None and n in updating:
                ratio = self.members[n].factor / unit
                total += ratio * (ratio * sum_of_squares(self.members[n].raw(index[n], g)))
            index[n] += 1
        self.global_norm = unit * math.sqrt(total)
        for n in updating:
            self.members[n].clip_factor = global_clip_factor(
                self.global_norm, self.global_clipnorm or 0
            )

    def catch_up(self) -> None:
        for member in self.members:
            member.catch_up()


class ScaledReference:
    """Dynamic loss scaling around a `Reference` or several."""

    def __init__(
        self, inner: Reference | MultiReference, initial_scale: float, dynamic_growth_steps: int
    ) -> None:
        self.inner = inner
        self.scale = initial_scale
        self.growth = dynamic_growth_steps
        self.counter = 0
        self.skipped = 0

    def apply(self, gradients: Sequence[Gradient | None]) -> None:
        grads = self.inner.summed(gradients)
        if not is_finite(grads):
            self.counter = 0
            self.skipped += 1
            self.scale = max(self.scale / 2, 2.0**-126)
            return
        for optimizer in getattr(self.inner, "members", [self.inner]):
            optimizer.unscale = 1.0 / self.scale
        self.inner.apply(grads)
        self.skipped = 0
        self.counter += 1
        if self.counter == self.growth:
            self.counter = 0
            self.scale = min(self.scale * 2, 2.0**127)

    def catch_up(self) -> None:
        self.inner.catch_up()
