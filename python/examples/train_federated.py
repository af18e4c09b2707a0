"""Average the models of many clients on a server, and let Yogi take the step: federated learning.

Each client trains a copy of the server's model on data of its own, which it never hands out. The
server treats the mean change as a gradient (Reddi et al., Adaptive Federated Optimization, ICLR
2021). The plain mean of the clients' models, which is FedAvg, goes beside it.

It needs NumPy only. In a clone of the repository:

    pip install .
    python python/examples/train_federated.py

The exit status is 1 if the loss with Yogi is not lower than the loss with plain means.
"""

from __future__ import annotations

import argparse
import sys
from time import perf_counter

import fusedopt as fo
import numpy as np
from numpy.typing import NDArray

Single = NDArray[np.float32]
Model = dict[str, Single]
Client = tuple[Single, NDArray[np.int64]]
FEATURES, CLASSES, CLIENTS, CHOSEN = 2000, 10, 100, 10


def make_clients(rng: np.random.Generator) -> list[Client]:
    """Let each client have two classes only, and features of which most are rare, as words are."""
    centers = rng.normal(0.0, 1.0, (CLASSES, FEATURES))
    how_often = 1.0 / (1.0 + np.arange(FEATURES)) ** 0.7
    clients = []
    for _ in range(CLIENTS):
        labels = rng.choice(rng.choice(CLASSES, 2, replace=False), 50)
        seen = rng.random((50, FEATURES)) < how_often
        features = seen * (0.4 * centers[labels] + rng.normal(0.0, 1.0, (50, FEATURES)))
        clients.append((features.astype(np.float32), labels))
    return clients


def errors(model: Model, client: Client) -> tuple[float, Single]:
    """Return the mean cross-entropy, and its gradient with respect to the outputs."""
    features, labels = client
    outputs = features @ model["kernel"] + model["bias"]
    outputs -= outputs.max(axis=1, keepdims=True)
    chances = np.exp(outputs)
    chances /= chances.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.log(chances[rows, labels] + 1e-7).mean()
    chances[rows, labels] -= 1.0
    return float(loss), chances / len(labels)


def trained(model: Model, client: Client) -> Model:
    """Train a copy of the server's model on a client."""
    copy = {name: array.copy() for name, array in model.items()}
    optimizer = fo.SGD(learning_rate=0.1)
    optimizer.build(copy)
    for _ in range(5):
        error = errors(copy, client)[1]
        optimizer.apply({"kernel": client[0].T @ error, "bias": error.sum(axis=0)})
    return copy


def federate(name: str, server: fo.Optimizer | None, rounds: int) -> float:
    rng = np.random.default_rng(0)
    clients = make_clients(rng)
    model: Model = {
        "kernel": np.zeros((FEATURES, CLASSES), np.float32),
        "bias": np.zeros(CLASSES, np.float32),
    }
    if server is not None:
        server.build(model)  # takes the model's memory: a step moves these arrays
    optimizer_seconds, start = 0.0, perf_counter()
    for _ in range(rounds):
        chosen = rng.choice(CLIENTS, CHOSEN, replace=False)
        copies = [trained(model, clients[i]) for i in chosen]
        means = {key: np.mean([copy[key] for copy in copies], axis=0) for key in model}
        ready = perf_counter()
        if server is None:
            for key, mean in means.items():
                model[key][...] = mean
        else:
            server.apply({key: model[key] - mean for key, mean in means.items()})
        optimizer_seconds += perf_counter() - ready
    seconds = perf_counter() - start
    loss = float(np.mean([errors(model, client)[0] for client in clients]))
    share = optimizer_seconds / seconds
    print(f"{name:28} loss {loss:.4f}   server's step {share:6.1%} of {seconds:.2f} s")
    return loss


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    plain = federate("plain mean", None, rounds)
    adam = fo.Adam(learning_rate=0.03, beta_1=0.9, beta_2=0.99, epsilon=1e-3)
    federate("fusedopt.Adam", adam, rounds)
    yogi = fo.Yogi(learning_rate=0.03, beta_1=0.9, beta_2=0.99, epsilon=1e-3)
    return 0 if federate("fusedopt.Yogi", yogi, rounds) < plain else 1


if __name__ == "__main__":
    sys.exit(main())
