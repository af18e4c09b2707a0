"""The rules that are one formula for every element.

Each changes `w` and its slots in place. `T` turns a scalar computed in double into the type of `w`.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import math
import os
from typing import Any

import numpy as np

from reference import sums
from reference.rule import BETAS, Array, plain_slots, rule


def sgd_slots(a: dict[str, Any], w: Array) -> list[list[str]]:
    return [["momentum"]] if a["momentum"] else []


def rmsprop_slots(a: dict[str, Any], w: Array) -> list[list[str]]:
    momentum = [["momentum"]] if a["momentum"] else []
    return [["velocity"], *momentum, *([["average_gradient"]] if a["centered"] else [])]


def adam_slots(a: dict[str, Any], w: Array) -> list[list[str]]:
    return [["momentum", "velocity"], *([["velocity_hat"]] if a["amsgrad"] else [])]


def spread(moment: Array, w: Array) -> Array:
    """Let a slot meet its variable, also if it has one number per row."""
    return moment if moment.shape == w.shape else moment.reshape(-1, *[1] * (w.ndim - 1))


def squares_for(moment: Array, g: Array) -> Array:
    """Square the gradient; the mean of each row stands for its squares if the moment has one number per row."""
    if moment.shape == g.shape:
        return g * g
    rows = g.reshape(len(g), math.prod(g.shape[1:]))
    if not rows.size:
        return np.zeros_like(moment)
    total = np.cumsum(sums.partial_sums(rows), axis=1)[:, -1]  # one tile after the other
    return (total / rows.shape[1]).astype(g.dtype).reshape(moment.shape)


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
    rowwise=False,
)
def rmsprop(
    w: Array, g: Array, slots: dict[str, Array], a: dict[str, Any], lr: float, t: int
) -> None:
    T = w.dtype.type
    v = spread(slots["velocity"], w)
    v[...] = T(a["rho"]) * v + T(1 - a["rho"]) * squares_for(v, g)
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


@rule("AdamW", adam_slots, **BETAS, amsgrad=False, weight_decay=0.004, rowwise=False)
@rule("Adam", adam_slots, **BETAS, amsgrad=False, rowwise=False)
def adam(w: Array, g: Array, slots: dict[str, Array], a: dict[str, Any], lr: float, t: int) -> None:
    T = w.dtype.type
    m, v = slots["momentum"], spread(slots["velocity"], w)
    alpha = lr * math.sqrt(1 - a["beta_2"] ** t) / (1 - a["beta_1"] ** t)
    m[...] = m + (g - m) * T(1 - a["beta_1"])
    v[...] = v + (squares_for(v, g) - v) * T(1 - a["beta_2"])
    if a["amsgrad"]:
        largest = spread(slots["velocity_hat"], w)
        largest[...] = np.maximum(largest, v)
        v = largest
    w[...] = w - (T(alpha) * m) / (np.sqrt(v) + T(a["epsilon"]))


@rule(
    "Adagrad",
    plain_slots("accumulator"),
    starting=("accumulator",),
    learning_rate=0.001,
    initial_accumulator_value=0.1,
    epsilon=1e-7,
    rowwise=False,
)
def adagrad(
    w: Array, g: Array, slots: dict[str, Array], a: dict[str, Any], lr: float, t: int
) -> None:
    T = w.dtype.type
    accumulator = spread(slots["accumulator"], w)
    accumulator[...] = accumulator + squares_for(accumulator, g)
    w[...] = w - (T(lr) * g) / np.sqrt(accumulator + T(a["epsilon"]))


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
    rowwise=False,
)
def yogi(w: Array, g: Array, slots: dict[str, Array], a: dict[str, Any], lr: float, t: int) -> None:
    T = w.dtype.type
    m, v = slots["momentum"], spread(slots["velocity"], w)
    square = squares_for(v, g)
    m[...] = m + (g - m) * T(1 - a["beta_1"])
    v[...] = v - (T(1 - a["beta_2"]) * square) * np.sign(v - square)
    root = np.sqrt(T(1 / (1 - a["beta_2"] ** t)) * v)
    w[...] = w - (T(lr / (1 - a["beta_1"] ** t)) * m) / (root + T(a["epsilon"]))


def nadam_product(a: dict[str, Any], updates: int) -> float:
    product = 1.0
    for t in range(1, updates + 1):
        product *= a["beta_1"] * (1 - 0.5 * 0.96**t)
    return product


@rule("Nadam", plain_slots("momentum", "velocity"), **BETAS, rowwise=False)
def nadam(
    w: Array, g: Array, slots: dict[str, Array], a: dict[str, Any], lr: float, t: int
) -> None:
    T = w.dtype.type
    m, v = slots["momentum"], spread(slots["velocity"], w)
    now = a["beta_1"] * (1 - 0.5 * 0.96**t)
    following = a["beta_1"] * (1 - 0.5 * 0.96 ** (t + 1))
    product = nadam_product(a, t)
    m[...] = m + (g - m) * T(1 - a["beta_1"])
    v[...] = v + (squares_for(v, g) - v) * T(1 - a["beta_2"])
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
    size, length = sums.sum_of_squares(w), sums.sum_of_squares(u)
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
