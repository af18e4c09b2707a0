"""Every rule and the whole step in plain NumPy, one operation after the other in the kernels' order.

It shares no code with the library. NumPy rounds after each operation, as the kernels do, so results
must be equal to the last bit.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
TILE = 1024
LANES = 32

Formula = Callable[[Array, Array, dict[str, Array], dict[str, Any], float, int], None]
Slots = Callable[[dict[str, Any], Array], list[list[str]]]
Decorated = TypeVar("Decorated", bound=Formula)


class Rule(NamedTuple):
    """What the library promises of one rule."""

    formula: Formula
    slots: Slots
    """Their names in groups: a group is interleaved in `variables`."""
    defaults: dict[str, Any]
    starting: tuple[str, ...]
    """The slots that start at `initial_accumulator_value`."""
    model: str
    """The library whose numbers it has."""


RULES: dict[str, Rule] = {}
"""Every rule by its name. A formula registers itself."""

BETAS = {"learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}


def rule(
    name: str,
    slots: Slots,
    starting: tuple[str, ...] = (),
    model: str = "keras",
    **defaults: Any,
) -> Callable[[Decorated], Decorated]:
    """Register a formula as that of a rule with these slots and defaults."""

    def register(formula: Decorated) -> Decorated:
        RULES[name] = Rule(formula, slots, defaults, starting, model)
        return formula

    return register


def sgd_slots(a: dict[str, Any], w: Array) -> list[list[str]]:
    return [["momentum"]] if a["momentum"] else []


def rmsprop_slots(a: dict[str, Any], w: Array) -> list[list[str]]:
    momentum = [["momentum"]] if a["momentum"] else []
    return [["velocity"], *momentum, *([["average_gradient"]] if a["centered"] else [])]


def adam_slots(a: dict[str, Any], w: Array) -> list[list[str]]:
    return [["momentum", "velocity"], *([["velocity_hat"]] if a["amsgrad"] else [])]


def muon_slots(a: dict[str, Any], w: Array) -> list[list[str]]:
    return [["momentum"]] if w.ndim == 2 else [["momentum", "velocity"]]


def plain_slots(*names: str) -> Slots:
    return lambda a, w: [list(names)]


# Rules. Each changes `w` and its slots in place; `T` turns a scalar computed in double into w's type.


@rule("SGD", sgd_slots, learning_rate=0.01, momentum=0.0, nesterov=False)
def sgd(w: Array, g: Array, slots: dict[str, Array], a: dict[str, Any], lr: float, t: int) -> None:
    T = w.dtype.type
    if a["momentum"] == 0:
        w[...] = w - T(lr) * g
        return
    m = slots["momentum"]
    m[...] = T(a["momentum"]) * m - T(lr) * g
    w[...] = w + (T(a["momentum"]) * m - T(lr) * g) if a["nesterov"] else w + m


@rule(
    "RMSprop",
    rmsprop_slots,
    learning_rate=0.001,
    rho=0.9,
    momentum=0.0,
    epsilon=1e-7,
    centered=False,
)
def rmsprop(
    w: Array, g: Array, slots: dict[str, Array], a: dict[str, Any], lr: float, t: int
) -> None:
    T = w.dtype.type
    v = slots["velocity"]
    v[...] = T(a["rho"]) * v + T(1 - a["rho"]) * (g * g)
    d = v
    if a["centered"]:
        average = slots["average_gradient"]
        average[...] = T(a["rho"]) * average + T(1 - a["rho"]) * g
        d = np.maximum(v - average * average, T(0))
    s = (T(lr) * g) / np.sqrt(d + T(a["epsilon"]))
    if a["momentum"] > 0:
        p = slots["momentum"]
        p[...] = T(a["momentum"]) * p + s
        s = p
    w[...] = w - s


@rule("AdamW", adam_slots, **BETAS, amsgrad=False, weight_decay=0.004)
@rule("Adam", adam_slots, **BETAS, amsgrad=False)
def adam(w: Array, g: Array, slots: dict[str, Array], a: dict[str, Any], lr: float, t: int) -> None:
    T = w.dtype.type
    m, v = slots["momentum"], slots["velocity"]
    alpha = lr * math.sqrt(1 - a["beta_2"] ** t) / (1 - a["beta_1"] ** t)
    m[...] = m + (g - m) * T(1 - a["beta_1"])
    v[...] = v + (g * g - v) * T(1 - a["beta_2"])
    if a["amsgrad"]:
        slots["velocity_hat"][...] = np.maximum(slots["velocity_hat"], v)
        v = slots["velocity_hat"]
    w[...] = w - (T(alpha) * m) / (np.sqrt(v) + T(a["epsilon"]))


@rule(
    "Adagrad",
    plain_slots("accumulator"),
    starting=("accumulator",),
    learning_rate=0.001,
    initial_accumulator_value=0.1,
    epsilon=1e-7,
)
def adagrad(
    w: Array, g: Array, slots: dict[str, Array], a: dict[str, Any], lr: float, t: int
) -> None:
    T = w.dtype.type
    slots["accumulator"][...] = slots["accumulator"] + g * g
    w[...] = w - (T(lr) * g) / np.sqrt(slots["accumulator"] + T(a["epsilon"]))


@rule(
    "Adadelta",
    plain_slots("accumulated_grad", "accumulated_delta_var"),
    learning_rate=0.001,
    rho=0.95,
    epsilon=1e-7,
)
def adadelta(
    w: Array, g: Array, slots: dict[str, Array], a: dict[str, Any], lr: float, t: int
) -> None:
    T = w.dtype.type
    e, x = slots["accumulated_grad"], slots["accumulated_delta_var"]
    e[...] = T(a["rho"]) * e + T(1 - a["rho"]) * (g * g)
    d = np.sqrt((x + T(a["epsilon"])) / (e + T(a["epsilon"]))) * g
    x[...] = T(a["rho"]) * x + T(1 - a["rho"]) * (d * d)
    w[...] = w - T(lr) * d


@rule("Adamax", plain_slots("momentum", "norm"), **BETAS)
def adamax(
    w: Array, g: Array, slots: dict[str, Array], a: dict[str, Any], lr: float, t: int
) -> None:
    T = w.dtype.type
    m, u = slots["momentum"], slots["norm"]
    m[...] = m + (g - m) * T(1 - a["beta_1"])
    u[...] = np.maximum(T(a["beta_2"]) * u, np.abs(g))
    w[...] = w - (T(lr / (1 - a["beta_1"] ** t)) * m) / (u + T(a["epsilon"]))


@rule(
    "Yogi",
    plain_slots("momentum", "velocity"),
    starting=("momentum", "velocity"),
    model="optax",
    learning_rate=0.01,
    beta_1=0.9,
    beta_2=0.999,
    epsilon=1e-3,
    initial_accumulator_value=1e-6,
)
def yogi(w: Array, g: Array, slots: dict[str, Array], a: dict[str, Any], lr: float, t: int) -> None:
    T = w.dtype.type
    m, v = slots["momentum"], slots["velocity"]
    m[...] = m + (g - m) * T(1 - a["beta_1"])
    v[...] = v - (T(1 - a["beta_2"]) * (g * g)) * np.sign(v - g * g)
    root = np.sqrt(T(1 / (1 - a["beta_2"] ** t)) * v)
    w[...] = w - (T(lr / (1 - a["beta_1"] ** t)) * m) / (root + T(a["epsilon"]))


def nadam_product(a: dict[str, Any], updates: int) -> float:
    product = 1.0
    for t in range(1, updates + 1):
        product *= a["beta_1"] * (1 - 0.5 * 0.96**t)
    return product


@rule("Nadam", plain_slots("momentum", "velocity"), **BETAS)
def nadam(
    w: Array, g: Array, slots: dict[str, Array], a: dict[str, Any], lr: float, t: int
) -> None:
    T = w.dtype.type
    m, v = slots["momentum"], slots["velocity"]
    now = a["beta_1"] * (1 - 0.5 * 0.96**t)
    following = a["beta_1"] * (1 - 0.5 * 0.96 ** (t + 1))
    product = nadam_product(a, t)
    m[...] = m + (g - m) * T(1 - a["beta_1"])
    v[...] = v + (g * g - v) * T(1 - a["beta_2"])
    numerator = (
        T(lr * following / (1 - product * following)) * m + T(lr * (1 - now) / (1 - product)) * g
    )
    w[...] = w - numerator / (np.sqrt(T(1 / (1 - a["beta_2"] ** t)) * v) + T(a["epsilon"]))


@rule("Lion", plain_slots("momentum"), learning_rate=0.001, beta_1=0.9, beta_2=0.99)
def lion(w: Array, g: Array, slots: dict[str, Array], a: dict[str, Any], lr: float, t: int) -> None:
    T = w.dtype.type
    m = slots["momentum"]
    c = T(a["beta_1"]) * m + T(1 - a["beta_1"]) * g
    w[...] = w - T(lr) * np.sign(c)
    m[...] = T(a["beta_2"]) * m + T(1 - a["beta_2"]) * g


# The C library's pow, as the kernels call it. NumPy's own differs from it in the last bit on some processors.
_libm = ctypes.CDLL("ucrtbase" if os.name == "nt" else ctypes.util.find_library("m"))
_libm.pow.restype, _libm.pow.argtypes = ctypes.c_double, [ctypes.c_double] * 2
_libm.powf.restype, _libm.powf.argtypes = ctypes.c_float, [ctypes.c_float] * 2


def raised(x: Array, power: float) -> Array:
    pow_of = _libm.powf if x.dtype == np.float32 else _libm.pow
    flat = [pow_of(value, power) for value in x.ravel().tolist()]
    return np.array(flat, x.dtype).reshape(x.shape)


@rule(
    "Ftrl",
    plain_slots("accumulator", "linear"),
    starting=("accumulator",),
    learning_rate=0.001,
    learning_rate_power=-0.5,
    initial_accumulator_value=0.1,
    l1_regularization_strength=0.0,
    l2_regularization_strength=0.0,
    l2_shrinkage_regularization_strength=0.0,
    beta=0.0,
)
def ftrl(w: Array, g: Array, slots: dict[str, Array], a: dict[str, Any], lr: float, t: int) -> None:
    T = w.dtype.type
    n, z = slots["accumulator"], slots["linear"]
    if lr == 0 or not 1 / lr <= np.finfo(T).max:
        for x in (n, z, w):
            x[...] = np.where(np.isfinite(g), x, T(np.nan))
        return
    power = -a["learning_rate_power"]
    l1 = T(a["l1_regularization_strength"])
    l2 = T(2 * (a["l2_regularization_strength"] + a["beta"] / (2 * lr)))
    new_n = n + g * g
    root, new_root = (
        (np.sqrt(n), np.sqrt(new_n)) if power == 0.5 else (raised(n, power), raised(new_n, power))
    )
    shrunk = g + T(2 * a["l2_shrinkage_regularization_strength"]) * w
    z[...] = z + (shrunk - ((new_root - root) * T(1 / lr)) * w)
    denominator = new_root * T(1 / lr) + l2
    with np.errstate(divide="ignore", invalid="ignore"):
        w[...] = np.where(denominator != 0, (np.clip(z, -l1, l1) - z) / denominator, w)
    n[...] = new_n


@rule("Lamb", plain_slots("momentum", "velocity"), **BETAS)
def lamb(w: Array, g: Array, slots: dict[str, Array], a: dict[str, Any], lr: float, t: int) -> None:
    T = w.dtype.type
    m, v = slots["momentum"], slots["velocity"]
    m[...] = m + (g - m) * T(1 - a["beta_1"])
    v[...] = v + (g * g - v) * T(1 - a["beta_2"])
    root = np.sqrt(T(1 / (1 - a["beta_2"] ** t)) * v) + T(a["epsilon"])
    u = (T(1 / (1 - a["beta_1"] ** t)) * m) / root
    size, length = sum_of_squares(w), sum_of_squares(u)
    ratio = math.sqrt(size) / math.sqrt(length) if size > 0 and length > 0 else 1.0
    w[...] = w - (T(ratio) * T(lr)) * u


@rule(
    "ScheduleFreeAdamW",
    plain_slots("momentum", "velocity"),
    learning_rate=0.0025,
    beta_1=0.9,
    beta_2=0.999,
    epsilon=1e-8,
    warmup_steps=0,
)
def schedule_free_adamw(
    w: Array, g: Array, slots: dict[str, Array], a: dict[str, Any], lr: float, t: int
) -> None:
    T = w.dtype.type
    z, v = slots["momentum"], slots["velocity"]
    beta_1, rest = T(a["beta_1"]), T(1 - a["beta_1"])
    rate = lr * min(t / a["warmup_steps"], 1.0) if a["warmup_steps"] else lr
    v[...] = v + (g * g - v) * T(1 - a["beta_2"])
    root = np.sqrt(T(1 / (1 - a["beta_2"] ** t)) * v) + T(a["epsilon"])
    new_z = z - (T(rate) * g) / root
    x = T(1 - 1 / t) * ((w - rest * z) * T(1 / a["beta_1"])) + T(1 / t) * new_z
    w[...] = rest * new_z + beta_1 * x
    z[...] = new_z


BLOCK = 64 * TILE
WIDEST = 16 * TILE


def parts(count: int, length: int) -> list[slice]:
    return [slice(start, min(start + length, count)) for start in range(0, count, length)]


def adafactor_norm(x: Array) -> float:
    """Sum of squares over Adafactor's blocks; in a block of a matrix the lanes go on from row to row."""
    if x.ndim < 2:
        blocks = [sum_of_squares(block) for block in in_blocks(x)]
    else:
        blocks = [
            sum_in_lanes(
                np.concatenate([in_rows(np.square(row, dtype=np.float64)) for row in block])
            )
            for matrix in x.reshape(-1, *x.shape[-2:])
            for rows in in_blocks(matrix)
            for block in (rows[:, across] for across in parts(x.shape[-1], WIDEST))
        ]
    total = 0.0
    for block in blocks:
        total += block
    return total


