"""Train a NumPy network on scikit-learn's handwritten digits in mixed precision.

The weights are float32. Every step rounds them to float16, and activations and gradients are
float16 too: a matrix product takes float16 operands, sums in float32 and rounds to float16, as
matrix units do. float16 ends at 65504, so scaled gradients truly overflow whenever the loss scale
is too high; `LossScaleOptimizer` then skips the step and halves its scale. No overflow is planted.

In a clone of the repository:

    pip install ".[examples]"
    python python/examples/train_digits.py

The curves are drawn into digits.png in the current folder; `--output` names another file.

One file, though long: a program to copy from and to run by itself.

The exit status is 1 if the averaged weights classify less than 97 % of the test images correctly,
or if the picture cannot be written.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import fusedopt as fo
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits
from tqdm import tqdm

TARGET_ACCURACY = 0.97
LAYER_SIZES = (64, 256, 128, 10)
BATCH_SIZE = 64
PIXEL_NOISE = 0.1

Half = NDArray[np.float16]
Single = NDArray[np.float32]
Labels = NDArray[np.int64]


# The optimizer: these two functions are what to copy into a program of your own.


def make_optimizer(weights: dict[str, Single]) -> fo.LossScaleOptimizer:
    inner = fo.AdamW(
        learning_rate=2e-3,
        weight_decay=4e-2,
        global_clipnorm=1.0,
        use_ema=True,
        ema_momentum=0.99,
    )
    inner.exclude_from_weight_decay(var_names=["bias"])
    # Far too high a start, and eager growth: the scale must find its own level, by overflowing.
    opt = fo.LossScaleOptimizer(inner, initial_scale=2.0**24, dynamic_growth_steps=50)
    opt.build(weights)
    return opt


def train_step(
    model: Network, opt: fo.LossScaleOptimizer, images: Half, labels: Labels, history: History
) -> None:
    loss, gradients = model.loss_and_gradients(images, labels, loss_factor=opt.scale_loss(1.0))
    history.losses.append(loss)
    history.scales.append(opt.dynamic_scale)

    start = perf_counter()
    opt.apply(gradients)  # unscales, clips, decays, updates and averages the weights in place
    history.optimizer_seconds += perf_counter() - start

    history.skipped.append(opt.consecutive_skipped_steps > 0)


# The rest is an ordinary network, its data, and the report.


@dataclass
class History:
    losses: list[float] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    skipped: list[bool] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)
    averaged_accuracy: float = 0.0
    updates: int = 0
    optimizer_seconds: float = 0.0
    seconds: float = 0.0


@dataclass
class Digits:
    train_images: Half
    test_images: Half
    train_labels: Labels
    test_labels: Labels


class Network:
    """Dense layers with ReLU between them; `weights` holds float32 arrays by name."""

    def __init__(self, sizes: tuple[int, ...], rng: np.random.Generator) -> None:
        self.depth = len(sizes) - 1
        self.weights: dict[str, Single] = {}
        for i, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
            kernel = rng.normal(0.0, np.sqrt(2.0 / fan_in), (fan_in, fan_out))
            self.weights[f"dense_{i}/kernel"] = kernel.astype(np.float32)
            self.weights[f"dense_{i}/bias"] = np.zeros(fan_out, np.float32)

    def forward(self, images: Half) -> list[Half]:
        """The input of every layer, and last the logits."""
        outputs = [images]
        for i in range(1, self.depth + 1):
            kernel = self.weights[f"dense_{i}/kernel"].astype(np.float16)
            bias = self.weights[f"dense_{i}/bias"].astype(np.float16)
            output = matmul(outputs[-1], kernel) + bias
            outputs.append(np.maximum(output, 0) if i < self.depth else output)
        return outputs

    def loss_and_gradients(
        self, images: Half, labels: Labels, loss_factor: float
    ) -> tuple[float, dict[str, Half]]:
        """The mean cross-entropy, and the float16 gradients of `loss_factor` times it, by name."""
        *inputs, logits = self.forward(images)
        log_probabilities = log_softmax(logits.astype(np.float32))
        rows = np.arange(len(labels))
        loss = -float(log_probabilities[rows, labels].mean())

        error = np.exp(log_probabilities)
        error[rows, labels] -= 1.0
        gradients: dict[str, Half] = {}
        # inf and NaN are expected here: the optimizer finds them and skips the step.
        with np.errstate(over="ignore", invalid="ignore"):
            delta = (error * (loss_factor / len(labels))).astype(np.float16)
            for i in range(self.depth, 0, -1):
                gradients[f"dense_{i}/kernel"] = matmul(inputs[i - 1].T, delta)
                gradients[f"dense_{i}/bias"] = delta.sum(0, np.float32).astype(np.float16)
                if i > 1:
                    kernel = self.weights[f"dense_{i}/kernel"].astype(np.float16)
                    delta = matmul(delta, kernel.T) * (inputs[i - 1] > 0)
        return loss, gradients

    def accuracy(self, images: Half, labels: Labels) -> float:
        return float((self.forward(images)[-1].argmax(axis=1) == labels).mean())


def matmul(a: Half, b: Half) -> Half:
    """Sums in float32, like a matrix unit; NumPy's own float16 product is slow and less exact."""
    return (a.astype(np.float32) @ b.astype(np.float32)).astype(np.float16)


