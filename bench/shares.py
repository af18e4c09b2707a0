"""What share of a training step the optimizer takes: with the host's own AdamW, and with fusedopt's.

    pip install ".[bench,torch]" jax optax
    python bench/shares.py --markdown docs/who.md

Two equal models train in turns, one with each optimizer, on one thread. Gradients are clipped by their common norm.
JAX compiles its whole step, so the optimizer's share is the step's time less that of the gradients alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import fusedopt as fo
import fusedopt.torch
import torch
from fusedopt.bench import environment
from host_report import Report
from torch import nn

WIDTH, CLASSES = 512, 10

# One step of a training: it returns the seconds of the whole, and those until the gradients are there.
Step = Callable[[], tuple[float, float]]


def layers() -> nn.Module:
    hidden = [each for _ in range(3) for each in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    return nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), *hidden, nn.Linear(WIDTH, CLASSES))


def convolutions() -> nn.Module:
    widths = (3, 32, 64, 64)
    found = [each for a, b in pairwise(widths) for each in (nn.Conv2d(a, b, 3, 2, 1), nn.ReLU())]
    return nn.Sequential(*found, nn.Flatten(), nn.Linear(64 * 16, CLASSES))


class Attention(nn.Module):
    """A transformer of two layers over texts of 64 letters."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(128, 128)
        layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2)
        self.out = nn.Linear(128, CLASSES)

    def forward(self, letters: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.out(self.layers(self.embedding(letters)).mean(1))
        return found


def table(elements: int) -> nn.Module:
    return nn.Sequential(nn.EmbeddingBag(elements, 32), nn.Linear(32, CLASSES))


def in_torch(
    make: Callable[[], nn.Module], inputs: torch.Tensor, *, is_ours: bool
) -> tuple[int, Step]:
    """Make a step of a model in PyTorch."""
    torch.manual_seed(0)
    model, labels = make(), torch.arange(len(inputs)) % CLASSES
    parameters = list(model.parameters())
    if is_ours:
        optimizer: Any = fusedopt.torch.AdamW(parameters, max_norm=1.0)
    else:
        optimizer = torch.optim.AdamW(parameters, fused=True)

    def step() -> tuple[float, float]:
        begin = perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        ready = perf_counter()
        if not is_ours:
            nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        end = perf_counter()
        return end - begin, ready - begin

    return sum(each.numel() for each in parameters), step


def in_jax(batch: int, *, is_ours: bool) -> tuple[int, Step]:
    """Make a step of the dense layers in JAX: compiled as a whole, or up to the gradients."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    rng = np.random.default_rng(0)
    sizes = [64, *[WIDTH] * 4, CLASSES]
    weights: Any = [rng.normal(0, a**-0.5, (a, b)).astype(np.float32) for a, b in pairwise(sizes)]
    inputs, labels = jnp.asarray(rng.normal(size=(batch, 64))), jnp.arange(batch) % CLASSES

    def loss(weights: Any) -> Any:
        x = inputs
        for w in weights[:-1]:
            x = jax.nn.relu(x @ w)
        scores = x @ weights[-1]
        return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()

    gradients = jax.jit(jax.grad(loss))
    count = sum(w.size for w in weights)
    if is_ours:
        optimizer = fo.AdamW(global_clipnorm=1.0)
        optimizer.build(weights)

        def our_step() -> tuple[float, float]:
            begin = perf_counter()
            found = jax.block_until_ready(gradients(weights))
            ready = perf_counter()
            optimizer.apply(found)
            end = perf_counter()
            return end - begin, ready - begin

        return count, our_step
    chain = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    held: Any = [jnp.asarray(w) for w in weights]
    state: Any = chain.init(held)

    def whole(weights: Any, state: Any) -> Any:
        updates, state = chain.update(jax.grad(loss)(weights), state, weights)
        return optax.apply_updates(weights, updates), state

    compiled = jax.jit(whole, donate_argnums=(0, 1))

    def their_step() -> tuple[float, float]:
        nonlocal held, state
        begin = perf_counter()
        jax.block_until_ready(gradients(held))
        between = perf_counter()
        held, state = jax.block_until_ready(compiled(held, state))
        seconds = perf_counter() - between
        return seconds, between - begin

    return count, their_step


def trainings(*, quick: bool) -> Iterator[tuple[str, Callable[[bool], tuple[int, Step]]]]:
    """Each training, and what makes its step with one of the two optimizers."""
    generator = torch.Generator().manual_seed(0)
    for batch in (1, 16, 128, 1024):
        inputs = torch.randn(batch, 64, generator=generator)
        yield (
            f"PyTorch, dense layers, batch of {batch}",
            lambda ours, inputs=inputs: in_torch(layers, inputs, is_ours=ours),
        )
    images = torch.randn(32, 3, 32, 32, generator=generator)
    yield "PyTorch, convolutions", lambda ours: in_torch(convolutions, images, is_ours=ours)
    letters = torch.randint(0, 128, (8, 64), generator=generator)
    yield "PyTorch, a transformer", lambda ours: in_torch(Attention, letters, is_ours=ours)
    rows = 2000 if quick else 100_000
    words = torch.randint(0, rows, (256, 16), generator=generator)
    yield (
        "PyTorch, a table of embeddings",
        lambda ours: in_torch(lambda: table(rows), words, is_ours=ours),
    )
    if importlib.util.find_spec("jax") and importlib.util.find_spec("optax"):
        for batch in (16, 128):
            yield (
                f"JAX compiled, dense layers, batch of {batch}",
                lambda ours, batch=batch: in_jax(batch, is_ours=ours),
            )


def measured(make: Callable[[bool], tuple[int, Step]], seconds: float) -> list[str]:
    """Let both take turns, and return the cells of a row."""
    (count, theirs), (_, ours) = make(False), make(True)
    for _ in range(3):
        theirs(), ours()
    rounds, end = [], perf_counter() + seconds
    while perf_counter() < end or len(rounds) < 5:
        rounds.append((*theirs(), *ours()))
    their_step, their_gradients, our_step, our_gradients = map(min, zip(*rounds, strict=True))
    shares = (1 - their_gradients / their_step, 1 - our_gradients / our_step)
    return [
        f"{count:,}",
        *(f"{100 * max(share, 0.0):.0f} %" for share in shares),
        f"{their_step / our_step:.2f} times",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="briefly; the figures mean nothing")
    parser.add_argument("--markdown", nargs="*", default=[], type=Path, metavar="FILE")
    arguments = parser.parse_args()
    environment.prepare()
    torch.set_num_threads(1)
    made = Report(
        name="shares",
        title="The optimizer's share of a training step",
        columns=["training", "parameters", "host's share", "fusedopt's share", "step"],
        reading="*Step* is how many times faster the whole step is with fusedopt. Times are the shortest of all "
        "rounds, on one thread.",
        packages=["torch", "jax", "optax"],
    )
    for name, make in trainings(quick=arguments.quick):
        print(name, flush=True)
        made.rows.append([name, *measured(make, 0.1 if arguments.quick else 8.0)])
    made.show(arguments.markdown)


if __name__ == "__main__":
    main()
