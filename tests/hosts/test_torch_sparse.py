"""Sparse gradients in the optimizers of `fusedopt.torch`: embeddings whose steps cost what their rows cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch_cases import CASES, bits, ours, snapshot, theirs  # noqa: E402

ROWS, WIDTH = 9, 3
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def table(dtype: Any = torch.float64, shape: tuple[int, ...] = (ROWS, WIDTH)) -> Any:
    generator = torch.Generator().manual_seed(1)
    return torch.nn.Parameter(
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    )


def parts(dtype: Any = torch.float64, row: tuple[int, ...] = (WIDTH,)) -> Iterator[tuple[Any, Any]]:
    """Values and row indices, one after another, of which some occur several times."""
    generator = torch.Generator().manual_seed(2)
    while True:
        indices = torch.randint(ROWS, (5,), generator=generator)
        yield (
            torch.randn((5, *row), generator=generator, dtype=torch.float64).to(dtype),
            indices,
        )


def sparse(values: Any, indices: Any) -> Any:
    return torch.sparse_coo_tensor(
        indices[None], values, (ROWS, *values.shape[1:]), check_invariants=False
    )


def rows_alone(name: str, options: dict[str, Any], steps: int) -> tuple[Any, Any]:
    """Each step on the touched rows gathered from the table and its state, with a dense gradient."""
    whole = table()
    optimizer = theirs(name)([whole], **options)
    for _, (values, indices) in zip(range(steps), parts(), strict=False):
        own = indices.unique()
        row = torch.nn.Parameter(whole.detach()[own])
        one = theirs(name)([row], **options)
        row.grad = sparse(values, indices).to_dense()[own]
        state = optimizer.state.get(whole, {})
        of_row = {
            key: value[own] if value.shape == whole.shape else value.clone()
            for key, value in state.items()
            if value is not None
        }
        if of_row:
            one.state[row].update(of_row)
        one.step()
        with torch.no_grad():
            whole[own] = row
        for key, value in one.state[row].items():
            if value is None:
                continue
            if value.shape == row.shape and value.dim():
                start = options.get("initial_accumulator_value", 0.0)
                kept = state.get(key, torch.full_like(whole, start).detach())
                kept[own] = value
                optimizer.state[whole][key] = kept
            else:
                optimizer.state[whole][key] = value
    return whole, optimizer


# PyTorch's first momentum has no dampening, and each of the rows alone would have a first.
@pytest.mark.parametrize(
    ("name", "options"), [case for case in CASES if not case[1].get("dampening")], ids=str
)
def test_numbers_are_those_of_the_touched_rows_alone(name: str, options: dict[str, Any]) -> None:
    expected, other = rows_alone(name, options, 40)
    w = table()
    optimizer = ours(name)([w], **options)
    for _, (values, indices) in zip(range(40), parts(), strict=False):
        w.grad = sparse(values, indices)
        optimizer.step()
    torch.testing.assert_close(w, expected, rtol=1e-9, atol=1e-12)
    for key, value in other.state[expected].items():
        if value is not None:
            torch.testing.assert_close(optimizer.state[w][key], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "of_torch", "options"),
    [
        ("Adam", "SparseAdam", {"lr": 0.01, "eps": 1e-30}),
        ("Adam", "SparseAdam", {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-30, "maximize": True}),
        ("SGD", "SGD", {"lr": 0.01}),
        ("SGD", "SGD", {"lr": 0.01, "maximize": True}),
        ("Adagrad", "Adagrad", {"lr": 0.01, "lr_decay": 0.1, "eps": 1e-3}),
        ("Adagrad", "Adagrad", {"lr": 0.01, "initial_accumulator_value": 0.5}),
    ],
)
# PyTorch's own, of the tensors that its Adagrad makes.
@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")
def test_numbers_are_those_of_pytorch(name: str, of_torch: str, options: dict[str, Any]) -> None:
    w, v = table(), table()
    optimizer, other = ours(name)([w], **options), getattr(torch.optim, of_torch)([v], **options)
    for _, (values, indices) in zip(range(60), parts(), strict=False):
        w.grad, v.grad = sparse(values, indices), sparse(values, indices)
        optimizer.step()
        other.step()
    torch.testing.assert_close(w, v, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layer", [torch.nn.Embedding, torch.nn.EmbeddingBag])
@pytest.mark.parametrize("name", ["AdamW", "SGD", "Adagrad", "RMSprop"])
def test_embeddings_train(name: str, layer: Any) -> None:
    model = layer(ROWS, WIDTH, sparse=True)
    optimizer = ours(name)(model.parameters(), weight_decay=0.1, lr=0.1)
    before = model.weight.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        for _ in range(2):  # the gradients of two backward passes are not coalesced
            model(torch.tensor([[1, 4, 4], [7, 1, 1]])).square().sum().backward()
        assert model.weight.grad.is_sparse
        version = model.weight._version
        optimizer.step()
        assert model.weight._version == version + 1
    touched = [1, 4, 7]
    others = [i for i in range(ROWS) if i not in touched]
    assert torch.equal(model.weight[others], before[others])
    assert not torch.isclose(model.weight[touched], before[touched]).any()


def dense_and_sparse(name: str, kind: str, **options: Any) -> tuple[list[Any], Any]:
    """Train a table, all of whose rows are touched in each step, next to another parameter."""
    of = [table(torch.float32), torch.nn.Parameter(torch.ones(4))]
    optimizer = ours(name)(of, **options)
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        values = torch.randn((2 * ROWS, WIDTH), generator=generator)
        values[ROWS:] = values[:ROWS]  # so that the order of a sum does not count
        order = torch.randperm(ROWS, generator=generator)
        gradient = sparse(values, torch.cat([order, order]))
        of[0].grad = gradient if kind == "sparse" else gradient.to_dense()
        of[1].grad = torch.randn(4, generator=generator)
        optimizer.step()
    return of, optimizer


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_norm": 0.5},
        {"ema_decay": 0.5},
        {"ema_decay": 0.5, "max_norm": 0.5},
        {"maximize": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["AdamW", "NAdam", "SGD", "Adadelta"])
def test_a_step_on_all_rows_is_the_dense_step(name: str, options: dict[str, Any]) -> None:
    found, optimizer = dense_and_sparse(name, "sparse", **options)
    expected, other = dense_and_sparse(name, "dense", **options)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    if "max_norm" in options:
        assert optimizer.global_norm == pytest.approx(other.global_norm, rel=1e-6)
    if "ema_decay" in options:
        averages = [optimizer.averages[p] for p in found], [other.averages[p] for p in expected]
        torch.testing.assert_close(*averages, rtol=1e-6, atol=1e-7)


def test_averages_of_rows_that_a_step_leaves_out() -> None:
    w = table(torch.float32)
    optimizer = ours("SGD")([w], lr=1.0, ema_decay=0.5)
    average = w.detach().clone()
    for step in range(3):
        w.grad = sparse(torch.ones(1, WIDTH), torch.tensor([step]))
        optimizer.step()
        average = 0.5 * average + 0.5 * w.detach()
    torch.testing.assert_close(optimizer.averages[w], average)


@pytest.mark.parametrize("row", [(), (1,), (2, 3)], ids=str)
def test_rows_of_any_shape(row: tuple[int, ...]) -> None:
    w, v = table(torch.float32, (ROWS, *row)), table(torch.float32, (ROWS, *row))
    optimizer, other = ours("SGD")([w], lr=0.5), torch.optim.SGD([v], lr=0.5)
    values, indices = next(parts(torch.float32, row))
    w.grad, v.grad = sparse(values, indices), sparse(values, indices)
    assert (w.grad.sparse_dim(), w.grad.dense_dim()) == (1, len(row))
    optimizer.step()
    other.step()
    torch.testing.assert_close(w, v)


@pytest.mark.parametrize("master_weights", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_types(dtype: Any, master_weights: bool) -> None:
    w = table(dtype)
    before = w.detach().clone()
    optimizer = ours("AdamW")([w], lr=0.1, master_weights=master_weights)
    for _ in range(4):
        w.grad = sparse(torch.ones(2, WIDTH, dtype=dtype), torch.tensor([5, 2]))
        optimizer.step()
    moved = before[[2, 5]].float() * (1 - 0.1 * 0.01) ** 4 - 0.4
    torch.testing.assert_close(w[[2, 5]].float(), moved, rtol=0.03, atol=0.03)
    assert torch.equal(w[[0, 1, 3, 4]], before[[0, 1, 3, 4]])


def test_no_rows_is_a_step() -> None:
    w = table()
    optimizer = ours("Adam")([w])
    before = bits(w)
    w.grad = sparse(torch.zeros(0, WIDTH, dtype=torch.float64), torch.zeros(0, dtype=torch.int64))
    optimizer.step()
    assert bits(w) == before
    assert optimizer.state[w]["step"] == 1


def test_dense_and_sparse_gradients_in_turn() -> None:
    w, v = table(), table()
    optimizer, other = ours("SGD")([w], lr=0.1), torch.optim.SGD([v], lr=0.1)
    for step, (values, indices) in zip(range(6), parts(), strict=False):
        gradient = sparse(values, indices)
        w.grad = gradient if step % 2 else gradient.to_dense()
        v.grad = gradient.to_dense()
        optimizer.step()
        other.step()
    torch.testing.assert_close(w, v)


def test_the_state_goes_on_bit_for_bit() -> None:
    w, v = table(), table()
    optimizer, other = ours("AdamW")([w]), ours("AdamW")([v])
    given = parts()
    for _ in range(3):
        w.grad = sparse(*next(given))
        optimizer.step()
    with torch.no_grad():
        v.copy_(w)
    other.load_state_dict(optimizer.state_dict())
    for _ in range(3):
        w.grad = v.grad = sparse(*next(given))
        optimizer.step()
        other.step()
    assert snapshot(optimizer) == snapshot(other)


def test_state_of_sparse_adam_and_of_sparse_momentum_is_taken() -> None:
    w, v = table(), table()
    options = {"lr": 0.01, "eps": 1e-30}
    other = torch.optim.SparseAdam([v], **options)
    given = parts()
    for _ in range(3):
        v.grad = sparse(*next(given))
        other.step()
    with torch.no_grad():
        w.copy_(v)
    optimizer = ours("Adam")([w], **options)
    saved = other.state_dict()
    saved["param_groups"][0].update(amsgrad=False, weight_decay=0)
    optimizer.load_state_dict(saved)
    w.grad = v.grad = sparse(*next(given))
    optimizer.step()
    other.step()
    torch.testing.assert_close(w, v, rtol=1e-10, atol=1e-12)
    momentum = torch.optim.SGD([v], lr=0.1, momentum=0.9)
    momentum.step()
    taken = ours("SGD")([w], lr=0.1, momentum=0.9)
    taken.load_state_dict(momentum.state_dict())
    torch.testing.assert_close(taken.state[w]["momentum_buffer"], v.grad.to_dense())


def test_grad_scaler() -> None:
    w, v = table(torch.float32), table(torch.float32)
    optimizer, other = ours("AdamW")([w]), ours("AdamW")([v])
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(torch.zeros(()))
    values, indices = next(parts(torch.float32))
    for bad in (False, True, False):
        scaled = values * scaler.get_scale()
        if bad:
            scaled[3, 1] = torch.inf
        w.grad, v.grad = sparse(scaled, indices), sparse(values, indices)
        before = bits(w)
        scaler.step(optimizer)
        scaler.update()
        if bad:
            assert bits(w) == before
        else:
            other.step()
            torch.testing.assert_close(w, v)


def refused() -> dict[str, tuple[Any, str]]:
    one = torch.ones(ROWS, WIDTH, dtype=torch.float64)
    bad = sparse(one[:2], torch.tensor([3, 12]))
    negative = sparse(one[:2], torch.tensor([-1, 2]))
    return {
        "two sparse dimensions": (one.to_sparse(), "2 sparse dimensions; give its .to_dense"),
        "too large": (bad, "from 0 to 8, .* found 12 at position 1"),
        "negative": (negative, "from 0 to 8, .* found -1 at position 0"),
    }


@pytest.mark.parametrize("case", ["two sparse dimensions", "too large", "negative"])
def test_what_is_no_gradient_of_rows_is_refused(case: str) -> None:
    gradient, message = refused()[case]
    w, other = table(), torch.nn.Parameter(torch.ones(2))
    optimizer = ours("AdamW")([other, w])
    other.grad = torch.ones(2)
    w.grad = sparse(*next(parts()))
    optimizer.step()
    w.grad = gradient
    before = snapshot(optimizer)
    with pytest.raises(
        (TypeError, ValueError), match=rf"group 0, parameter 1: gradient.*{message}"
    ):
        optimizer.step()
    assert snapshot(optimizer) == before


def test_a_table_in_another_order_of_memory_is_refused() -> None:
    w = torch.nn.Parameter(torch.ones(WIDTH, ROWS).T)
    optimizer = ours("SGD")([w])
    w.grad = sparse(torch.ones(1, WIDTH), torch.tensor([1]))
    with pytest.raises(ValueError, match="group 0, parameter 0: gradient: .*contiguous"):
        optimizer.step()
    assert bool((w == 1).all())


def test_values_in_a_graph_are_read() -> None:
    values, indices = next(parts())
    w = table()
    optimizer = ours("SGD")([w], lr=1.0)
    w.grad = sparse(values.requires_grad_(), indices)
    expected = w.detach() - w.grad.detach().to_dense()
    optimizer.step()
    torch.testing.assert_close(w.detach(), expected)