def log_softmax(logits: Single) -> Single:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Single = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def load_data(seed: int) -> Digits:
    """1,797 grey images of 8 by 8 pixels, bundled with scikit-learn; a quarter is for testing."""
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16.0).astype(np.float16)
    split = train_test_split(images, labels, test_size=0.25, stratify=labels, random_state=seed)
    return Digits(*split)


def add_noise(images: Half, rng: np.random.Generator) -> Half:
    """Fresh noise for every batch, against overfitting."""
    noise = rng.standard_normal(images.shape, np.float32)
    return (images + PIXEL_NOISE * noise).astype(np.float16)


def train(epochs: int, seed: int) -> History:
    rng = np.random.default_rng(seed)
    data = load_data(seed)
    model = Network(LAYER_SIZES, rng)
    opt = make_optimizer(model.weights)
    history = History()

    progress = tqdm(range(epochs), desc="training", unit="epoch")
    for _ in progress:
        start = perf_counter()
        order = rng.permutation(len(data.train_labels))
        for batch in np.array_split(order, len(order) // BATCH_SIZE):
            images = add_noise(data.train_images[batch], rng)
            train_step(model, opt, images, data.train_labels[batch], history)
        history.seconds += perf_counter() - start

        history.train_accuracy.append(model.accuracy(data.train_images, data.train_labels))
        history.test_accuracy.append(model.accuracy(data.test_images, data.test_labels))
        progress.set_postfix(
            loss=f"{history.losses[-1]:.4f}",
            test=f"{history.test_accuracy[-1]:.2%}",
            scale=f"2^{np.log2(opt.dynamic_scale):.0f}",
        )

    history.updates = int(opt.iterations)
    opt.finalize_variable_values(list(model.weights.values()))  # the averages become the weights
    history.averaged_accuracy = model.accuracy(data.test_images, data.test_labels)
    return history


def print_summary(history: History) -> None:
    exponents = [int(np.log2(scale)) for scale in history.scales]
    share = history.optimizer_seconds / history.seconds
    passed = history.averaged_accuracy >= TARGET_ACCURACY
    print(
        f"test accuracy  {history.averaged_accuracy:.2%} with averaged weights,"
        f" {history.test_accuracy[-1]:.2%} with the last ones"
        f" (target {TARGET_ACCURACY:.0%}: {'reached' if passed else 'MISSED'})\n"
        f"steps          {len(history.losses)}: {history.updates} updates,"
        f" {sum(history.skipped)} skipped because float16 gradients overflowed\n"
        f"loss scale     2^{exponents[0]} at first, 2^{exponents[-1]} at last,"
        f" between 2^{min(exponents)} and 2^{max(exponents)}\n"
        f"time           {history.seconds:.2f} s of training,"
        f" {history.optimizer_seconds:.2f} s of it ({share:.1%}) in the optimizer"
    )


INK, FAINT = "#33373d", "#c9ced6"
BLUE, ORANGE, RED = "#2f6db3", "#d9822b", "#c23b3b"


STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 11,
    "grid.alpha": 0.5,
    "grid.color": FAINT,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def save_plot(history: History, path: Path) -> None:
    epochs = np.arange(1, len(history.test_accuracy) + 1)
    steps = np.linspace(0, len(epochs), len(history.losses), endpoint=False)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 8.5), layout="constrained")  # without pyplot: no window, Agg
        loss_axes, accuracy_axes, scale_axes = figure.subplots(3, 1, sharex=True)
        plot_loss(loss_axes, steps, epochs, history)
        plot_accuracy(accuracy_axes, epochs, history)
        plot_scale(scale_axes, steps, history)
        scale_axes.set_xlabel("epoch")
        figure.align_ylabels()
        figure.suptitle("Handwritten digits in mixed precision", fontsize=15, fontweight="bold")
        figure.savefig(path, format="png", dpi=100)


