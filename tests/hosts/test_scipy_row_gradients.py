"""SciPy's CSR arrays and matrices as gradients: their rows are those with stored elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from reference import Array

sparse = pytest.importorskip("scipy.sparse")

every_class = pytest.mark.parametrize("make", [sparse.csr_array, sparse.csr_matrix])
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def stepped(gradient: Any, shape: tuple[int, ...] = (6, 5), optimizer: Any = None) -> bytes:
    w = np.linspace(0, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    optimizer = optimizer or fo.Adam()
    optimizer.build({"table": w})
    for _ in range(2):
        optimizer.apply([gradient])
        optimizer.apply({"table": gradient})
    return b"".join(x.tobytes() for x in [w, *optimizer.variables])


def random(dtype: Any, seed: int = 0) -> Array:
    generator = np.random.default_rng(seed)
    full = generator.normal(size=(6, 5)).astype(dtype)
    full[generator.random((6, 5)) < 0.6] = 0
    full[[1, 4]] = 0
    return full


@every_class
@every_dtype
@pytest.mark.parametrize("seed", range(5))
def test_rows_with_elements(make: Callable[..., Any], dtype: Any, seed: int) -> None:
    full = random(dtype, seed)
    rows = np.flatnonzero(full.any(1))
    assert stepped(make(full)) == stepped(fo.RowGradient(full[rows], rows))


@every_class
@every_dtype
def test_unsorted_and_repeated_elements(make: Callable[..., Any], dtype: Any) -> None:
    data = np.array([0.1, 1e8, -1e8, 0.3, 2.0], dtype)
    columns, ends = np.array([3, 1, 1, 3, 0]), np.array([0, 0, 4, 4, 5, 5, 5])
    matrix = make((data, columns, ends), shape=(6, 5))
    assert not matrix.has_canonical_format
    values = matrix.toarray()[[1, 3]]
    assert stepped(matrix) == stepped(fo.RowGradient(values, np.array([1, 3])))
    assert matrix.nnz == 5


@every_class
def test_stored_zeros_touch_their_row(make: Callable[..., Any]) -> None:
    matrix = make((np.zeros(1), np.array([2]), np.array([0, 0, 1, 1, 1, 1, 1])), shape=(6, 5))
    decaying = {"optimizer": fo.AdamW(weight_decay=0.5)}
    expected = stepped(
        fo.RowGradient(np.zeros((1, 5)), np.array([1])), optimizer=fo.AdamW(weight_decay=0.5)
    )
    assert stepped(matrix, **decaying) == expected


@every_class
def test_no_rows(make: Callable[..., Any]) -> None:
    expected = stepped(fo.RowGradient(np.zeros((0, 5)), np.zeros(0, int)))
    assert stepped(make((6, 5))) == expected
    assert stepped(make((6, 0)), (6, 0)) == stepped(
        fo.RowGradient(np.zeros((0, 0)), np.zeros(0, int)), (6, 0)
    )


@every_dtype
def test_vectors(dtype: Any) -> None:
    full = np.array([0, 2.0, 0, -1.0, 0], dtype)
    expected = stepped(fo.RowGradient(full[[1, 3]], np.array([1, 3])), (5,))
    assert stepped(sparse.csr_array(full), (5,)) == expected


@pytest.mark.parametrize("of_indices", [np.int32, np.int64])
def test_room_beyond_the_elements(of_indices: Any) -> None:
    full = random(np.float32)
    expected = stepped(sparse.csr_array(full))
    matrix = sparse.csr_array(full)
    count = matrix.nnz
    matrix.data = np.concatenate([matrix.data, np.full(3, np.nan, np.float32)])
    matrix.indices = np.concatenate([matrix.indices, [9, -1, 2]]).astype(of_indices)
    matrix.indptr = matrix.indptr.astype(of_indices)
    assert matrix.nnz == count
    assert stepped(matrix) == expected


FORMATS = ["csc", "coo", "bsr", "dia", "dok", "lil"]


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("make", [sparse.csr_array, sparse.csr_matrix])
def test_other_formats_are_refused(make: Callable[..., Any], format_: str) -> None:
    full = random(np.float64)
    w = np.ones((6, 5))
    optimizer = fo.SGD()
    optimizer.build({"table": w})
    given = make(full).asformat(format_)
    with pytest.raises(TypeError) as caught:
        optimizer.apply([given])
    assert str(caught.value) == (
        "gradient of variable 0 ('table'): expected a dense gradient or whole rows, found a "
        f"{type(given).__name__}; give its .tocsr(), or its .toarray(), which is dense"
    )
    optimizer.apply([given.tocsr()])
    assert np.array_equal(w == 1, full == 0)


def damaged(**parts: Any) -> Any:
    matrix = sparse.csr_array(random(np.float64))
    for name, part in parts.items():
        setattr(matrix, name, part)
    return matrix


CSR = sparse.csr_array(random(np.float64))
DAMAGED: dict[str, dict[str, Any]] = {
    "column": {"indices": np.where(np.arange(CSR.nnz) == 3, 5, CSR.indices)},
    "far_column": {
        "indices": np.where(np.arange(CSR.nnz) == 3, 2**40, CSR.indices.astype(np.int64))
    },
    "negative_column": {"indices": np.where(np.arange(CSR.nnz) == 0, -1, CSR.indices)},
    "few_columns": {"indices": CSR.indices[:-1]},
    "few_values": {"data": CSR.data[:-1]},
    "few_rows": {"indptr": CSR.indptr[:-1]},
    "start": {"indptr": CSR.indptr + 1},
    "descending": {"indptr": CSR.indptr[::-1]},
    "beyond": {"indptr": np.where(np.arange(7) == 6, 2**40, CSR.indptr.astype(np.int64))},
    "back_and_forth": {"indptr": np.where(np.arange(7) == 2, -5, CSR.indptr)},
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_matrices_are_refused(name: str) -> None:
    w = np.ones((6, 5))
    optimizer = fo.Adam()
    optimizer.build({"table": w})
    before = [x.tobytes() for x in optimizer.variables]
    message = r"^gradient of variable 0 \('table'\): expected indptr, indices and data that fit"
    with pytest.raises(ValueError, match=message):
        optimizer.apply([damaged(**DAMAGED[name])])
    assert (w == 1).all()
    assert [x.tobytes() for x in optimizer.variables] == before


def test_what_else_is_refused() -> None:
    w = np.ones((6, 5))
    optimizer = fo.Adam()
    optimizer.build({"table": w, "other": np.ones(2)})
    for value, error, message in (
        (sparse.csr_array((5, 6)), ValueError, r"expected shape \(6, 5\), found \(5, 6\)"),
        (sparse.csr_array((1, 5)), ValueError, r"expected shape \(6, 5\), found \(1, 5\)"),
        (sparse.csr_array(np.ones((6, 5), int)), TypeError, r"values: expected float16.*int64"),
        (sparse.csr_array(np.ones((6, 5), complex)), TypeError, r"values: expected .*complex128"),
        (sparse.csr_array(np.ones((6, 5), bool)), TypeError, r"values: expected float16.*bool"),
    ):
        with pytest.raises(error, match=rf"^gradient of variable 0 \('table'\).*{message}"):
            optimizer.apply({"table": value})
    with pytest.raises(TypeError, match="grads: expected a sequence of arrays, found csr_array"):
        optimizer.apply(sparse.csr_array((2, 5)))
    assert (w == 1).all()


def test_as_a_variable_it_is_refused() -> None:
    with pytest.raises(
        TypeError, match="variable 0: expected .*found csr_array; give its .toarray"
    ):
        fo.Adam().build([sparse.csr_array((6, 5))])
