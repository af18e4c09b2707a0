"""Sparse gradients in `fusedopt.torch.Optimizer`: lazy rows, and rows that are caught up."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import fusedopt as fo
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fusedopt.torch  # noqa: E402

ROWS, WIDTH = 9, 3
LAZY: dict[str, Callable[..., Any]] = {
    "sgd": lambda: fo.SGD(0.1, momentum=0.9),
    "adam": lambda: fo.Adam(0.1, global_clipnorm=1.0),
    "adamw": lambda: fo.AdamW(0.1, weight_decay=0.1, clipvalue=0.5),
    "lion": lambda: fo.Lion(0.1, weight_decay=0.1),
    "ftrl": lambda: fo.Ftrl(0.1),
    "ema": lambda: fo.Adagrad(0.1, use_ema=True),
}
# Those whose caught up rows are what dense gradients would have made of them.
EXACT: dict[str, Callable[..., Any]] = {
    "sgd": lambda **how: fo.SGD(0.1, weight_decay=0.1, **how),
    "momentum": lambda **how: fo.SGD(0.1, momentum=0.9, nesterov=True, **how),
    "adagrad": lambda **how: fo.Adagrad(0.1, weight_decay=0.1, **how),
    "lion": lambda **how: fo.Lion(0.01, weight_decay=0.1, **how),
    "schedule": lambda **how: fo.SGD(
        fo.schedules.ExponentialDecay(0.1, 2, 0.9), momentum=0.9, **how
    ),
}
every_exact = pytest.mark.parametrize("make", EXACT.values(), ids=EXACT)


def table(dtype: Any = torch.float64, seed: int = 1) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.Parameter(
        torch.randn((ROWS, WIDTH), generator=generator, dtype=torch.float64).to(dtype)
    )


def parts(step: int, dtype: Any = torch.float64) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(100 + step)
    indices = torch.randint(ROWS, (3,), generator=generator)
    return torch.randn((3, WIDTH), generator=generator, dtype=torch.float64).to(dtype), indices


def sparse(values: Any, indices: Any) -> Any:
    return torch.sparse_coo_tensor(indices[None], values, (ROWS, WIDTH), check_invariants=False)


def caught_up(make: Callable[..., Any], parameters: list[Any]) -> Any:
    return fusedopt.torch.Optimizer(parameters, make(row_updates="caught_up"))


def train(optimizer: Any, w: Any, steps: range, *, dense: bool = False) -> None:
    for step in steps:
        gradient = sparse(*parts(step, w.dtype))
        w.grad = gradient.to_dense() if dense else gradient
        optimizer.step()


def dense(make: Callable[..., Any], steps: range) -> Any:
    w = table()
    train(fusedopt.torch.Optimizer([w], make()), w, steps, dense=True)
    return w


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("make", LAZY.values(), ids=LAZY)
def test_same_bits_as_arrays(make: Callable[..., Any], dtype: Any) -> None:
    w, other = table(dtype), torch.nn.Parameter(torch.ones(4))
    optimizer = fusedopt.torch.Optimizer([other, w], make())
    arrays = [other.detach().numpy().copy(), w.detach().numpy().copy()]
    expected = make()
    expected.build(arrays)
    for step in range(6):
        values, indices = parts(step, dtype)
        other.grad, w.grad = torch.full((4,), 0.5), sparse(values, indices)
        version = w._version
        optimizer.step()
        assert w._version == version + 1
        expected.apply(
            [np.full(4, 0.5, np.float32), fo.RowGradient(values.numpy(), indices.numpy())]
        )
    assert np.array_equal(w.detach().numpy(), arrays[1])
    assert np.array_equal(other.detach().numpy(), arrays[0])


@every_exact
def test_rows_that_are_caught_up_are_those_of_dense_steps(make: Callable[..., Any]) -> None:
    w = table()
    optimizer = caught_up(make, [w])
    train(optimizer, w, range(20))
    expected = dense(make, range(20))
    assert not torch.allclose(w, expected, rtol=1e-9, atol=1e-12)
    version = w._version
    optimizer.catch_up()
    assert w._version == version + 1
    torch.testing.assert_close(w, expected, rtol=1e-9, atol=1e-12)


@every_exact
def test_some_rows_are_caught_up(make: Callable[..., Any]) -> None:
    w = table()
    optimizer = caught_up(make, [w])
    train(optimizer, w, range(10))
    before, expected = w.detach().clone(), dense(make, range(10))
    optimizer.catch_up(w, torch.tensor([4, 2, 4], dtype=torch.int32))
    torch.testing.assert_close(w[[2, 4]], expected[[2, 4]], rtol=1e-9, atol=1e-12)
    others = [0, 1, 3, 5, 6, 7, 8]
    assert torch.equal(w[others], before[others])


@every_exact
def test_a_closure_catches_its_rows_up(make: Callable[..., Any]) -> None:
    def trained(is_sparse: bool) -> Any:
        model = torch.nn.Embedding(ROWS, WIDTH, sparse=is_sparse, dtype=torch.float64)
        with torch.no_grad():
            model.weight.copy_(table())
        optimizer = caught_up(make, [model.weight])
        for step in range(12):
            _, batch = parts(step)

            def closure(batch: Any = batch) -> Any:
                optimizer.zero_grad()
                optimizer.catch_up(model.weight, batch)
                loss = model(batch).square().sum()
                loss.backward()
                return loss

            optimizer.step(closure)
        optimizer.catch_up()
        return model.weight

    torch.testing.assert_close(trained(True), trained(False), rtol=1e-9, atol=1e-12)


STORED: dict[str, Callable[[Any], Any]] = {
    "state_dict": lambda optimizer: optimizer.state_dict(),
    "deepcopy": copy.deepcopy,
    "eval": lambda optimizer: optimizer.eval(),
}


@pytest.mark.parametrize("store", STORED.values(), ids=STORED)
def test_what_stores_the_state_catches_up(store: Callable[[Any], Any]) -> None:
    make = EXACT["momentum"]
    w = table()
    optimizer = caught_up(make, [w])
    train(optimizer, w, range(10))
    store(optimizer)
    torch.testing.assert_close(w, dense(make, range(10)), rtol=1e-9, atol=1e-12)


@every_exact
def test_a_checkpoint_goes_on(make: Callable[..., Any]) -> None:
    w, v = table(), table(seed=2)
    optimizer, other = caught_up(make, [w]), caught_up(make, [v])
    train(optimizer, w, range(7))
    train(other, v, range(3, 6))
    saved = copy.deepcopy(optimizer.state_dict())
    with torch.no_grad():
        v.copy_(w)
    other.load_state_dict(saved)
    with torch.no_grad():
        v.copy_(w)
    train(other, v, range(7, 15))
    other.catch_up()
    torch.testing.assert_close(v, dense(make, range(15)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("change", ["moved", "joined", "state", "group", "rate"])
def test_nothing_is_lost_if_the_optimizer_is_bound_anew(change: str) -> None:
    make = EXACT["momentum"]
    w, other = table(), torch.nn.Parameter(torch.ones(2))
    optimizer = caught_up(make, [w, other])
    train(optimizer, w, range(8))
    if change == "moved":
        w.data = w.data.clone()
    elif change == "joined":
        other.grad = torch.ones(2)
    elif change == "state":
        state = optimizer.state[w]
        (slot,) = [name for name in state if name != "iteration"]
        optimizer.catch_up()
        state[slot] = state[slot].clone()
    elif change == "group":
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    else:
        optimizer.param_groups[0]["lr"] = 0.1
    train(optimizer, w, range(8, 16))
    optimizer.catch_up()
    torch.testing.assert_close(w, dense(make, range(16)), rtol=1e-9, atol=1e-12)


def test_lazy_rows_miss_nothing() -> None:
    w = table()
    optimizer = fusedopt.torch.Optimizer([w], fo.SGD(0.1, momentum=0.9))
    optimizer.catch_up()
    train(optimizer, w, range(4))
    before, version = w.detach().clone(), w._version
    optimizer.catch_up()
    optimizer.catch_up(w)
    optimizer.catch_up(w, torch.tensor([1]))
    assert torch.equal(w, before)
    assert w._version == version


def test_refusals_of_catch_up() -> None:
    w = table()
    optimizer = caught_up(EXACT["momentum"], [w])
    train(optimizer, w, range(4))
    before = w.detach().clone()
    with pytest.raises(ValueError, match="indices: expected with a parameter"):
        optimizer.catch_up(indices=torch.tensor([1]))
    with pytest.raises(ValueError, match="expected one of the optimizer's, found another"):
        optimizer.catch_up(table())
    with pytest.raises(ValueError, match="group 0, parameter 0.*found 9 at position 1"):
        optimizer.catch_up(w, torch.tensor([1, 9]))
    with pytest.raises(TypeError, match="int32 or int64"):
        optimizer.catch_up(w, torch.tensor([1.0]))
    assert torch.equal(w, before)
    optimizer.eval()
    optimizer.train()
    optimizer = fusedopt.torch.Optimizer([w], fo.SGD(0.1, use_ema=True))
    train(optimizer, w, range(2))
    optimizer.eval()
    with pytest.raises(ValueError, match="catch_up: expected the weights in training"):
        optimizer.catch_up()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fo.Adafactor(0.1), "Adafactor"),
        (lambda: fo.Lamb(0.1), "Lamb"),
    ],
)
def test_rules_without_rows(make: Callable[[], Any], message: str) -> None:
    w = table()
    optimizer = fusedopt.torch.Optimizer([w], make())
    w.grad = sparse(*parts(1))
    before = w.detach().clone()
    with pytest.raises(ValueError, match=f"group 0, parameter 0.*{message}"):
        optimizer.step()
    assert torch.equal(w, before)


def test_gradients_of_other_layouts_are_refused() -> None:
    w = table()
    optimizer = fusedopt.torch.Optimizer([w], fo.SGD(0.1))
    train(optimizer, w, range(1))
    before = w.detach().clone()
    w.grad = torch.ones_like(w).detach().to_sparse()
    with pytest.raises(TypeError, match="group 0, parameter 0.*2 sparse dimensions"):
        optimizer.step()
    assert torch.equal(w, before)
    v = torch.nn.Parameter(torch.ones(WIDTH, ROWS, dtype=torch.float64).T)
    optimizer = fusedopt.torch.Optimizer([v], fo.SGD(0.1))
    v.grad = sparse(*parts(1))
    with pytest.raises(ValueError, match="group 0, parameter 0: expected a dense one"):
        optimizer.step()
    assert bool((v == 1).all())
