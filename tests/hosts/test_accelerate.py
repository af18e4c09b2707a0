"""accelerate wraps the optimizer, loads its own state before the first step, and clips, accumulates and saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
accelerate = pytest.importorskip("accelerate")

import fusedopt as fo  # noqa: E402
import fusedopt.torch  # noqa: E402


def prepared(make: Any, **options: Any) -> tuple[Any, Any, Any, Any]:
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    torch.manual_seed(0)
    accelerator = accelerate.Accelerator(cpu=True, **options)
    model = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.Tanh(), torch.nn.Linear(12, 1))
    optimizer = make(model.parameters())
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 4)
    return accelerator, *accelerator.prepare(model, optimizer, schedule)


def steps(prepared: tuple[Any, Any, Any, Any], numbers: range) -> list[float]:
    accelerator, model, optimizer, schedule = prepared
    losses = []
    for number in numbers:
        with accelerator.accumulate(model):
            x = torch.randn(16, 6, generator=torch.Generator().manual_seed(number))
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    "options", [{}, {"gradient_accumulation_steps": 2}, {"mixed_precision": "bf16"}], ids=str
)
def test_losses_are_those_of_torch(options: dict[str, Any]) -> None:
    ours = steps(prepared(lambda p: fusedopt.torch.AdamW(p, lr=1e-2), **options), range(8))
    theirs = steps(prepared(lambda p: torch.optim.AdamW(p, lr=1e-2), **options), range(8))
    assert ours == pytest.approx(theirs, rel=1e-2 if "mixed_precision" in options else 1e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: fusedopt.torch.AdamW(p, lr=1e-2, ema_decay=0.9),
        lambda p: fusedopt.torch.Optimizer(p, fo.Lion(1e-2)),
    ],
    ids=["AdamW", "Lion"],
)
def test_saved_state_goes_on_with_the_same_bits(make: Any, tmp_path: Path) -> None:
    straight = prepared(make)
    steps(straight, range(8))
    half = prepared(make)
    steps(half, range(4))
    half[0].save_state(tmp_path)
    resumed = prepared(make)
    resumed[0].load_state(tmp_path)
    steps(resumed, range(4, 8))
    for found, expected in zip(resumed[1].parameters(), straight[1].parameters(), strict=True):
        assert torch.equal(found, expected)
