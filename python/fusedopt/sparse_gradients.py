"""Sparse gradients of other libraries, taken apart into values and row indices.

The compiled core asks here about objects that give no array by themselves. No library is imported: an object is known
by what it says of itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fusedopt.arrays import Array, as_array

Parts = tuple[Any, Any, "tuple[int, ...] | None"]


def parts_of(gradient: Any, who: str) -> Parts | None:
    """Take a gradient of rows apart.

    Returns
    -------
    tuple or None
        The values, the row indices, and the shape of the dense gradient if it is known. None if the object does not
        stand for rows.

    Raises
    ------
    TypeError, ValueError
        Naming `who`, if the object is sparse in another way, or damaged.
    """
    if getattr(gradient, "is_sparse", None) is True:
        return _of_sparse_coo(gradient, who)
    if _has(gradient, "values", "indices"):
        shape = getattr(gradient, "dense_shape", None)
        return gradient.values, gradient.indices, None if shape is None else _sizes(shape)
    if _has(gradient, "data", "indices", "n_batch", "n_sparse") and not hasattr(gradient, "indptr"):
        return _of_bcoo(gradient, who)
    if isinstance(getattr(gradient, "format", None), str) and hasattr(gradient, "tocsr"):
        return _of_scipy(gradient, who)
    return None


def _has(gradient: Any, *names: str) -> bool:
    return all(hasattr(gradient, name) and not callable(getattr(gradient, name)) for name in names)


def _sizes(shape: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in shape)


def _refused(who: str, found: str, advice: str) -> TypeError:
    return TypeError(
        f"{who}: expected a dense gradient or whole rows, found a {found}; give its {advice}"
    )


# PyTorch. Its public `indices` and `values` refuse tensors that are not coalesced, and to coalesce them takes longer
# than a step.
def _of_sparse_coo(tensor: Any, who: str) -> Parts:
    count = tensor.sparse_dim()
    if count != 1:
        found = f"{type(tensor).__name__} of layout {tensor.layout} with {count} sparse dimensions"
        raise _refused(who, found, ".to_dense(), or .to_dense().to_sparse(1) for its rows")
    return tensor._values(), tensor._indices()[0], _sizes(tensor.shape)


# JAX pads with the index that follows the last row.
def _of_bcoo(matrix: Any, who: str) -> Parts:
    if matrix.n_batch != 0 or matrix.n_sparse != 1:
        found = (
            f"{type(matrix).__name__} with n_batch {matrix.n_batch} and n_sparse {matrix.n_sparse}"
        )
        raise _refused(who, found, ".todense(), or one with n_batch 0 and n_sparse 1")
    shape = _sizes(matrix.shape)
    indices = as_array(matrix.indices, who)[:, 0]
    is_row = indices != shape[0]
    if is_row.all():
        return matrix.data, indices, shape
    return as_array(matrix.data, who)[is_row], indices[is_row], shape


def _of_scipy(matrix: Any, who: str) -> Parts:
    if matrix.format != "csr":
        raise _refused(who, type(matrix).__name__, ".tocsr(), or its .toarray(), which is dense")
    shape = _sizes(matrix.shape)
    data: Array = np.asarray(matrix.data)
    ends, columns = (np.array(part, np.int64) for part in (matrix.indptr, matrix.indices))
    if not _fit(ends, columns, data, shape):
        raise ValueError(
            f"{who}: expected indptr, indices and data that fit the shape {shape}, found a damaged "
            f"{type(matrix).__name__}; its .check_format() says more"
        )
    count = int(ends[-1])
    columns, data = columns[:count], data[:count]
    if len(shape) == 1:
        return data, columns, shape
    lengths = np.diff(ends)
    rows = np.flatnonzero(lengths)
    dtype = np.promote_types(data.dtype, np.float32) if data.dtype.kind == "f" else data.dtype
    values = np.zeros((rows.size, shape[1]), dtype)
    if values.size:
        places = np.repeat(np.arange(rows.size), lengths[rows]) * shape[1] + columns
        with np.errstate(all="ignore"):
            np.add.at(values.reshape(-1), places, data)
    return values, rows, shape


def _fit(ends: Array, columns: Array, data: Array, shape: tuple[int, ...]) -> bool:
    rows = shape[0] if len(shape) == 2 else 1
    if ends.shape != (rows + 1,) or columns.ndim != 1 or data.ndim != 1:
        return False
    if ends[0] != 0 or np.any(np.diff(ends) < 0) or ends[-1] > min(columns.size, data.size):
        return False
    used = columns[: ends[-1]]
    return not used.size or bool(used.min() >= 0 and used.max() < shape[-1])