def plot_loss(
    axes: Axes, steps: NDArray[np.float64], epochs: NDArray[np.int64], history: History
) -> None:
    epoch_means = np.reshape(history.losses, (len(epochs), -1)).mean(axis=1)
    axes.semilogy(steps, history.losses, color=BLUE, alpha=0.3, linewidth=0.8, label="each step")
    axes.semilogy(epochs - 0.5, epoch_means, color=BLUE, linewidth=2, label="mean of an epoch")
    axes.set_ylabel("training loss")
    axes.legend(loc="upper right")


def plot_accuracy(axes: Axes, epochs: NDArray[np.int64], history: History) -> None:
    final = history.averaged_accuracy
    axes.plot(epochs, history.train_accuracy, color=BLUE, linewidth=2, label="training images")
    axes.plot(epochs, history.test_accuracy, color=ORANGE, linewidth=2, label="test images")
    axes.axhline(TARGET_ACCURACY, color=INK, linestyle=":", linewidth=1.2, label="target")
    axes.plot(
        epochs[-1],
        final,
        marker="*",
        markersize=15,
        color=ORANGE,
        markeredgecolor=INK,
        linestyle="none",
        zorder=5,
        label=f"test, averaged weights: {final:.2%}",
    )
    axes.set_ylim(min(0.9, final - 0.02), 1.004)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylabel("accuracy")
    axes.legend(loc="lower right")


def plot_scale(axes: Axes, steps: NDArray[np.float64], history: History) -> None:
    scales, skipped = np.array(history.scales), np.array(history.skipped)
    axes.step(steps, scales, where="post", color=BLUE, linewidth=2, label="loss scale")
    axes.plot(
        steps[skipped],
        scales[skipped],
        "x",
        color=RED,
        markeredgewidth=2,
        zorder=5,
        label=f"overflow: step skipped, scale halved ({skipped.sum()} times)",
    )
    axes.set_yscale("log", base=2)
    axes.set_ylabel("loss scale")
    axes.legend(loc="upper right")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=40, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("digits.png"),
        help="draw the curves into this PNG file; default: %(default)s in the current folder",
    )
    arguments = parser.parse_args()
    if arguments.epochs < 1:
        parser.error("--epochs must be at least 1")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    # These matrix products are too small to share between threads.
    with threadpool_limits(1, user_api="blas"):
        history = train(arguments.epochs, arguments.seed)
    print_summary(history)
    picture = arguments.output.resolve()
    try:
        save_plot(history, picture)
    except OSError as error:
        print(
            f"picture        NOT WRITTEN: {picture}: {error.strerror or error}."
            " Name a file in a folder that you may write to: --output PATH",
            file=sys.stderr,
        )
        return 1
    print(f"picture        {picture}")
    return 0 if history.averaged_accuracy >= TARGET_ACCURACY else 1


if __name__ == "__main__":
    sys.exit(main())
