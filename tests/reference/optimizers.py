"""The whole step: one optimizer, several as one, and dynamic loss scaling around one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from reference.elementwise import nadam, nadam_product, schedule_free_adamw
from reference.matrices import muon
from reference.rule import RULES, Array
from reference.sums import sum_of_squares


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
}


def is_representable(factor: float, dtype: npt.DTypeLike) -> bool:
    """Whether the factor is a normal number of this type (or zero, infinite, NaN)."""
    limits = np.finfo(dtype)
    size = abs(factor)
    return not (0 < size < limits.smallest_normal) and not (limits.max < size < math.inf)


def is_finite(grads: list[Array | None]) -> bool:
    return all(np.isfinite(g).all() for g in grads if g is not None)


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
        self.formula, self.slot_groups, defaults, self.starting, _ = RULES[rule]
        self.a = {**OPTIONS, **defaults, **arguments}
        self.calls = 0
        self.skipped_steps = 0
        self.global_norm: float | None = None
        self.clip_factor = 1.0
        self.unscale = 1.0 / (self.a["loss_scale_factor"] or 1.0)

    def build(self, variables: list[Array], excluded: tuple[int, ...] = ()) -> None:
        self.dtypes = [w.dtype for w in variables]
        computing = [np.float64 if d == np.float64 else np.float32 for d in self.dtypes]
        self.weights = [w.astype(d) for w, d in zip(variables, computing, strict=True)]
        self.averages = [np.zeros_like(w) for w in self.weights]
        self.accumulators = [np.zeros_like(w) for w in self.weights]
        self.groups = [self.slot_groups(self.a, w) for w in self.weights]
        self.slots = [
            {name: empty_slot(name, w, self.a.get("rowwise", False)) for group in groups for name in group}
            for w, groups in zip(self.weights, self.groups, strict=True)
        ]
        self.excluded = excluded
        for slots, w in zip(self.slots, self.weights, strict=True):
            for name in self.starting:
                slots[name][...] = w.dtype.type(self.a["initial_accumulator_value"])
            if self.formula is schedule_free_adamw:
                slots["momentum"][...] = w

    def apply(self, grads: list[Array | None]) -> None:
        a = self.a
        if a["skip_nonfinite"] and not is_finite(grads):
            self.skipped_steps += 1
            return
        iteration = self.calls // self.steps
        if self.is_update:
            self._update(grads, iteration + 1)
        else:
            for i, g in enumerate(grads):
                if g is not None:
                    self.accumulators[i] = self._accumulated(i, g)
        if a["use_ema"]:
            momentum = 0.0 if iteration == 0 else a["ema_momentum"]
            frequency = a["ema_overwrite_frequency"]
            for w, average in zip(self.weights, self.averages, strict=True):
                T = w.dtype.type
                average[...] = T(momentum) * average + T(1 - momentum) * w
                if frequency and (iteration + 1) % frequency == 0:
                    w[...] = average
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

    def raw(self, i: int, g: Array) -> Array:
        """Return what the factor applies to."""
        return self._accumulated(i, g) if self.steps > 1 else g

    def _accumulated(self, i: int, g: Array) -> Array:
        x, unscale = load(g, self.unscale, self.weights[i].dtype)
        return self.accumulators[i] + x * unscale

    def _update(self, grads: list[Array | None], t: int) -> None:
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
        for i, g in enumerate(raw):
            if g is None:
                continue
            w = self.weights[i]
            T = w.dtype.type
            clip = global_factor
            if a["clipnorm"]:
                norm = factor * math.sqrt(sum_of_squares(g))
                clip = 1.0 if norm <= a["clipnorm"] else a["clipnorm"] / norm
            x, scale = load(g, factor * clip, w.dtype)
            x = x * scale
            if a["clipvalue"]:
                x = np.clip(x, T(-a["clipvalue"]), T(a["clipvalue"]))
            of_adam = self.formula is muon and w.ndim != 2
            weight_decay = a["adam_weight_decay" if of_adam else "weight_decay"]
            if weight_decay and i not in self.excluded:
                w[...] = w * T(1 - weight_decay * lr)
            self.formula(w, x, self.slots[i], a, lr, t)
        if self.steps > 1:
            self.accumulators = [np.zeros_like(w) for w in self.weights]

    def stored(self) -> list[Array]:
        """Return the weights as the variables hold them."""
        return [w.astype(d) for w, d in zip(self.weights, self.dtypes, strict=True)]

    def variables(self) -> list[Array]:
        """Return all state in Keras's order."""
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

    def apply(self, grads: list[Array | None]) -> None:
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

    def _clip(self, grads: list[Array | None]) -> None:
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


class ScaledReference:
    """Dynamic loss scaling around a `Reference`."""

    def __init__(self, inner: Reference, initial_scale: float, dynamic_growth_steps: int) -> None:
        self.inner = inner
        self.scale = initial_scale
        self.growth = dynamic_growth_steps
        self.counter = 0
        self.skipped = 0

    def apply(self, grads: list[Array | None]) -> None:
        if not is_finite(grads):
            self.counter = 0
            self.skipped += 1
            self.scale = max(self.scale / 2, 2.0**-126)
            return
        self.inner.unscale = 1.0 / self.scale
        self.inner.apply(grads)
        self.skipped = 0
        self.counter += 1
        if self.counter == self.growth:
            self.counter = 0
            self.scale = min(self.scale * 2, 2.0**127)
