"""Gradients made up to find the weak places of slots in fewer bits, and what becomes of slots and updates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from fusedopt.bench.workload import Array
from low_bit_codes import Slot
from low_bit_trainers import BETA_1, BETA_2, FLOAT32, TRAINERS, Trainer

Made = dict[str, Any]
"""What a trial has found, by the name of who trains, as JSON knows it."""

# Enough for slots of eight bits.
ELEMENTS = 4096
# Of a table whose rows are hit often or seldom.
ROW = 16
SPIKE, SPIKES = 1e3, 1e-3


def began(elements: int = ELEMENTS) -> dict[str, tuple[Slot, Trainer]]:
    """A variable of zeros for each."""
    made = {}
    for name, make in TRAINERS.items():
        w = np.zeros(elements, np.float32)
        made[name] = w, make([w], 0.0, 0)
    return made


def update(w: Slot, trainer: Trainer, gradient: Slot) -> Slot:
    """Return the update of one step with the learning rate 1, without the error of adding it to a large weight."""
    w[...] = 0
    trainer.step([gradient], 1.0)
    return -w


def mild(random: np.random.Generator, steps: int) -> Iterator[Slot]:
    """Elements of a block differ by a factor of ten or so."""
    scale, mean = 1e-2 * np.exp(random.normal(size=ELEMENTS)), 0.1 * random.normal(size=ELEMENTS)
    for _ in range(steps):
        yield _float32(scale * (mean + random.normal(size=ELEMENTS)))


def rare_rows(random: np.random.Generator, steps: int) -> Iterator[Slot]:
    """Three of four rows have a gradient in one of a hundred steps only."""
    often = np.where(np.arange(ELEMENTS // ROW) % 4 == 0, 1.0, 0.01)
    for gradient in mild(random, steps):
        hit = random.random(often.size) < often
        yield gradient * np.repeat(hit, ROW).astype(np.float32)


def spikes(random: np.random.Generator, steps: int) -> Iterator[Slot]:
    """One gradient of a thousand is a thousand times as large."""
    for gradient in mild(random, steps):
        is_spike = random.random(ELEMENTS) < SPIKES
        yield gradient * np.where(is_spike, np.float32(SPIKE), np.float32(1))


def wide(random: np.random.Generator, steps: int, decades: int) -> Iterator[Slot]:
    """Elements of a block differ by this many decades."""
    scale = 10.0 ** random.uniform(-decades, 0, ELEMENTS)
    mean = 0.1 * random.normal(size=ELEMENTS)
    for _ in range(steps):
        yield _float32(scale * (mean + random.normal(size=ELEMENTS)))


def moving_spike(random: np.random.Generator, steps: int) -> Iterator[Slot]:
    """Elements differ by six decades, and in turn one of 64 is a thousand times as large for 20 steps."""
    scale = 10.0 ** random.uniform(-6, 0, ELEMENTS)
    for step in range(steps):
        is_spike = (np.arange(ELEMENTS) + step // 20) % 64 == 0
        sign = np.sign(random.normal(size=ELEMENTS))
        yield _float32(scale * sign * np.where(is_spike, SPIKE, 1))


def returning(random: np.random.Generator, steps: int) -> Iterator[Slot]:
    """Ten steps with gradients, then none, and gradients again for the last sixth."""
    scale = 10.0 ** random.uniform(-6, 0, ELEMENTS)
    for step in range(steps):
        is_spike = np.arange(ELEMENTS) % 64 == step % 64
        is_there = step < 10 or 6 * step > 5 * steps
        yield _float32(is_there * scale * np.where(is_spike, SPIKE, 1))


def growing(random: np.random.Generator, steps: int) -> Iterator[Slot]:
    """Nothing, and then gradients that grow as much as makes the largest update of all, beta_2 / beta_1 a step."""
    scale, sign = (
        10.0 ** random.uniform(-3, 0, ELEMENTS),
        np.sign(random.normal(size=ELEMENTS)),
    )
    last = min(steps, 150)
    for step in range(steps):
        power = step - (steps - last)
        yield _float32((power >= 0) * scale * sign * (BETA_2 / BETA_1) ** max(power, 0))


def largest_updates(steps: int) -> dict[str, Made]:
    """The largest update of each, in learning rates, for gradients of each kind."""
    kinds = {
        "rare rows": rare_rows,
        "spikes": spikes,
        "a spread of 10^6": lambda random, steps: wide(random, steps, 6),
        "a moving spike": moving_spike,
        "returning": returning,
        "growing": growing,
    }
    found = {}
    for kind, gradients in kinds.items():
        trained = began()
        largest = dict.fromkeys(trained, 0.0)
        for gradient in gradients(np.random.default_rng(0), steps):
            for name, (w, trainer) in trained.items():
                here = float(np.abs(update(w, trainer, gradient)).max())
                largest[name] = max(largest[name], here)
        found[kind] = largest
    return found


def sums_of_updates(steps: int) -> dict[str, Made]:
    """How far the sum of all updates is from that of float32: root of the mean square over that of float32."""
    kinds = {
        "mild": mild,
        "rare rows": rare_rows,
        "spikes": spikes,
        "a spread of 10^4": lambda random, steps: wide(random, steps, 4),
        "a spread of 10^6": lambda random, steps: wide(random, steps, 6),
    }
    found = {}
    for kind, gradients in kinds.items():
        trained = began()
        sums = {name: np.zeros(ELEMENTS) for name in trained}
        for gradient in gradients(np.random.default_rng(5), steps):
            for name, (w, trainer) in trained.items():
                sums[name] += update(w, trainer, gradient)
        true = sums[FLOAT32]
        found[kind] = {
            name: float(np.sqrt(np.square(one - true).sum() / np.square(true).sum()))
            for name, one in sums.items()
        }
    return found


def untouched(steps: int) -> Made:
    """The largest slot of elements that never have a gradient, and how far they move, in learning rates."""
    has_none = np.arange(ELEMENTS) % 2 == 1
    trained = began()
    for gradient in wide(np.random.default_rng(1), steps, 4):
        for _, trainer in trained.values():
            trainer.step([np.where(has_none, np.float32(0), gradient)], 1.0)
    return {
        name: {
            "slot": max(
                float(np.abs(slot[has_none]).max())
                for (slot,) in (trainer.momenta(), trainer.velocities())
            ),
            "moved": float(np.abs(w[has_none]).max()),
        }
        for name, (w, trainer) in trained.items()
    }


def averages(steady: int, dropped: int, elements: int) -> Made:
    """Velocities over float32's, while gradients stay alike, and after they have become a hundred times smaller.

    The elements are alike but for their random numbers, so they stand for as many seeds.
    """
    random = np.random.default_rng(3)
    trained = began(elements)
    found: Made = {name: {"curve": []} for name in trained}
    every = max(1, (steady + dropped) // 80)
    for step in range(1, steady + dropped + 1):
        scale = 1e-3 if step <= steady else 1e-5
        gradient = _float32(scale * random.normal(size=elements))
        for _, trainer in trained.values():
            trainer.step([gradient], 1.0)
        if step % every and step not in (steady, steady + dropped):
            continue
        (true,) = trained[FLOAT32][1].velocities()
        for name, (_, trainer) in trained.items():
            (velocity,) = trainer.velocities()
            ratios = velocity.astype(float) / true
            quantiles = np.quantile(np.sqrt(ratios), (0.01, 0.5, 0.99)).tolist()
            here = {"step": step, "mean": float(ratios.mean()), "quantiles": quantiles}
            found[name]["curve"].append(here)
            if step == steady:
                found[name]["steady"] = here
    for one in found.values():
        one["dropped"] = one["curve"][-1]
    return found


def _float32(x: Array) -> Slot:
    return x.astype(np.float32)
