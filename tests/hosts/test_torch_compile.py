"""torch.compile around a model, and around a whole training step, with an optimizer of ours."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fusedopt as fo  # noqa: E402
import fusedopt.torch  # noqa: E402

pytestmark = [
    # The compiler looks at the loss as well as at the parameters.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),  # its own
]

# "eager" traces and breaks graphs as the others do, and compiles nothing.
BACKENDS = [
    "eager",
    pytest.param(
        "inductor",
        marks=pytest.mark.skipif(
            not any(map(shutil.which, ("g++", "clang++"))), reason="inductor needs a C++ compiler"
        ),
    ),
]
MAKERS = {
    "AdamW": lambda p: fusedopt.torch.AdamW(p, lr=1e-2, max_norm=1.0),
    "Lion": lambda p: fusedopt.torch.Optimizer(p, fo.Lion(1e-3)),
}


def trained(make: Any, *, backend: str | None, whole: bool) -> tuple[list[float], list[Any]]:
    torch.manual_seed(0)
    torch.compiler.reset()
    model = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.Tanh(), torch.nn.Linear(12, 1))
    optimizer = make(model.parameters())
    forward = torch.compile(model, backend=backend) if backend and not whole else model

    def step(x: Any) -> Any:
        loss = (forward(x) - x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    if backend and whole:
        step = torch.compile(step, backend=backend)
    losses = []
    for number in range(5):
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(number))
        losses.append(step(x).item())
    return losses, [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_compiled_model_trains_as_the_model_does(maker: str, backend: str) -> None:
    losses, parameters = trained(MAKERS[maker], backend=backend, whole=False)
    expected_losses, expected = trained(MAKERS[maker], backend=None, whole=False)
    assert losses == pytest.approx(expected_losses, rel=1e-4)
    assert losses[-1] < losses[0]
    for found, each in zip(parameters, expected, strict=True):
        torch.testing.assert_close(found, each, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("maker", MAKERS)
def test_a_compiled_training_step_leaves_the_optimizer_out(maker: str) -> None:
    losses, parameters = trained(MAKERS[maker], backend="eager", whole=True)
    expected_losses, expected = trained(MAKERS[maker], backend=None, whole=True)
    assert losses == pytest.approx(expected_losses, rel=1e-6)
    for found, each in zip(parameters, expected, strict=True):
        torch.testing.assert_close(found, each)
