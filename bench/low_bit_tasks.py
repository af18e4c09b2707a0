"""Two small trainings, written in NumPy: digits, and the next letter of Python's own help texts.

Everybody begins with the same weights, and sees the same batches, so seeds can be compared in pairs.
"""

from __future__ import annotations

import importlib
from functools import cache
from itertools import pairwise
from pydoc_data.topics import topics

import numpy as np
from fusedopt.bench.workload import Array
from low_bit_codes import Slot
from low_bit_trainers import TRAINERS

WEIGHT_DECAY = 0.004
BATCH = 64
DIGITS_RATE, DIGITS_LAYERS, DIGITS_TRAINED = 2e-3, (64, 128, 64, 10), 1400
LETTERS_RATE, CONTEXT, WIDTH, HIDDEN, LETTERS_BATCH = 3e-3, 8, 48, 128, 128
VALIDATED = 0.1
# Of the validation text, so that a look at it takes no minute.
MOST_VALIDATED = 20_000

Scores = dict[str, float]


def weights_of(random: np.random.Generator, inputs: int, outputs: int) -> Slot:
    return (random.normal(size=(inputs, outputs)) * (2 / inputs) ** 0.5).astype(np.float32)


def log_softmax(z: Slot) -> Slot:
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def backward(log_shares: Slot, labels: Array) -> Slot:
    """The gradient of the mean loss before the softmax."""
    gradient = np.exp(log_shares)
    gradient[np.arange(labels.size), labels] -= 1
    return gradient / np.float32(labels.size)


def loss_of(log_shares: Slot, labels: Array) -> float:
    return -float(log_shares[np.arange(labels.size), labels].mean(dtype=float))


class Layers:
    """Products with matrices and what is negative cut off between them."""

    def __init__(self, random: np.random.Generator, sizes: tuple[int, ...]) -> None:
        self.variables: list[Slot] = []
        for inputs, outputs in pairwise(sizes):
            self.variables += [weights_of(random, inputs, outputs), np.zeros(outputs, np.float32)]

    def forward(self, x: Slot) -> list[Slot]:
        """Return the inputs of all layers, and the logarithms of the shares at the end."""
        passed = [x]
        for weights, bias in self._pairs():
            before = passed[-1] @ weights + bias
            passed.append(np.maximum(before, 0))
        passed[-1] = log_softmax(before)
        return passed

    def gradients(self, passed: list[Slot], labels: Array) -> tuple[list[Slot], Slot]:
        """Return the variables' gradients, and that of the first layer's input."""
        gradient = backward(passed[-1], labels)
        found: list[Slot] = []
        for (weights, _), x in reversed(list(zip(self._pairs(), passed[:-1], strict=True))):
            found = [x.T @ gradient, gradient.sum(axis=0), *found]
            gradient = gradient @ weights.T
            if x is not passed[0]:
                gradient = gradient * (x > 0)
        return found, gradient

    def _pairs(self) -> list[tuple[Slot, Slot]]:
        return list(zip(self.variables[::2], self.variables[1::2], strict=True))


def digits(seed: int, steps: int) -> dict[str, Scores]:
    """A perceptron on scikit-learn's digits."""
    data = importlib.import_module("sklearn.datasets").load_digits()
    images, labels = (data.data / 16).astype(np.float32), data.target
    order = np.random.default_rng(seed).permutation(len(images))
    trained, held_out = order[:DIGITS_TRAINED], order[DIGITS_TRAINED:]
    found = {}
    for name, make in TRAINERS.items():
        random = np.random.default_rng(seed)
        layers = Layers(random, DIGITS_LAYERS)
        trainer = make(layers.variables, WEIGHT_DECAY, seed)
        for _ in range(steps):
            batch = random.choice(trained, BATCH)
            gradients, _ = layers.gradients(layers.forward(images[batch]), labels[batch])
            trainer.step(gradients, DIGITS_RATE)
        guessed = layers.forward(images[held_out])[-1].argmax(axis=1)
        found[name] = {
            "loss": loss_of(layers.forward(images[trained])[-1], labels[trained]),
            "accuracy": 100 * float((guessed == labels[held_out]).mean()),
            "largest weight": max(float(np.abs(w).max()) for w in layers.variables),
        }
    return found


@cache
def text() -> tuple[Array, int]:
    """Python's help texts as numbers of letters, and how many letters there are."""
    joined = "\n".join(topics[name] for name in sorted(topics)).encode("ascii", "ignore")
    letters, numbers = np.unique(np.frombuffer(joined, np.uint8), return_inverse=True)
    return numbers, len(letters)


def joined(embedding: Slot, before: Array) -> Slot:
    """The rows of the letters before, one behind the other."""
    return embedding[before].reshape(len(before), -1)


def characters(seed: int, steps: int) -> dict[str, Scores]:
    """An embedding of letters and a perceptron: the next letter after eight. The learning rate falls to zero."""
    numbers, letters = text()
    windows = np.lib.stride_tricks.sliding_window_view(numbers, CONTEXT + 1)
    first = round(len(windows) * (1 - VALIDATED))
    step_over = -(-(len(windows) - first) // MOST_VALIDATED)
    validated = windows[first + CONTEXT :: step_over]
    one_hot = np.eye(letters, dtype=np.float32)
    found = {}
    for name, make in TRAINERS.items():
        random = np.random.default_rng(seed)
        embedding = random.normal(size=(letters, WIDTH)).astype(np.float32)
        layers = Layers(random, (CONTEXT * WIDTH, HIDDEN, letters))
        trainer = make([embedding, *layers.variables], WEIGHT_DECAY, seed)

        for step in range(steps):
            batch = windows[random.integers(0, first, LETTERS_BATCH)]
            before, after = batch[:, :-1], batch[:, -1]
            gradients, of_inputs = layers.gradients(
                layers.forward(joined(embedding, before)), after
            )
            of_embedding = one_hot[before.ravel()].T @ of_inputs.reshape(-1, WIDTH)
            trainer.step([of_embedding, *gradients], LETTERS_RATE * (1 - step / steps))
        nats = loss_of(layers.forward(joined(embedding, validated[:, :-1]))[-1], validated[:, -1])
        found[name] = {
            "bits": nats / float(np.log(2)),
            "largest weight": max(float(np.abs(w).max()) for w in (embedding, *layers.variables)),
        }
    return found