def in_blocks(x: Array) -> list[Array]:
    """A vector or a matrix cut into what one call of Adafactor's kernels covers."""
    length = BLOCK if x.ndim < 2 else max(64, BLOCK // x.shape[-1])
    return [x[part] for part in parts(len(np.atleast_1d(x)), length)] if x.ndim else [x.ravel()]


def adafactor_mean(mean: Array, keep: float, epsilon: float, sums: list[Array], terms: int) -> None:
    total = np.zeros(mean.shape)
    for part in sums:
        total = total + part
    new = (1 / terms) * total + epsilon
    mean[...] = (keep * mean.astype(np.float64) + (1 - keep) * new).astype(mean.dtype)


def inverse_root(mean: Array, over: float) -> Array:
    x = mean.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(x == 0, x * over, 1 / np.sqrt(x / over)).astype(mean.dtype)


def adafactor_direction(x: Array, r: Array, c: Array, keep: float, epsilon: float) -> Array:
    """Move one matrix's means and return its update."""
    rows, columns = x.shape
    q = np.square(x, dtype=np.float64)
    row_sums = []
    for block in parts(columns, WIDEST):
        total = np.zeros(rows)
        for part in parts(block.stop - block.start, TILE):
            within = slice(block.start + part.start, block.start + part.stop)
            total = total + np.array([sum_in_lanes(row[within]) for row in q])
        row_sums.append(total)
    column_sums = []
    for block in in_blocks(q):
        total = np.zeros(columns)
        for row in block:
            total = total + row
        column_sums.append(total)
    adafactor_mean(r, keep, epsilon, row_sums, columns)
    adafactor_mean(c, keep, epsilon, column_sums, rows)
    total_mean = 0.0
    for block in in_blocks(np.broadcast_to(r[:, None], x.shape)):
        share = 0.0
        for value in block[:, 0].tolist():
            share += value
        total_mean += share
    return (x * inverse_root(r, total_mean / rows)[:, None]) * inverse_root(c, 1.0)


@rule(
    "Adafactor",
    plain_slots("r", "c", "velocity"),
    learning_rate=0.001,
    beta_2_decay=-0.8,
    epsilon_1=1e-30,
    epsilon_2=1e-3,
    clip_threshold=1.0,
    relative_step=True,
)
def adafactor(
    w: Array, g: Array, slots: dict[str, Array], a: dict[str, Any], lr: float, t: int
) -> None:
    T = w.dtype.type
    keep = 1 - float(t) ** a["beta_2_decay"]
    if w.size == 0:
        return
    if w.ndim < 2:
        v = slots["velocity"]
        v[...] = T(keep) * v + T(1 - keep) * (g * g + T(a["epsilon_1"]))
        with np.errstate(divide="ignore", invalid="ignore"):
            u = np.where(v == 0, T(0), g / np.sqrt(v))
    else:
        x = g.reshape(-1, *g.shape[-2:])
        epsilon = a["epsilon_1"]
        r = slots["r"].reshape(-1, x.shape[1])
        c = slots["c"].reshape(-1, x.shape[2])
        u = np.stack([adafactor_direction(x[k], r[k], c[k], keep, epsilon) for k in range(len(x))])
        means = r.astype(np.float64).cumsum(axis=1)[:, -1:] / r.shape[1]
        factor = np.where(r == 0, r * means, r.astype(np.float64) / means).astype(r.dtype)
        slots["velocity"][...] = (factor[:, :, None] * c[:, None, :]).reshape(w.shape)
        u = u.reshape(w.shape)
    length = math.sqrt(adafactor_norm(w) / w.size)
    excess = math.sqrt(adafactor_norm(u) / w.size) / a["clip_threshold"]
    rho = min(lr, 1 / math.sqrt(t))
    w[...] = w - T(np.maximum(a["epsilon_2"], length) * rho / np.maximum(1.0, excess)) * u


def symmetric_square(x: Array) -> Array:
    """x x^T in panels of rows up to the diagonal, and what is right of them by symmetry."""
    side = x.shape[0]
    square = np.empty((side, side), x.dtype)
    count = min(max(side // 256, 1), 4)
    for i in range(count):
        begin, end = side * i // count, side * (i + 1) // count
        square[begin:end, :end] = x[begin:end] @ x[:end].T
        square[:begin, begin:end] = square[begin:end, :begin].T
    return square


@rule(
    "Muon",
    muon_slots,
    learning_rate=0.001,
    adam_beta_1=0.9,
    adam_beta_2=0.999,
    adam_weight_decay=0.004,
    epsilon=1e-7,
    weight_decay=0.004,
    exclude_layers=None,
    exclude_embeddings=True,
    muon_a=3.4445,
    muon_b=-4.775,
    muon_c=2.0315,
    adam_lr_ratio=1,
    momentum=0.95,
    ns_steps=5,
    nesterov=True,
    rms_rate=0.2,
)
def muon(w: Array, g: Array, slots: dict[str, Array], a: dict[str, Any], lr: float, t: int) -> None:
    T = w.dtype.type
    if w.ndim != 2:
        betas = {"beta_1": a["adam_beta_1"], "beta_2": a["adam_beta_2"], "amsgrad": False}
        adam(w, g, slots, a | betas, lr * a["adam_lr_ratio"], t)
        return
    m = slots["momentum"]
    m[...] = T(a["momentum"]) * m + g
    if w.size == 0:
        return
    x = g + T(a["momentum"]) * m if a["nesterov"] else m.copy()
    x = T(1 / (math.sqrt(sum_of_squares(x)) + 1e-7)) * x
    is_tall = w.shape[0] > w.shape[1]
    x = np.ascontiguousarray(x.T) if is_tall else x
    size = 1.0 if a["rms_rate"] is None else math.sqrt(max(w.shape)) * a["rms_rate"]
    for k in range(a["ns_steps"]):
        is_last = k + 1 == a["ns_steps"]
        factor = size if is_last else 1.0
        gram = symmetric_square(x)
        square = symmetric_square(gram)
        polynomial = T(factor * a["muon_b"]) * gram + T(factor * a["muon_c"]) * square
        polynomial[np.diag_indices_from(polynomial)] += T(factor * a["muon_a"])
        x = x.T @ polynomial if is_last and is_tall else polynomial @ x
    w[...] = w - T(lr) * x


def empty_slot(name: str, w: Array) -> Array:
    """Zeros of a slot's shape; Keras lists integers where a vector has no means."""
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


def sum_of_squares(g: Array) -> float:
    """Sum in double: 32 lanes a tile, added pairwise at its end; tiles one after the other."""
    squares = np.square(g.ravel(), dtype=np.float64)
    total = 0.0
    for start in range(0, squares.size, TILE):
        total += sum_in_lanes(squares[start : start + TILE])
    return total


def in_rows(x: Array) -> Array:
    """Rows of 32, the last one filled with zeros."""
    rows = np.zeros((-(-x.size // LANES), LANES))
    rows.ravel()[: x.size] = x.ravel()
    return rows


def sum_in_lanes(x: Array) -> float:
    lanes = np.zeros(LANES)
    for row in in_rows(x):
        lanes = lanes + row
    while lanes.size > 1:
        half = lanes.size // 2
        lanes = lanes[:half] + lanes[half:]
    return float(lanes[0])


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
            {name: empty_slot(name, w) for group in groups for name in group}
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
