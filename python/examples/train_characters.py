"""Train a small transformer in PyTorch to continue Python's own help texts, letter by letter.

It has what real training programs have: two parameter groups, with weight decay and without it, a
warm-up, clipping by the norm of all gradients, and a checkpoint. The training is then resumed from
the checkpoint, and ends with the same bits. `torch.optim.AdamW` trains the same model beside it.

In a clone of the repository:

    pip install ".[torch]"
    python python/examples/train_characters.py

The exit status is 1 if the resumed training ends with other bits, or if the loss is not within
0.05 of PyTorch's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from pydoc_data.topics import topics
from time import perf_counter
from typing import Any

import fusedopt.torch
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

TEXT = "\n".join(topics[name] for name in sorted(topics)).encode("ascii", "ignore")
LETTERS = sorted(set(TEXT))
CODES = torch.tensor([LETTERS.index(letter) for letter in TEXT])
CONTEXT, BATCH, WIDTH, HEADS, LAYERS = 64, 4, 64, 4, 4
WARM_UP = 20


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.projection = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.widen, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.attention(self.norm_1(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.projection(mixed.transpose(1, 2).flatten(2))
        return x + self.narrow(F.gelu(self.widen(self.norm_2(x))))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.letters = nn.Embedding(len(LETTERS), WIDTH)
        self.places = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(LETTERS))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        x = self.letters(codes) + self.places.weight[: codes.shape[1]]
        return self.head(self.norm(self.blocks(x)))


class Training:
    """A model, its optimizer and its schedule."""

    def __init__(self, *, own: bool) -> None:
        self.own = own
        self.model = Transformer()
        matrices = [w for w in self.model.parameters() if w.ndim > 1]
        vectors = [w for w in self.model.parameters() if w.ndim == 1]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "weight_decay": 0.1},
            {"params": vectors, "weight_decay": 0.0},
        ]
        if own:
            self.optimizer = fusedopt.torch.AdamW(groups, lr=3e-3, max_norm=1.0)
        else:
            self.optimizer = torch.optim.AdamW(groups, lr=3e-3, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min(1.0, (step + 1) / WARM_UP)
        )
        self.seconds = self.optimizer_seconds = 0.0
        self.losses: list[float] = []

    def train(self, steps: range) -> None:
        for step in steps:
            start = perf_counter()
            generator = torch.Generator().manual_seed(step)
            places = torch.randint(len(CODES) - CONTEXT, (BATCH, 1), generator=generator)
            codes = CODES[places + torch.arange(CONTEXT + 1)]
            outputs = self.model(codes[:, :-1])
            loss = F.cross_entropy(outputs.flatten(0, 1), codes[:, 1:].flatten())
            self.optimizer.zero_grad()
            loss.backward()

            ready = perf_counter()
            if not self.own:  # ours clips in the step
                nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer_seconds += perf_counter() - ready

            self.schedule.step()
            self.losses.append(loss.item())
            self.seconds += perf_counter() - start

    def parts(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}

    def save(self, path: Path) -> None:
        torch.save({name: part.state_dict() for name, part in self.parts().items()}, path)

    def load(self, path: Path) -> None:
        for name, state in torch.load(path).items():
            self.parts()[name].load_state_dict(state)


def report(name: str, training: Training) -> float:
    last = training.losses[-20:]
    loss = sum(last) / len(last)
    share = training.optimizer_seconds / training.seconds
    print(f"{name:28} loss {loss:.4f}   optimizer {share:6.1%} of {training.seconds:.2f} s")
    return loss


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=120, help="of each training")
    steps = parser.parse_args().steps

    theirs, straight = Training(own=False), Training(own=True)
    for first in range(0, steps, 10):  # in turns, so that both meet the same load
        for training in (theirs, straight):
            training.train(range(first, min(first + 10, steps)))

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder, "checkpoint.pt")
        begun, resumed = Training(own=True), Training(own=True)
        begun.train(range(steps // 2))
        begun.save(checkpoint)
        resumed.load(checkpoint)
        resumed.train(range(steps // 2, steps))

    gap = abs(report("torch.optim.AdamW(fused)", theirs) - report("fusedopt.torch.AdamW", straight))
    pairs = zip(straight.model.parameters(), resumed.model.parameters(), strict=True)
    same = all(torch.equal(a, b) for a, b in pairs)
    print(f"resumed from a checkpoint    {'the same bits' if same else 'OTHER BITS'}")
    return 0 if same and gap < 0.05 else 1


if __name__ == "__main__":
    sys.exit(main())
