"""Steps of any rule as PyTorch calls them: closures, hooks, GradScaler, autograd, compiled programs, layouts."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import fusedopt as fo
import pytest
from cases import ROWWISE, VARIANTS, Case
from training import make

torch = pytest.importorskip("torch")

import fusedopt.torch  # noqa: E402
import torch_parameters as given  # noqa: E402
from torch.optim import optimizer as torch_optimizer  # noqa: E402

every_variant = pytest.mark.parametrize("case", VARIANTS, ids=str)


def simple(**options: Any) -> tuple[Any, Any]:
    parameter = torch.nn.Parameter(torch.zeros(2))
    return fusedopt.torch.Optimizer([parameter], fo.SGD(1.0, **options)), parameter


# Closures and hooks


@pytest.mark.parametrize("by_keyword", [True, False])
def test_a_closure_is_called_first_with_gradients_enabled(by_keyword: bool) -> None:
    optimizer, parameter = simple()

    def closure() -> Any:
        optimizer.zero_grad()
        loss = ((parameter - 1.0) ** 2).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure=closure) if by_keyword else optimizer.step(closure)
    assert loss.item() == 2.0
    assert parameter.tolist() == [2.0, 2.0]


def test_a_closure_that_raises_changes_nothing() -> None:
    optimizer, parameter = simple()
    parameter.grad = torch.ones(2)

    def closure() -> Any:
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        optimizer.step(closure)
    assert parameter.tolist() == [0.0, 0.0]
    assert not optimizer.state


def test_hooks_run_once_also_of_a_subclass() -> None:
    class Mine(fusedopt.torch.Optimizer):
        pass

    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = Mine([parameter], fo.SGD(1.0))
    parameter.grad = torch.ones(2)
    seen = []
    handles = [
        optimizer.register_step_pre_hook(lambda *_: seen.append("before")),
        optimizer.register_step_post_hook(lambda *_: seen.append("after")),
        torch_optimizer.register_optimizer_step_pre_hook(lambda *_: seen.append("global before")),
        torch_optimizer.register_optimizer_step_post_hook(lambda *_: seen.append("global after")),
    ]
    optimizer.step()
    for handle in handles:
        handle.remove()
    optimizer.step()
    assert seen == ["global before", "before", "after", "global after"]
    assert parameter.tolist() == [-2.0, -2.0]


def test_step_can_be_replaced_on_the_instance() -> None:
    optimizer, parameter = simple()
    parameter.grad = torch.ones(2)
    original = optimizer.step
    calls = []
    optimizer.step = lambda *a, **k: calls.append(a) or original(*a, **k)
    optimizer.step()
    optimizer.step = original
    optimizer.step()
    assert (len(calls), parameter.tolist()) == (1, [-2.0, -2.0])


# Autograd


def test_a_backward_pass_that_needs_old_values_fails() -> None:
    params = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer = fusedopt.torch.Optimizer(params, fo.SGD(1.0))
    losses = [(p * p).sum() for p in params]
    versions = [p._version for p in params]
    params[0].grad = torch.ones(2)
    optimizer.step()
    assert [p._version - old for p, old in zip(params, versions, strict=True)] == [1, 0]
    losses[1].backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        losses[0].backward()


def test_averages_that_overwrite_change_every_parameter() -> None:
    params = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    rule = fo.SGD(1.0, use_ema=True, ema_overwrite_frequency=2)
    optimizer = fusedopt.torch.Optimizer(params, rule)
    given.give(params, [torch.ones(2), torch.ones(2)])
    optimizer.step()
    loss = (params[1] * params[1]).sum()
    params[1].grad = None
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("context", [contextlib.nullcontext, torch.no_grad, torch.inference_mode])
def test_a_step_needs_no_context(context: Any) -> None:
    optimizer, parameter = simple()
    parameter.grad = torch.ones(2, requires_grad=True)
    with context():
        optimizer.step()
    assert parameter.requires_grad
    assert parameter.is_leaf
    assert parameter.tolist() == [-1.0, -1.0]


def test_a_gradient_with_a_graph() -> None:
    optimizer, parameter = simple()
    (parameter.grad,) = torch.autograd.grad(
        (parameter.exp() ** 2).sum(), parameter, create_graph=True
    )
    assert parameter.grad.requires_grad
    optimizer.step()
    assert parameter.tolist() == [-2.0, -2.0]
    parameter.grad = None


def test_a_tensor_without_requires_grad_can_be_a_parameter() -> None:
    tensor = torch.zeros(2)
    optimizer = fusedopt.torch.Optimizer([tensor], fo.SGD(1.0))
    tensor.grad = torch.ones(2)
    optimizer.step()
    assert tensor.tolist() == [-1.0, -1.0]


# Mixed precision


def scaled_step(scaler: Any, optimizer: Any, params: Any, values: Any) -> None:
    given.give(params, [value * scaler.get_scale() for value in values])
    scaler.scale(torch.zeros(()))  # makes the scale
    scaler.step(optimizer)
    scaler.update()


@every_variant
@pytest.mark.parametrize("options", [{}, {"clipnorm": 0.1}, {"loss_scale_factor": 4.0}])
def test_grad_scaler(case: Case, options: Any) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    optimizer = given.made(case, params := given.parameters(0, torch.float32), **options)
    arrays = [tensor.numpy() for tensor in given.tensors(0, torch.float32)]
    expected = make(case, **options)
    expected.build(arrays)
    factor = options.get("loss_scale_factor", 1.0)
    scaler.scale(torch.zeros(()))
    for step in range(8):
        values = [g * factor for g in given.gradients(step, torch.float32)]
        if step in (0, 5):
            before = given.everything(optimizer)
            values[2] = torch.tensor(float("inf"))
            scaled_step(scaler, optimizer, params, values)
            assert given.everything(optimizer) == before
        else:
            expected.apply([value.numpy() for value in values])
            scaled_step(scaler, optimizer, params, values)
            assert given.bits(params) == [array.tobytes() for array in arrays]
    assert not {"grad_scale", "found_inf"} & vars(optimizer).keys()
    assert scaler.get_scale() == 1024.0 / 2 * 2 / 2
    assert int(optimizer.state[params[0]]["iteration"]) == 6


def test_grad_scaler_after_unscaling_by_hand() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    optimizer, parameter = simple()
    scaler.scale((parameter * torch.tensor([1.0, 2.0])).sum()).backward()
    scaler.unscale_(optimizer)
    assert parameter.grad.tolist() == [1.0, 2.0]
    scaler.step(optimizer)
    assert parameter.tolist() == [-1.0, -2.0]


def test_grad_scaler_that_is_disabled() -> None:
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    optimizer, parameter = simple()
    scaler.scale(parameter.sum()).backward()
    scaler.step(optimizer)
    assert parameter.tolist() == [-1.0, -1.0]


def test_a_step_without_a_scaler_after_one_with_it() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    optimizer, parameter = simple()
    scaler.scale(parameter.sum()).backward()
    scaler.step(optimizer)
    optimizer.zero_grad()
    parameter.sum().backward()
    optimizer.step()
    assert parameter.tolist() == [-2.0, -2.0]


def test_skip_nonfinite() -> None:
    optimizer, parameter = simple(skip_nonfinite=True)
    parameter.grad = torch.tensor([1.0, float("nan")])
    version = parameter._version
    optimizer.step()
    assert (parameter.tolist(), parameter._version) == ([0.0, 0.0], version)
    assert int(optimizer.state[parameter]["iteration"]) == 0
    assert int(optimizer.state[parameter]["skipped_steps"]) == 1


# Memory


def in_layouts() -> dict[str, Any]:
    return {
        "transposed": torch.randn(3, 4).t(),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "one channel": torch.randn(4, 1, 2, 2).to(memory_format=torch.channels_last),
        "permuted": torch.randn(2, 3, 4).permute(2, 0, 1),
        "part of a buffer": torch.randn(20)[3:9].view(2, 3),
    }


def in_memory(tensor: Any) -> list[int]:
    """The strides that matter."""
    return [n for n, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


# What takes means over rows refuses them.
IN_ANY_ORDER = [c for c in VARIANTS if c.rule != "Adafactor" and c not in ROWWISE]


@pytest.mark.parametrize("case", IN_ANY_ORDER, ids=str)
@pytest.mark.parametrize("layout", in_layouts())
def test_dimensions_in_any_order_of_memory(case: Case, layout: str) -> None:
    start = in_layouts()[layout]
    params = [torch.nn.Parameter(start.clone(memory_format=torch.preserve_format))]
    others = [torch.nn.Parameter(start.contiguous())]
    optimizers = [given.made(case, params), given.made(case, others)]
    for step in range(4):
        gradient = torch.randn(start.shape, generator=torch.Generator().manual_seed(step))
        params[0].grad = gradient.clone()
        others[0].grad = gradient.clone()
        if step > 1:
            params[0].grad = torch.empty_like(params[0]).copy_(gradient)
        for one in optimizers:
            one.step()
    assert params[0].stride() == start.clone(memory_format=torch.preserve_format).stride()
    exact = case.rule not in ("Lamb", "Muon")  # their sums over a variable follow its memory
    tolerance = {"rtol": 0.0, "atol": 0.0} if exact else {}
    torch.testing.assert_close(params[0], others[0], **tolerance)
    for name, value in optimizers[0].state[params[0]].items():
        other = optimizers[1].state[others[0]][name]
        torch.testing.assert_close(value, other, **tolerance)
        if name == "velocity":
            assert in_memory(value) == in_memory(params[0])


def test_a_gradient_of_another_type() -> None:
    class Careless(torch.nn.Parameter):
        grad = None  # PyTorch may want the parameter's type

    for dtype in given.DTYPES:
        parameter = Careless(torch.zeros(2))
        optimizer = fusedopt.torch.Optimizer([parameter], fo.SGD(1.0))
        parameter.grad = torch.ones(2, dtype=dtype)
        optimizer.step()
        assert parameter.tolist() == [-1.0, -1.0]


# Programs


# The compiler looks at the loss as well as at the parameters.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_training_step(backend: str) -> None:
    models = [torch.nn.Linear(3, 2) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [fusedopt.torch.Optimizer(m.parameters(), fo.Lion(0.1)) for m in models]

    def train(model: Any, optimizer: Any, x: Any) -> Any:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    torch._dynamo.reset()
    compiled = torch.compile(train, backend=backend)
    for step in range(4):
        x = given.tensors(step, torch.float32, [(5, 3)])[0]
        torch.testing.assert_close(
            compiled(models[0], optimizers[0], x), train(models[1], optimizers[1], x)
        )
    torch._dynamo.reset()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_two_optimizers_step_in_two_threads() -> None:
    optimizers = [given.made(lambda: fo.Adam(0.1), given.parameters()) for _ in range(3)]
    threads = [
        threading.Thread(target=given.take_steps, args=(one, range(20))) for one in optimizers[1:]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    given.take_steps(optimizers[0], range(20))
    expected = given.everything(optimizers[0])
    assert [given.everything(one) for one in optimizers[1:]] == [expected, expected]


# PyTorch's own.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_zero_redundancy_optimizer_makes_it_from_its_class(tmp_path: Any) -> None:
    from torch import distributed
    from torch.distributed.optim import ZeroRedundancyOptimizer

    distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        params = given.parameters()
        sharded = ZeroRedundancyOptimizer(
            params, optimizer_class=fusedopt.torch.Optimizer, optimizer=fo.Adam(0.1)
        )
        given.take_steps(sharded, range(3))
    finally:
        distributed.destroy_process_group()
    optimizer = given.made(lambda: fo.Adam(0.1), given.parameters())
    given.take_steps(optimizer, range(3))
    assert given.bits(params) == given.bits(optimizer.param_groups[0]["params"])
