"""Rules in PyTorch's numbers against torch.optim itself, in float64, on state that lies in PyTorch's tensors."""

from __future__ import annotations

from typing import Any

import pytest
from cases import TORCH_RULES
from fusedopt import _core
from reference import TORCH_RULES as FORMULAS

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

STEPS = 200
VARIANTS = [
    (rule, {**variant, **more})
    for rule, variants in TORCH_RULES.items()
    for variant in variants
    for more in ({}, {"maximize": True})
]
RENAMED = {
    "learning_rate": "lr",
    "epsilon": "eps",
    "rho": "alpha",
    "amsgrad": "amsgrad",
}


def torch_optimizer(rule: str, settings: dict[str, Any], parameters: list[Any]) -> Any:
    """Make PyTorch's optimizer with the same settings."""
    arguments = {RENAMED.get(name, name): value for name, value in settings.items()}
    if "beta_1" in arguments:
        arguments["betas"] = (arguments.pop("beta_1"), arguments.pop("beta_2"))
    if rule == "TorchAdadelta":
        arguments["rho"] = arguments.pop("alpha")
    return getattr(torch.optim, rule.removeprefix("Torch"))(parameters, **arguments)


def parameters_like(dtype: Any) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(), (5,), (3, 4), (2, 3, 2, 2)]
    tensors = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    tensors[3] = tensors[3].to(memory_format=torch.channels_last)
    tensors[2] = tensors[2].T.contiguous().T
    return [torch.nn.Parameter(tensor) for tensor in tensors]


@pytest.mark.parametrize(("rule", "variant"), VARIANTS)
def test_numbers_are_those_of_torch_optim(rule: str, variant: dict[str, Any]) -> None:
    settings = {**FORMULAS[rule].defaults, **variant}
    ours, theirs = parameters_like(torch.float64), parameters_like(torch.float64)
    optimizer = torch_optimizer(rule, settings, theirs)
    core = _core.HostedStep(rule)
    state: dict[Any, dict[str, Any]] = {}
    generator = torch.Generator().manual_seed(2)
    for t in range(STEPS):
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            a.grad = torch.randn(a.shape, generator=generator, dtype=torch.float64)
            b.grad = a.grad.clone()
            if (t + i) % 5 == 0:  # each has a count of its own
                a.grad = b.grad = None
        optimizer.step()
        missing = core.run([(ours, settings)], state)[2]
        for p in missing:
            slots = [name for group in FORMULAS[rule].slots(settings, p) for name in group]
            start = settings.get("initial_accumulator_value", 0.0)
            state[p] = {name: torch.full_like(p.detach(), start) for name in slots}
            state[p]["step"] = torch.zeros(()) if rule != "TorchSGD" else 0
            if rule == "TorchNAdam":
                state[p]["mu_product"] = torch.ones(())
        assert not missing or core.run([(ours, settings)], state)[0]
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
        kept, expected = state.get(a, {}), optimizer.state.get(b, {})
        assert {name for name, value in expected.items() if value is not None} <= kept.keys()
        for name, value in kept.items():
            torch.testing.assert_close(
                torch.as_tensor(value), expected[name], rtol=1e-10, atol=1e-12
            )
