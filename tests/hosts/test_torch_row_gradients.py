"""PyTorch's sparse tensors as gradients: those with one sparse dimension are taken, others are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from rows import every_optimizer

torch = pytest.importorskip("torch")


def stepped(make: Callable[[], Any], gradient: Any, shape: tuple[int, ...] = (5, 2)) -> bytes:
    w = np.linspace(0, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    optimizer = make()
    optimizer.build({"table": w})
    for _ in range(2):
        optimizer.apply([gradient])
        optimizer.apply({"table": gradient})
    return b"".join(x.tobytes() for x in [w, *optimizer.variables])


def parts(dtype: Any = torch.float32) -> tuple[Any, Any]:
    indices = torch.tensor([4, 0, 4, 3])
    return torch.linspace(-1, 1, 8).reshape(4, 2).to(dtype), indices


def sparse(values: Any, indices: Any, shape: tuple[int, ...] = (5, 2)) -> Any:
    return torch.sparse_coo_tensor(indices[None], values, shape, check_invariants=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@every_optimizer
def test_tensors_as_parts(make: Callable[[], Any], dtype: Any) -> None:
    values, indices = parts(dtype)
    as_array = values.float() if dtype == torch.bfloat16 else values
    expected = stepped(make, fo.RowGradient(as_array.numpy(), indices.numpy()))
    for of_indices in (torch.int32, torch.int64):
        assert stepped(make, fo.RowGradient(values, indices.to(of_indices))) == expected
    spread = values.repeat_interleave(2, 0)[::2], indices.repeat_interleave(3)[::3]
    assert not spread[0].is_contiguous()
    assert not spread[1].is_contiguous()
    assert stepped(make, fo.RowGradient(*spread)) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@every_optimizer
def test_sparse_tensors(make: Callable[[], Any], dtype: Any) -> None:
    values, indices = parts(dtype)
    expected = stepped(make, fo.RowGradient(values, indices))
    gradient = sparse(values, indices)
    assert not gradient.is_coalesced()
    assert stepped(make, gradient) == expected
    assert not gradient.is_coalesced()
    whole = gradient.coalesce()
    expected = stepped(make, fo.RowGradient(whole.values(), whole.indices()[0]))
    assert stepped(make, whole) == expected
    assert stepped(make, whole.requires_grad_()) == expected


@pytest.mark.parametrize("shape", [(5,), (5, 2), (5, 2, 3), (5, 0)], ids=str)
@every_optimizer
def test_shapes(make: Callable[[], Any], shape: tuple[int, ...]) -> None:
    values, indices = torch.ones((3, *shape[1:])), torch.tensor([2, 0, 2])
    expected = stepped(make, fo.RowGradient(values, indices), shape)
    assert stepped(make, sparse(values, indices, shape), shape) == expected


@every_optimizer
def test_no_rows(make: Callable[[], Any]) -> None:
    values, indices = torch.ones((0, 2)), torch.zeros(0, dtype=torch.int64)
    expected = stepped(make, fo.RowGradient(values, indices))
    assert stepped(make, sparse(values, indices)) == expected
    assert stepped(make, torch.zeros((5, 2)).to_sparse(1)) == expected


def test_the_gradient_of_an_embedding() -> None:
    layer = torch.nn.Embedding(6, 3, sparse=True)
    head = torch.nn.Linear(3, 1)
    optimizer = fo.AdamW(learning_rate=0.1)
    optimizer.build([layer.weight, head.weight, head.bias])
    before = layer.weight.detach().clone()
    for _ in range(3):
        head(layer(torch.tensor([[1, 4], [4, 4]]))).sum().backward()
        optimizer.apply([layer.weight.grad, head.weight.grad, head.bias.grad])
        layer.zero_grad()
        head.zero_grad()
    moved = (layer.weight.detach() != before).any(1)
    assert moved.tolist() == [False, True, False, False, True, False]


def test_it_is_dense_updates_for_sgd() -> None:
    values, indices = parts()
    gradient = sparse(values, indices)
    w, other = torch.zeros(5, 2), torch.zeros(5, 2)
    optimizer = fo.SGD(0.5)
    optimizer.build([w])
    plain = fo.SGD(0.5)
    plain.build([other])
    optimizer.apply([gradient])
    plain.apply([gradient.to_dense()])
    assert torch.equal(w, other)


def test_catch_up_takes_tensors() -> None:
    w = torch.zeros(3, 1)
    optimizer = fo.SGD(1.0, momentum=0.5, row_updates="caught_up")
    optimizer.build([w])
    for row in (0, 1, 2):
        optimizer.apply([fo.RowGradient(torch.ones(1, 1), torch.tensor([row]))])
    optimizer.catch_up(w, torch.tensor([1, 1]))
    assert w.T.tolist() == [[-1.0, -1.5, -1.0]]
    optimizer.catch_up(w)
    assert w.T.tolist() == [[-1.75, -1.5, -1.0]]


# Refused


def eye() -> Any:
    return torch.eye(5, 2)


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "elements": (
        lambda: eye().to_sparse(),
        TypeError,
        "with 2 sparse dimensions; give its .to_dense(), or .to_dense().to_sparse(1) for its rows",
    ),
    "csr": (lambda: eye().to_sparse_csr(), TypeError, "of layout torch.sparse_csr; give its .to_d"),
    "csc": (lambda: eye().to_sparse_csc(), TypeError, "of layout torch.sparse_csc; give its .to_d"),
    "shape": (
        lambda: sparse(torch.ones(1, 2), torch.tensor([0]), (6, 2)),
        ValueError,
        "expected shape (5, 2), found (6, 2)",
    ),
    "row": (
        lambda: sparse(torch.ones(1, 2), torch.tensor([5])),
        ValueError,
        "found 5 at position 0",
    ),
    "negative": (
        lambda: sparse(torch.ones(1, 2), torch.tensor([-1])),
        ValueError,
        "found -1 at position 0",
    ),
    "meta": (
        lambda: sparse(torch.ones(1, 2), torch.tensor([1])).to("meta"),
        TypeError,
        "on the device meta",
    ),
    "complex": (
        lambda: sparse(torch.ones(1, 2, dtype=torch.complex64), torch.tensor([1])),
        TypeError,
        "complex64",
    ),
    "integer": (
        lambda: sparse(torch.ones(1, 2, dtype=torch.int32), torch.tensor([1])),
        TypeError,
        "dtype int32; convert it to float32",
    ),
    "float_indices": (
        lambda: fo.RowGradient(torch.ones(1, 2), torch.ones(1)),
        TypeError,
        "indices: expected int32 or int64, found Tensor of dtype float32; convert it to int64",
    ),
    "bool_indices": (
        lambda: fo.RowGradient(torch.ones(1, 2), torch.ones(1, dtype=torch.bool)),
        TypeError,
        "indices: expected int32 or int64, found Tensor of dtype bool; convert it to int64",
    ),
    "negated_indices": (
        lambda: fo.RowGradient(torch.ones(1, 2), torch._neg_view(torch.tensor([-1]))),
        TypeError,
        "with its negative bit set; give its .resolve_neg()",
    ),
    "sparse_values": (
        lambda: fo.RowGradient(torch.ones(1, 2).to_sparse(1), torch.tensor([0])),
        TypeError,
        "values: expected a dense array of floating numbers in CPU memory, found a Tensor of layout",
    ),
}


@pytest.mark.filterwarnings("ignore:Sparse CS[RC] tensor support is in beta")
@pytest.mark.parametrize("name", REFUSED)
@every_optimizer
def test_refused(make: Callable[[], Any], name: str) -> None:
    make_gradient, error, message = REFUSED[name]
    w = torch.ones(5, 2)
    optimizer = make()
    optimizer.build({"table": w})
    before = [x.tobytes() for x in optimizer.variables]
    with pytest.raises(error) as caught:
        optimizer.apply([make_gradient()])
    assert str(caught.value).startswith("gradient of variable 0 ('table')")
    assert message in str(caught.value)
    assert (w == 1).all()
    assert [x.tobytes() for x in optimizer.variables] == before
