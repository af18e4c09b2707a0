"""What surrounds a step of `fusedopt.torch`: closures, hooks, autograd, compilation, copies of the method."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch_cases import (  # noqa: E402
    FULL,
    NAMES,
    bits,
    gradients,
    ours,
    parameters,
    snapshot,
    step_with,
    theirs,
)


def test_a_closure_computes_the_gradients() -> None:
    w = torch.nn.Parameter(torch.tensor([3.0]))
    optimizer = ours("SGD")([w], lr=0.5)
    calls = []

    def closure() -> Any:
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = w.square().sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert optimizer.step(closure).item() == 9.0
    assert w.item() == 0.0
    assert optimizer.step(closure=closure).item() == 0.0
    assert calls == [True, True]
    assert optimizer.step() is None


def test_a_closure_that_fails_changes_nothing() -> None:
    of = parameters()
    optimizer = ours("AdamW")(of)
    step_with(optimizer, of, next(gradients(of)))
    before = snapshot(optimizer)

    def closure() -> float:
        raise RuntimeError("out of data")

    with pytest.raises(RuntimeError, match="out of data"):
        optimizer.step(closure)
    assert snapshot(optimizer) == before


@pytest.mark.parametrize("name", NAMES)
def test_hooks_fire_once(name: str) -> None:
    from torch.optim.optimizer import (
        register_optimizer_step_post_hook,
        register_optimizer_step_pre_hook,
    )

    of = parameters()
    optimizer = ours(name)(of, **FULL[name])
    ours("Adam")(parameters())  # AdamW inherits from it
    calls = []
    handles = [
        register_optimizer_step_pre_hook(lambda *_: calls.append("global before")),
        register_optimizer_step_post_hook(lambda *_: calls.append("global after")),
        optimizer.register_step_pre_hook(lambda *_: calls.append("before")),
        optimizer.register_step_post_hook(lambda *_: calls.append("after")),
    ]
    try:
        step_with(optimizer, of, next(gradients(of)))
    finally:
        for handle in handles:
            handle.remove()
    assert calls == ["global before", "before", "after", "global after"]


@pytest.mark.parametrize("name", NAMES)
def test_is_an_optimizer_with_the_arguments_of_pytorch(name: str) -> None:
    assert issubclass(ours(name), torch.optim.Optimizer)
    found = inspect.signature(ours(name)).parameters
    expected = inspect.signature(theirs(name)).parameters
    assert [*found][: len(expected)] == [*expected]
    for key, parameter in expected.items():
        assert (found[key].kind, found[key].default) == (parameter.kind, parameter.default)
    assert [*found][len(expected) :] == ["max_norm", "ema_decay", "master_weights"]


def test_step_is_a_method_that_can_be_replaced_on_the_instance() -> None:
    of = parameters()
    optimizer = ours("AdamW")(of)
    step = optimizer.step
    calls = []
    optimizer.step = lambda *args, **kwargs: (calls.append(1), step(*args, **kwargs))[1]
    step_with(optimizer, of, next(gradients(of)))
    optimizer.step = step.__func__.__get__(optimizer, type(optimizer))
    step_with(optimizer, of, next(gradients(of)))
    assert calls == [1]
    assert optimizer.state[of[0]]["step"] == 2
    assert list(inspect.signature(optimizer.step).parameters) == ["closure"]


def test_autograd_finds_values_that_a_step_has_replaced() -> None:
    w = torch.nn.Parameter(torch.tensor([3.0]))
    frozen = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = ours("SGD")([w, frozen], lr=0.5)
    stale, fresh = (w * w).sum(), (frozen * frozen).sum()
    w.grad = torch.ones(1)
    versions = (w._version, frozen._version)
    optimizer.step()
    assert (w._version, frozen._version) == (versions[0] + 1, versions[1])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        stale.backward()
    fresh.backward()


def test_parameters_that_require_no_gradient_are_updated_too() -> None:
    w = torch.tensor([3.0])
    optimizer = ours("SGD")([w], lr=0.5)
    w.grad = torch.ones(1)
    optimizer.step()
    assert w.item() == 2.5


def test_steps_with_inference_mode() -> None:
    w = torch.nn.Parameter(torch.ones(1))
    with torch.inference_mode():
        optimizer = ours("AdamW")([w, torch.nn.Parameter(torch.ones(2))], lr=0.5, weight_decay=0.0)
        values = [torch.ones(1), torch.ones(2)]
        step_with(optimizer, optimizer.param_groups[0]["params"], values)
    step_with(optimizer, optimizer.param_groups[0]["params"], values)
    for p in optimizer.param_groups[0]["params"]:
        assert p.tolist() == pytest.approx([0.0] * len(p), abs=1e-6)


def test_parameters_of_lazy_modules() -> None:
    model = torch.nn.LazyLinear(2)
    optimizer = ours("SGD")(model.parameters(), lr=0.5)
    model(torch.ones(1, 3)).sum().backward()
    before = model.weight.detach().clone()
    optimizer.step()
    assert torch.equal(model.weight, before - 0.5)


def test_gradients_can_be_zeroed() -> None:
    of = parameters()
    optimizer = ours("AdamW")(of)
    step_with(optimizer, of, next(gradients(of)))
    optimizer.zero_grad(set_to_none=False)
    assert all((p.grad == 0).all() for p in of)
    optimizer.zero_grad()
    assert all(p.grad is None for p in of)


def test_a_gradient_in_a_graph_is_read() -> None:
    w = torch.nn.Parameter(torch.tensor([3.0]))
    optimizer = ours("SGD")([w], lr=0.5)
    (w.grad,) = torch.autograd.grad(w.square().sum(), w, create_graph=True)
    assert w.grad.requires_grad
    optimizer.step()
    assert w.item() == 0.0


# PyTorch's own, of the loss, which is no leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_step_inside_a_compiled_function() -> None:
    model = torch.nn.Linear(3, 2, bias=False)
    optimizer = ours("SGD")(model.parameters(), lr=0.5)

    @torch.compile(backend="eager")
    def train(x: Any) -> Any:
        optimizer.zero_grad()
        loss = model(x).sum()
        loss.backward()
        optimizer.step()
        return loss.detach()

    before = model.weight.detach().clone()
    for _ in range(3):
        train(torch.ones(1, 3))
    torch.testing.assert_close(model.weight.detach(), before - 1.5)


def test_a_subclass_keeps_its_name_and_docstring() -> None:
    class Own(ours("SGD")):  # type: ignore[misc]
        """Mine."""

    assert Own.__doc__ == "Mine."
    of = parameters()
    step_with(Own(of, lr=0.5), of, next(gradients(of)))


def test_one_optimizer_for_each_parameter() -> None:
    of = parameters()
    optimizers = [ours("AdamW")([{"params": p}]) for p in of]
    for optimizer, p, g in zip(optimizers, of, next(gradients(of)), strict=True):
        step_with(optimizer, [p], [g])
        assert optimizer.state[p]["step"] == 1


def test_two_threads_step_two_optimizers() -> None:
    import threading

    found: dict[int, list[bytes]] = {}

    def work(i: int) -> None:
        of = parameters(torch.float32, [(64, 64)] * 4)
        optimizer = ours("AdamW")(of)
        for _, values in zip(range(20), gradients(of), strict=False):
            step_with(optimizer, of, values)
        found[i] = [bits(p) for p in of]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1] == found[2]
