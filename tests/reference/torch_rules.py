"""The rules in PyTorch's numbers, which no class of the package has: formulas with its keys of state.

Sources are the files of torch/optim in PyTorch 2.13. Weight decay is coupled, `g + weight_decay w`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from reference.rule import Array, Decorated, Rule, Slots, plain_slots

TORCH_RULES: dict[str, Rule] = {}
"""Every rule by its name."""

BETAS = {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8}


def torch_rule(name: str, slots: Slots, starting: tuple[str, ...] = (), **defaults: Any) -> Any:
    """Register a formula as that of a rule with these slots and defaults."""

    def register(formula: Decorated) -> Decorated:
        TORCH_RULES[name] = Rule(formula, slots, defaults, starting, "torch")
        return formula

    return register


def sgd_slots(a: dict[str, Any], w: Array) -> list[list[str]]:
    return [["momentum_buffer"]] if a["momentum"] else []


def rmsprop_slots(a: dict[str, Any], w: Array) -> list[list[str]]:
    momentum = [["momentum_buffer"]] if a["momentum"] else []
    return [["square_avg"], *momentum, *([["grad_avg"]] if a["centered"] else [])]


def adam_slots(a: dict[str, Any], w: Array) -> list[list[str]]:
    return [["exp_avg", "exp_avg_sq"], *([["max_exp_avg_sq"]] if a["amsgrad"] else [])]


def decayed(w: Array, g: Array, a: dict[str, Any]) -> Array:
    return g + w.dtype.type(a["weight_decay"]) * w if a["weight_decay"] else g


@torch_rule(
    "TorchSGD",
    sgd_slots,
    learning_rate=0.001,
    momentum=0.0,
    dampening=0.0,
    nesterov=False,
    weight_decay=0.0,
)
def sgd(w: Array, g: Array, slots: dict[str, Array], a: dict[str, Any], lr: float, t: int) -> None:
    T = w.dtype.type
    mu = T(a["momentum"])
    g = decayed(w, g, a)
    if a["momentum"] == 0:
        w[...] = w - T(lr) * g
        return
    m = slots["momentum_buffer"]
    m[...] = g if t == 1 else mu * m + T(1 - a["dampening"]) * g
    w[...] = w - T(lr) * (g + mu * m if a["nesterov"] else m)


@torch_rule(
    "TorchRMSprop",
    rmsprop_slots,
    learning_rate=0.01,
    rho=0.99,
    momentum=0.0,
    epsilon=1e-8,
    centered=False,
    weight_decay=0.0,
)
def rmsprop(
    w: Array, g: Array, slots: dict[str, Array], a: dict[str, Any], lr: float, t: int
) -> None:
    T = w.dtype.type
    g = decayed(w, g, a)
    v = slots["square_avg"]
    v[...] = T(a["rho"]) * v + T(1 - a["rho"]) * (g * g)
    variance = v
    if a["centered"]:
        mean = slots["grad_avg"]
        mean[...] = mean + (g - mean) * T(1 - a["rho"])
        variance = np.maximum(v - mean * mean, T(0))
    d = np.sqrt(variance) + T(a["epsilon"])
    if a["momentum"]:
        p = slots["momentum_buffer"]
        p[...] = T(a["momentum"]) * p + g / d
        w[...] = w - T(lr) * p
    else:
        w[...] = w - (T(lr) * g) / d


def adam(w: Array, g: Array, slots: dict[str, Array], a: dict[str, Any], lr: float, t: int) -> None:
    T = w.dtype.type
    m, v = slots["exp_avg"], slots["exp_avg_sq"]
    m[...] = m + (g - m) * T(1 - a["beta_1"])
    v[...] = v + (g * g - v) * T(1 - a["beta_2"])
    if a["amsgrad"]:
        u = slots["max_exp_avg_sq"]
        u[...] = np.maximum(u, v)
        v = u
    root = math.sqrt(1 - a["beta_2"] ** t)
    alpha = T(lr * root / (1 - a["beta_1"] ** t))
    w[...] = w - (alpha * m) / (np.sqrt(v) + T(a["epsilon"] * root))


@torch_rule(
    "TorchAdam",
    adam_slots,
    learning_rate=0.001,
    **BETAS,
    amsgrad=False,
    weight_decay=0.0,
    decoupled_weight_decay=False,
)
def adam_of_either_decay(
    w: Array, g: Array, slots: dict[str, Array], a: dict[str, Any], lr: float, t: int
) -> None:
    if a["decoupled_weight_decay"]:
        adamw(w, g, slots, a, lr, t)
    else:
        adam(w, decayed(w, g, a), slots, a, lr, t)


@torch_rule(
    "TorchAdamW", adam_slots, learning_rate=0.001, **BETAS, amsgrad=False, weight_decay=0.01
)
def adamw(
    w: Array, g: Array, slots: dict[str, Array], a: dict[str, Any], lr: float, t: int
) -> None:
    w[...] = w * w.dtype.type(1 - a["weight_decay"] * lr)
    adam(w, g, slots, a, lr, t)


@torch_rule(
    "TorchAdagrad",
    plain_slots("sum"),
    starting=("sum",),
    learning_rate=0.01,
    lr_decay=0.0,
    initial_accumulator_value=0.0,
    epsilon=1e-10,
    weight_decay=0.0,
)
def adagrad(
    w: Array, g: Array, slots: dict[str, Array], a: dict[str, Any], lr: float, t: int
) -> None:
    T = w.dtype.type
    g = decayed(w, g, a)
    total = slots["sum"]
    total[...] = total + g * g
    alpha = T(lr / (1 + (t - 1) * a["lr_decay"]))
    w[...] = w - (alpha * g) / (np.sqrt(total) + T(a["epsilon"]))


@torch_rule(
    "TorchAdadelta",
    plain_slots("square_avg", "acc_delta"),
    learning_rate=1.0,
    rho=0.9,
    epsilon=1e-6,
    weight_decay=0.0,
)
def adadelta(
    w: Array, g: Array, slots: dict[str, Array], a: dict[str, Any], lr: float, t: int
) -> None:
    T = w.dtype.type
    g = decayed(w, g, a)
    e, x = slots["square_avg"], slots["acc_delta"]
    e[...] = T(a["rho"]) * e + T(1 - a["rho"]) * (g * g)
    d = np.sqrt((x + T(a["epsilon"])) / (e + T(a["epsilon"]))) * g
    x[...] = T(a["rho"]) * x + T(1 - a["rho"]) * (d * d)
    w[...] = w - T(lr) * d


@torch_rule(
    "TorchAdamax",
    plain_slots("exp_avg", "exp_inf"),
    learning_rate=0.002,
    **BETAS,
    weight_decay=0.0,
)
def adamax(
    w: Array, g: Array, slots: dict[str, Array], a: dict[str, Any], lr: float, t: int
) -> None:
    T = w.dtype.type
    g = decayed(w, g, a)
    m, u = slots["exp_avg"], slots["exp_inf"]
    m[...] = m + (g - m) * T(1 - a["beta_1"])
    u[...] = np.maximum(T(a["beta_2"]) * u, np.abs(g) + T(a["epsilon"]))
    w[...] = w - (T(lr / (1 - a["beta_1"] ** t)) * m) / u


def momentum_of(a: dict[str, Any], t: int) -> float:
    momentum: float = a["beta_1"] * (1 - 0.5 * 0.96 ** (t * a["momentum_decay"]))
    return momentum


@torch_rule(
    "TorchNAdam",
    plain_slots("exp_avg", "exp_avg_sq"),
    learning_rate=0.002,
    **BETAS,
    momentum_decay=0.004,
    weight_decay=0.0,
    decoupled_weight_decay=False,
)
def nadam(
    w: Array, g: Array, slots: dict[str, Array], a: dict[str, Any], lr: float, t: int
) -> None:
    """Its product of momentums is an array of one element among the slots, and rounds as that does."""
    T = w.dtype.type
    mu, next_mu = momentum_of(a, t), momentum_of(a, t + 1)
    product_in_place = slots["mu_product"]
    product_in_place[...] = product_in_place * product_in_place.dtype.type(mu)
    product = float(product_in_place)
    if a["decoupled_weight_decay"]:
        w[...] = w * T(1 - a["weight_decay"] * lr)
    else:
        g = decayed(w, g, a)
    m, v = slots["exp_avg"], slots["exp_avg_sq"]
    m[...] = m + (g - m) * T(1 - a["beta_1"])
    v[...] = v + (g * g - v) * T(1 - a["beta_2"])
    of_m, of_g = lr * next_mu / (1 - product * next_mu), lr * (1 - mu) / (1 - product)
    root = np.sqrt(T(1 / (1 - a["beta_2"] ** t)) * v)
    w[...] = w - (T(of_m) * m + T(of_g) * g) / (root + T(a["epsilon"]))
