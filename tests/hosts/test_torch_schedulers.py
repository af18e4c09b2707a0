"""All of `torch.optim.lr_scheduler` drives `fusedopt.torch` as it drives `torch.optim`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.optim import lr_scheduler  # noqa: E402
from torch_cases import assert_same_numbers, gradients, ours, parameters, theirs  # noqa: E402

SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 3),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.1, 3),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.8),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 5),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda _: 0.8),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 5]),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=12),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 8, 2.0),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o,
        [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(o, 7)],
        milestones=[3],
    ),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.05, 4),
}


def _trained(
    make: Any, schedule: Any, lr: Any, **options: Any
) -> tuple[list[Any], Any, list[float]]:
    of = parameters()
    optimizer = make(
        [{"params": of[:2]}, {"params": of[2:], "weight_decay": 0.1}], lr=lr, **options
    )
    scheduler = schedule(optimizer)
    rates = []
    for _, values in zip(range(10), gradients(of), strict=False):
        for p, g in zip(of, values, strict=True):
            p.grad = g.clone()
        optimizer.step()
        rates.append(float(optimizer.param_groups[0]["lr"]))
        if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            scheduler.step(1.0)
        else:
            scheduler.step()
    return of, optimizer, rates


def test_every_scheduler_is_here() -> None:
    bases = {"LRScheduler", "_LRScheduler"}
    found = {
        name
        for name, value in vars(lr_scheduler).items()
        if isinstance(value, type) and issubclass(value, lr_scheduler.LRScheduler)
    }
    assert found - bases <= SCHEDULERS.keys()


@pytest.mark.parametrize("schedule", SCHEDULERS)
@pytest.mark.parametrize("name", ["AdamW", "SGD", "NAdam"])
def test_a_scheduler_drives_the_rate(name: str, schedule: str) -> None:
    options = {"momentum": 0.9} if name == "SGD" else {}
    found = _trained(ours(name), SCHEDULERS[schedule], 0.01, **options)
    expected = _trained(theirs(name), SCHEDULERS[schedule], 0.01, foreach=False, **options)
    assert found[2] == expected[2]
    assert len(set(found[2])) > 1
    assert_same_numbers(found[:2], expected[:2], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("schedule", sorted(SCHEDULERS.keys() - {"SWALR"}))
def test_a_scheduler_fills_a_rate_that_is_a_tensor(schedule: str) -> None:
    def rate() -> Any:
        return torch.tensor(0.01, dtype=torch.float64)

    found = _trained(ours("AdamW"), SCHEDULERS[schedule], rate())
    expected = _trained(theirs("AdamW"), SCHEDULERS[schedule], rate(), foreach=False)
    assert isinstance(found[1].param_groups[0]["lr"], torch.Tensor)
    assert found[2] == expected[2]
    assert_same_numbers(found[:2], expected[:2], rtol=1e-11, atol=1e-13)


def test_a_scheduler_warns_of_a_step_too_few() -> None:
    optimizer = ours("AdamW")(parameters())
    scheduler = lr_scheduler.StepLR(optimizer, 1)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        scheduler.step()


def test_a_resumed_schedule_goes_on() -> None:
    def made() -> tuple[list[Any], Any, Any]:
        of = parameters()
        optimizer = ours("AdamW")(of, lr=0.1)
        return of, optimizer, lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20)

    of, optimizer, scheduler = made()
    others, resumed, resumed_scheduler = made()
    for i, values in zip(range(8), gradients(of), strict=False):
        if i == 4:
            for p, q in zip(others, of, strict=True):
                p.data.copy_(q.data)
            resumed_scheduler.load_state_dict(scheduler.state_dict())
            resumed.load_state_dict(optimizer.state_dict())
        for p, g in zip(of, values, strict=True):
            p.grad = g.clone()
        optimizer.step()
        scheduler.step()
        if i >= 4:
            for p, g in zip(others, values, strict=True):
                p.grad = g.clone()
            resumed.step()
            resumed_scheduler.step()
    assert_same_numbers((others, resumed), (of, optimizer), rtol=0.0, atol=0.0)
