"""Train a Keras model on scikit-learn's handwritten digits: `fit`, with an optimizer in one sweep.

Keras's own AdamW trains the same model beside it. Keras runs on PyTorch here.

In a clone of the repository:

    pip install ".[keras]" scikit-learn
    python python/examples/train_keras.py

The exit status is 1 if either of the two models classifies less than 93 % of the test images
correctly, or if the final losses differ by more than 0.05.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import fusedopt as fo
import fusedopt.keras
import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SETTINGS: dict[str, Any] = {"learning_rate": 1e-3, "weight_decay": 0.02, "global_clipnorm": 1.0}


class Stopwatch:
    """Adds up the seconds of a function's calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.seconds = 0.0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        start = perf_counter()
        returned = self.function(*arguments, **options)
        self.seconds += perf_counter() - start
        return returned


def make_model() -> keras.Model:
    keras.utils.set_random_seed(0)
    dense = [keras.layers.Dense(256, activation="relu") for _ in range(3)]
    return keras.Sequential([keras.Input((64,)), *dense, keras.layers.Dense(10)])


def train(name: str, optimizer: keras.optimizers.Optimizer, data: list[Any], epochs: int) -> Any:
    images, test_images, labels, test_labels = data
    model = make_model()
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(images, labels, batch_size=64, epochs=1, verbose=0)  # the first steps build
    stopwatch = optimizer.apply = Stopwatch(optimizer.apply)
    start = perf_counter()
    history = model.fit(
        images,
        labels,
        batch_size=64,
        epochs=epochs,
        verbose=0,
        callbacks=[keras.callbacks.ReduceLROnPlateau("loss", patience=2)],
    )
    seconds = perf_counter() - start
    loss = history.history["loss"][-1]
    accuracy = model.evaluate(test_images, test_labels, verbose=0, return_dict=True)["accuracy"]
    share = stopwatch.seconds / seconds
    print(
        f"{name:28} loss {loss:.4f}   accuracy {accuracy:.1%}   "
        f"optimizer {share:6.1%} of {seconds:.2f} s"
    )
    return loss, accuracy


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=5)
    epochs = parser.parse_args().epochs

    images, labels = load_digits(return_X_y=True)
    data = train_test_split((images / 16).astype("float32"), labels, random_state=0)
    loss_1, accuracy_1 = train(
        "keras.optimizers.AdamW", keras.optimizers.AdamW(**SETTINGS), data, epochs
    )
    loss_2, accuracy_2 = train(
        "fusedopt.keras.Optimizer", fusedopt.keras.Optimizer(fo.AdamW(**SETTINGS)), data, epochs
    )
    return 0 if min(accuracy_1, accuracy_2) >= 0.93 and abs(loss_1 - loss_2) < 0.05 else 1


if __name__ == "__main__":
    sys.exit(main())
