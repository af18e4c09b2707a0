"""The rules that treat matrices in a way of their own: Adafactor and Muon."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from reference import sums
from reference.elementwise import adam
from reference.rule import Array, plain_slots, rule

BLOCK = 64 * sums.TILE
WIDEST = 16 * sums.TILE


def parts(count: int, length: int) -> list[slice]:
    return [slice(start, min(start + length, count)) for start in range(0, count, length)]


def adafactor_norm(x: Array) -> float:
    """Sum of squares over Adafactor's blocks; in a block of a matrix the lanes go on from row to row."""
    if x.ndim < 2:
        blocks = [sums.sum_of_squares(block) for block in in_blocks(x)]
    else:
        blocks = [
            sums.sum_in_lanes(
                np.concatenate([sums.in_rows(np.square(row, dtype=np.float64)) for row in block])
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
        for part in parts(block.stop - block.start, sums.TILE):
            within = slice(block.start + part.start, block.start + part.stop)
            total = total + np.array([sums.sum_in_lanes(row[within]) for row in q])
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


def muon_slots(a: dict[str, Any], w: Array) -> list[list[str]]:
    return [["momentum"]] if w.ndim == 2 else [["momentum", "velocity"]]


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
    x = T(1 / (math.sqrt(sums.sum_of_squares(x)) + 1e-7)) * x
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
