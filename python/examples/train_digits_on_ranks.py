"""Train a NumPy network on scikit-learn's handwritten digits, on one, two or four processes, with the same bits.

Each batch is cut into four parts, whatever the number of processes. Each process, which MPI calls a rank, computes the
gradients of its parts. They are added as (g0 + g1) + (g2 + g3), whoever has computed them: within a rank here, and
between ranks by `fusedopt.Sharded`. So the loss is the same to the last bit on 1, 2 and 4 ranks. The optimizer's state
is shared out between the ranks.

In a clone of the repository:

    pip install ".[examples,mpi]"
    OMP_NUM_THREADS=1 mpiexec -n 2 python -m mpi4py python/examples/train_digits_on_ranks.py

The exit status is 1 if less than 97 % of the test images are classified correctly.
"""

from __future__ import annotations

import argparse
import sys
from itertools import pairwise
from time import perf_counter

import fusedopt as fo
import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits
from tqdm import tqdm

PARTS = 4  # of a batch
BATCH_SIZE = 64
LAYER_SIZES = (64, 256, 128, 10)
PIXEL_NOISE = 0.1
TARGET_ACCURACY = 0.97

Array = NDArray[np.float32]
Labels = NDArray[np.int64]
Arrays = dict[str, Array]


# What ranks do together: these functions are what to copy into a program of your own.


def make_optimizer(weights: Arrays, comm: MPI.Intracomm) -> fo.Sharded:
    for array in weights.values():
        comm.Bcast(array)  # all start with the same
    rule = fo.AdamW(learning_rate=2e-3, weight_decay=4e-2, global_clipnorm=1.0)
    rule.exclude_from_weight_decay(var_names=["bias"])
    optimizer = fo.Sharded(rule, comm)
    optimizer.build(weights)
    return optimizer


def own_parts(comm: MPI.Intracomm) -> range:
    """Neighbours, so that each rank adds up a branch of the tree."""
    count = PARTS // comm.size
    return range(comm.rank * count, (comm.rank + 1) * count)


def tree_sum(gradients: list[Arrays]) -> Arrays:
    """Adds neighbours, then neighbouring sums, and so on."""
    while len(gradients) > 1:
        pairs = zip(gradients[::2], gradients[1::2], strict=True)
        gradients = [{name: one[name] + other[name] for name in one} for one, other in pairs]
    return gradients[0]


def train_step(
    model: Network, optimizer: fo.Sharded, images: Array, labels: Labels, comm: MPI.Intracomm
) -> float:
    """One batch, of which this rank takes its parts. Returns the loss over the whole batch."""
    all_images, all_labels = np.split(images, PARTS), np.split(labels, PARTS)
    found = [
        model.loss_and_gradients(all_images[part], all_labels[part], len(labels))
        for part in own_parts(comm)
    ]
    own = tree_sum([gradients for _, gradients in found])
    optimizer.apply(own)  # which goes on in the tree
    losses = comm.allgather([loss for loss, _ in found])
    return sum(loss for of_rank in losses for loss in of_rank)


# The rest is an ordinary network, its data, and the report.


class Network:
    """Dense layers with ReLU between them; `weights` holds float32 arrays by name."""

    def __init__(self, sizes: tuple[int, ...], rng: np.random.Generator) -> None:
        self.depth = len(sizes) - 1
        self.weights: Arrays = {}
        for i, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
            kernel = rng.normal(0.0, np.sqrt(2.0 / fan_in), (fan_in, fan_out))
            self.weights[f"dense_{i}/kernel"] = kernel.astype(np.float32)
            self.weights[f"dense_{i}/bias"] = np.zeros(fan_out, np.float32)

    def forward(self, images: Array) -> list[Array]:
        """The input of every layer, and last the logits."""
        outputs = [images]
        for i in range(1, self.depth + 1):
            weights = self.weights
            output = outputs[-1] @ weights[f"dense_{i}/kernel"] + weights[f"dense_{i}/bias"]
            outputs.append(np.maximum(output, 0) if i < self.depth else output)
        return outputs

    def loss_and_gradients(
        self, images: Array, labels: Labels, batch_size: int
    ) -> tuple[float, Arrays]:
        """What a part of a batch adds to the mean cross-entropy and to its gradients."""
        *inputs, logits = self.forward(images)
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        rows = np.arange(len(labels))
        loss = -float(log_probabilities[rows, labels].sum()) / batch_size

        delta = np.exp(log_probabilities)
        delta[rows, labels] -= 1.0
        delta /= batch_size
        gradients: Arrays = {}
        for i in range(self.depth, 0, -1):
            gradients[f"dense_{i}/kernel"] = inputs[i - 1].T @ delta
            gradients[f"dense_{i}/bias"] = delta.sum(0)
            if i > 1:
                delta = (delta @ self.weights[f"dense_{i}/kernel"].T) * (inputs[i - 1] > 0)
        return loss, gradients

    def accuracy(self, images: Array, labels: Labels) -> float:
        return float((self.forward(images)[-1].argmax(axis=1) == labels).mean())


def train(epochs: int, seed: int, comm: MPI.Intracomm) -> float:
    """Returns the accuracy on test images. All ranks draw the same batches and the same noise."""
    pixels, digits = load_digits(return_X_y=True)
    images, test_images, labels, test_labels = train_test_split(
        (pixels / 16.0).astype(np.float32),
        digits,
        test_size=0.25,
        stratify=digits,
        random_state=seed,
    )
    rng = np.random.default_rng(seed)
    model = Network(LAYER_SIZES, rng)
    optimizer = make_optimizer(model.weights, comm)
    loss, accuracy, start = 0.0, 0.0, perf_counter()
    progress = tqdm(range(epochs), desc="training", unit="epoch", disable=comm.rank > 0)
    for _ in progress:
        order = rng.permutation(len(labels))
        batches = order[: len(order) // BATCH_SIZE * BATCH_SIZE].reshape(-1, BATCH_SIZE)
        losses = []
        for batch in batches:
            noise = rng.standard_normal((BATCH_SIZE, images.shape[1]), np.float32)
            noisy = images[batch] + np.float32(PIXEL_NOISE) * noise
            losses.append(train_step(model, optimizer, noisy, labels[batch], comm))
        loss, accuracy = float(np.mean(losses)), model.accuracy(test_images, test_labels)
        progress.set_postfix(loss=f"{loss:.4f}", test=f"{accuracy:.2%}")
    if comm.rank == 0:
        passed = accuracy >= TARGET_ACCURACY
        print(
            f"loss           {loss!r}, to all digits, for a comparison with other numbers of ranks\n"
            f"test accuracy  {accuracy:.2%}"
            f" (target {TARGET_ACCURACY:.0%}: {'reached' if passed else 'MISSED'})\n"
            f"state          {sum(array.size for array in optimizer.variables):,} numbers"
            f" on this rank, of {comm.size}\n"
            f"time           {perf_counter() - start:.2f} s"
        )
    return accuracy


def main() -> int:
    comm = MPI.COMM_WORLD
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=30, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    arguments = parser.parse_args()
    if arguments.epochs < 1:
        parser.error("--epochs must be at least 1")
    if comm.size not in (1, 2, PARTS):
        parser.error(f"expected 1, 2 or {PARTS} ranks, found {comm.size}; see mpiexec -n")
    # Neither these matrix products nor this optimizer are large enough to share between threads.
    fo.set_num_threads(1)
    with threadpool_limits(1, user_api="blas"):
        accuracy = train(arguments.epochs, arguments.seed, comm)
    return 0 if accuracy >= TARGET_ACCURACY else 1


if __name__ == "__main__":
    sys.exit(main())
