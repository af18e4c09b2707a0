"""`torch.amp.GradScaler` with `fusedopt.torch`: the step divides by the scale, and skips what overflowed."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch_cases import (  # noqa: E402
    FULL,
    NAMES,
    assert_same_numbers,
    gradients,
    ours,
    parameters,
    snapshot,
    step_with,
    theirs,
)


def _scaled_step(scaler: Any, optimizer: Any, of: list[Any], values: list[Any]) -> None:
    scale = scaler.scale(torch.ones(()))
    for p, g in zip(of, values, strict=True):
        p.grad = g * scale
    scaler.step(optimizer)
    if all(g.isfinite().all() for g in values):  # gradients are only read
        assert all(torch.equal(p.grad, g * scale) for p, g in zip(of, values, strict=True))
    scaler.update()


@pytest.mark.parametrize("name", NAMES)
def test_a_scaled_step_is_the_step(name: str) -> None:
    of, others = parameters(torch.float32), parameters(torch.float32)
    optimizer = ours(name)(of, max_norm=2.0, **FULL[name])
    expected = ours(name)(others, max_norm=2.0, **FULL[name])
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    for _, values in zip(range(6), gradients(of), strict=False):
        _scaled_step(scaler, optimizer, of, values)
        step_with(expected, others, values)
        assert optimizer.global_norm == expected.global_norm
    assert scaler.get_scale() == 8192.0
    assert_same_numbers((of, optimizer), (others, expected), rtol=0.0, atol=0.0)
    assert not hasattr(optimizer, "grad_scale")
    assert not hasattr(optimizer, "found_inf")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_step_that_overflows_changes_nothing(name: str, bad: float) -> None:
    of = parameters(torch.float32)
    optimizer = ours(name)(of, ema_decay=0.9, max_norm=1.0, **FULL[name])
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    step = gradients(of)
    for is_first in (True, False):
        before = snapshot(optimizer)
        values = next(step)
        values[-1][0, 0, 0, 0] = bad
        versions = [p._version for p in of]
        _scaled_step(scaler, optimizer, of, values)
        assert snapshot(optimizer) == before
        assert [p._version for p in of] == versions
        if is_first:
            assert scaler.get_scale() == 512.0
            _scaled_step(scaler, optimizer, of, next(step))
            assert snapshot(optimizer) != before


def test_gradients_that_are_unscaled_already() -> None:
    of, others = parameters(torch.float32), parameters(torch.float32)
    optimizer, expected = ours("AdamW")(of), theirs("AdamW")(others)
    scalers = [torch.amp.GradScaler("cpu", init_scale=1024.0) for _ in range(2)]
    for _, values in zip(range(4), gradients(of), strict=False):
        for scaler, each, ps in zip(scalers, (optimizer, expected), (of, others), strict=True):
            for p, g in zip(ps, values, strict=True):
                p.grad = g * scaler.scale(torch.ones(()))
            scaler.unscale_(each)
            torch.nn.utils.clip_grad_norm_(ps, 1.0)
            scaler.step(each)
            scaler.update()
    assert_same_numbers((of, optimizer), (others, expected), rtol=1e-4, atol=1e-6)


def test_copies_support_scaling_too() -> None:
    of = parameters(torch.float32)
    others, twin = copy.deepcopy((of, ours("SGD")(of, lr=0.5)))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = [p.detach().clone() for p in others]
    _scaled_step(scaler, twin, others, [torch.ones_like(p) for p in others])
    for p, w in zip(others, before, strict=True):
        assert torch.equal(p, w - 0.5)


def test_a_scale_alone_lets_the_step_look_for_overflow_itself() -> None:
    of = parameters(torch.float32)
    optimizer = ours("AdamW")(of)
    optimizer.grad_scale = torch.tensor(1024.0)
    before = snapshot(optimizer)
    values = next(gradients(of))
    values[0][0, 0] = float("inf")
    step_with(optimizer, of, values)
    assert snapshot(optimizer) == before
    twin = parameters(torch.float32)
    expected = ours("AdamW")(twin)
    for _, values in zip(range(2), gradients(of), strict=False):
        step_with(expected, twin, values)
        step_with(optimizer, of, [1024.0 * g for g in values])
    assert_same_numbers((of, optimizer), (twin, expected), rtol=0.0, atol=0.0)


def test_training_with_autocast() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    optimizer = ours("AdamW")(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu")
    x = torch.randn(32, 8)
    y = x.sum(1, keepdim=True)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = torch.nn.functional.mse_loss(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
