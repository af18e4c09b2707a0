"""Train a recommender whose tables are large, where a batch touches a few of their rows.

A user and an item have 32 numbers each, and their product is the rating. Both tables have 100,000
rows. The same batches train it three times: with dense gradients, and with row gradients that are
caught up and lazy. Caught up, the losses are those of the dense gradients, for the time of a few
rows. Lazy, a row's weight decay stops while no batch touches the row.

It needs NumPy only, and matplotlib for the picture. In a clone of the repository:

    pip install .
    python python/examples/train_recommender.py --plot recommender.png

The exit status is 1 if the losses of the dense and of the caught-up training differ by more than
one part in a thousand. With `--rule AdamW` they do differ: the moves that a momentum makes between
two touches of a row are not caught up.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import perf_counter

import fusedopt as fo
import numpy as np
from numpy.typing import NDArray

Single = NDArray[np.float32]
Batch = tuple[NDArray[np.int64], NDArray[np.int64], Single]
ROWS, FACTORS, BATCH = 100_000, 32, 4096
RULES = {
    "Adagrad": {"learning_rate": 0.5, "weight_decay": 0.02},
    "AdamW": {"learning_rate": 0.03, "weight_decay": 0.3},
}
KINDS = ("dense", "caught_up", "lazy")


def make_batches(count: int) -> list[Batch]:
    """Rate items by hidden tastes. Some users and items are frequent, and most are rare."""
    rng = np.random.default_rng(0)
    tastes, traits = rng.normal(0.8, 1.0, (2, ROWS, 2))
    batches = []
    for _ in range(count):
        users, items = (ROWS * rng.random((2, BATCH)) ** 5).astype(np.int64)
        ratings = (tastes[users] * traits[items]).sum(axis=1) + rng.normal(0.0, 0.3, BATCH)
        batches.append((users, items, ratings.astype(np.float32)))
    return batches


def dense(values: Single, indices: NDArray[np.int64]) -> Single:
    """The gradient of the whole table, of which nearly everything is zero."""
    gradient = np.zeros((ROWS, FACTORS), np.float32)
    np.add.at(gradient, indices, values)
    return gradient


def train(rule: str, kind: str, batches: list[Batch]) -> tuple[list[float], float]:
    """Return the loss of each batch before its step, and what share of the time the steps took."""
    rng = np.random.default_rng(1)
    users, items = rng.normal(0.0, 0.1, (2, ROWS, FACTORS)).astype(np.float32)
    row_updates = "lazy" if kind == "dense" else kind  # says nothing about dense gradients
    opt = getattr(fo, rule)(**RULES[rule], row_updates=row_updates)
    opt.build({"users": users, "items": items})
    gradient = dense if kind == "dense" else fo.RowGradient
    losses, step_seconds, start = [], 0.0, perf_counter()
    for who, what, ratings in batches:
        ready = perf_counter()
        opt.catch_up("users", who)  # before the forward pass reads these rows; needed by caught_up
        opt.catch_up("items", what)
        step_seconds += perf_counter() - ready

        user, item = users[who], items[what]
        error = (user * item).sum(axis=1) - ratings
        losses.append(float(np.square(error).mean()))
        error = error[:, None]

        gradients = {"users": gradient(error * item, who), "items": gradient(error * user, what)}
        ready = perf_counter()
        opt.apply(gradients)
        step_seconds += perf_counter() - ready
    seconds = perf_counter() - start
    print(
        f"{rule} {kind:10} loss {np.mean(losses[-10:]):.4f}"
        f"   step {step_seconds / seconds:6.1%} of {seconds:.2f} s"
    )
    return losses, seconds


def save_plot(rule: str, runs: dict[str, tuple[list[float], float]], path: Path) -> None:
    from matplotlib.figure import Figure

    styles = {"dense": ("#c9ced6", 5.0), "caught_up": ("#2f6db3", 1.5), "lazy": ("#d9822b", 1.5)}
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    curves, bars = figure.subplots(1, 2, width_ratios=(2, 1))
    for kind, (losses, seconds) in runs.items():
        colour, width = styles[kind]
        means = np.convolve(losses, np.full(5, 0.2), "valid")
        curves.plot(means, color=colour, linewidth=width, label=kind)
        bars.bar(kind, seconds, color=colour)
        bars.text(kind, seconds, f"{seconds:.2f} s", ha="center", va="bottom")
    curves.set(xlabel="batch", ylabel="loss, mean of five batches", title=f"{rule} with decay")
    curves.legend(frameon=False)
    bars.set(title="time of the training", ylabel="seconds")
    for axes in (curves, bars):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rule", choices=RULES, default="Adagrad")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the losses and times")
    arguments = parser.parse_args()
    batches = make_batches(arguments.steps)
    runs = {kind: train(arguments.rule, kind, batches) for kind in KINDS}
    if arguments.plot:
        save_plot(arguments.rule, runs, arguments.plot)
    expected, found = runs["dense"][0], runs["caught_up"][0]
    return 0 if arguments.rule == "AdamW" or np.allclose(found, expected, rtol=1e-3) else 1


if __name__ == "__main__":
    sys.exit(main())
