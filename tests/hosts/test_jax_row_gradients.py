"""JAX's sparse arrays as gradients: BCOO with one sparse and no batch dimension is taken, others are refused."""

from __future__ import annotations

from typing import Any

import fusedopt as fo
import numpy as np
import pytest

jax = pytest.importorskip("jax")
sparse = pytest.importorskip("jax.experimental.sparse")


def stepped(gradient: Any) -> bytes:
    w = np.linspace(0, 1, 10, dtype=np.float32).reshape(5, 2)
    optimizer = fo.Adam()
    optimizer.build({"table": w})
    for _ in range(2):
        optimizer.apply([gradient])
        optimizer.apply({"table": gradient})
    return b"".join(x.tobytes() for x in [w, *optimizer.variables])


def parts(dtype: str = "float32") -> tuple[Any, Any]:
    values = jax.numpy.linspace(-1, 1, 8).reshape(4, 2).astype(dtype)
    return values, jax.numpy.array([4, 0, 4, 3], dtype="int32")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_arrays_as_parts(dtype: str) -> None:
    values, indices = parts(dtype)
    expected = stepped(fo.RowGradient(np.asarray(values), np.asarray(indices)))
    assert stepped(fo.RowGradient(values, indices)) == expected


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_bcoo(dtype: str) -> None:
    values, indices = parts(dtype)
    expected = stepped(fo.RowGradient(values, indices))
    assert stepped(sparse.BCOO((values, indices[:, None]), shape=(5, 2))) == expected


def test_padding_is_left_out() -> None:
    full = np.zeros((5, 2), np.float32)
    full[[1, 3]] = [[1, 2], [3, 4]]
    expected = stepped(fo.RowGradient(full[[1, 3]], np.array([1, 3])))
    padded = sparse.BCOO.fromdense(jax.numpy.asarray(full), nse=4, n_dense=1)
    assert padded.nse == 4
    assert stepped(padded) == expected
    values, indices = parts()
    doubled = sparse.BCOO((values, indices[:, None]), shape=(5, 2)).sum_duplicates(nse=6)
    expected = stepped(fo.RowGradient(values[:2] + values[2:3] * 0, indices[:2]))
    dense = np.asarray(doubled.todense())
    assert stepped(doubled) == stepped(fo.RowGradient(dense[[0, 3, 4]], np.array([0, 3, 4])))


def test_the_sparse_gradient_of_a_lookup() -> None:
    table = jax.numpy.ones((5, 2))
    looked_up = sparse.BCOO(
        (table[jax.numpy.array([3, 1])], jax.numpy.array([[3], [1]])), shape=(5, 2)
    )
    gradient = jax.grad(lambda x: (x.data**2).sum(), allow_int=True)(looked_up)
    w = np.ones((5, 2), np.float32)
    optimizer = fo.SGD(0.5)
    optimizer.build([w])
    optimizer.apply([sparse.BCOO((gradient.data, looked_up.indices), shape=(5, 2))])
    assert w.tolist() == [[1, 1], [0, 0], [1, 1], [0, 0], [1, 1]]


def test_refused() -> None:
    full = jax.numpy.ones((5, 2))
    w = np.ones((5, 2), np.float32)
    optimizer = fo.SGD()
    optimizer.build({"table": w})
    for value, message in (
        (
            sparse.BCOO.fromdense(full),
            r"a BCOO with n_batch 0 and n_sparse 2; give its .todense\(\)",
        ),
        (sparse.BCOO.fromdense(full, n_batch=1), "a BCOO with n_batch 1 and n_sparse 1"),
        (sparse.BCSR.fromdense(full), r"found BCSR; give its .todense\(\), which is dense"),
        (sparse.COO.fromdense(full), r"found COO; give its .todense\(\), which is dense"),
        (sparse.CSR.fromdense(full), r"found CSR; give its .todense\(\), which is dense"),
        (sparse.CSC.fromdense(full), r"found CSC; give its .todense\(\), which is dense"),
        (fo.RowGradient(full[:1], full[0, :1]), "indices: expected int32 or int64 .*float32"),
    ):
        with pytest.raises(TypeError, match=rf"^gradient of variable 0 \('table'\).*{message}"):
            optimizer.apply([value])
    rows = sparse.BCOO.fromdense(full, n_dense=1)
    with pytest.raises(TypeError, match=r"^gradient of variable 0 \('table'\).*Tracer"):
        jax.jit(lambda x: optimizer.apply([x]))(rows)
    assert (w == 1).all()
