"""Parts of row gradients that are no arrays, and sparse gradients as other libraries hold them."""

from __future__ import annotations

import array
from collections import namedtuple
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import fusedopt as fo
import ml_dtypes
import numpy as np
import pytest
from reference import Array
from rows import every_optimizer

VALUES = np.linspace(-1, 1, 8).reshape(4, 2).astype(np.float32)
INDICES = np.array([4, 0, 4, 3])


def table() -> Array:
    return np.linspace(0, 1, 10, dtype=np.float32).reshape(5, 2)


def stepped(make: Callable[[], Any], gradient: Any, w: Array | None = None) -> bytes:
    """The bits of the table after two steps with one gradient, and those of the state."""
    w = table() if w is None else w
    optimizer = make()
    optimizer.build({"table": w})
    for _ in range(2):
        optimizer.apply({"table": gradient})
        optimizer.apply([gradient])
    return b"".join(x.tobytes() for x in [w, *optimizer.variables])


class Exchanged:
    """Offers memory by DLPack's method only."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __dlpack__(self, **how: Any) -> Any:
        return self.array.__dlpack__(**how)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


class Interface:
    """Offers memory by `__array_interface__` only."""

    def __init__(self, array: Array) -> None:
        self.array = array
        self.__array_interface__ = array.__array_interface__


class Converted:
    """Gives an array."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return self.array


class Subclass(np.ndarray[Any, Any]):
    """An array with more to it."""


HOLDERS: dict[str, Callable[[Array], Any]] = {
    "dlpack": Exchanged,
    "interface": Interface,
    "array": Converted,
    "memoryview": memoryview,
    "subclass": lambda x: x.view(Subclass),
}


@pytest.mark.parametrize("of_values", HOLDERS.values(), ids=HOLDERS)
@pytest.mark.parametrize("of_indices", HOLDERS.values(), ids=HOLDERS)
def test_parts_that_are_no_plain_arrays(
    of_values: Callable[[Array], Any], of_indices: Callable[[Array], Any]
) -> None:
    expected = stepped(fo.Adam, fo.RowGradient(VALUES, INDICES))
    gradient = fo.RowGradient(of_values(VALUES), of_indices(INDICES))
    assert stepped(fo.Adam, gradient) == expected


@pytest.mark.parametrize("holder", HOLDERS.values(), ids=HOLDERS)
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.longlong, np.intc, np.int_])
def test_types_of_indices(holder: Callable[[Array], Any], dtype: Any) -> None:
    expected = stepped(fo.Adam, fo.RowGradient(VALUES, INDICES))
    assert stepped(fo.Adam, fo.RowGradient(VALUES, holder(INDICES.astype(dtype)))) == expected


@pytest.mark.parametrize("code", ["i", "l", "q"])
def test_indices_in_an_array_of_python(code: str) -> None:
    expected = stepped(fo.Adam, fo.RowGradient(VALUES, INDICES))
    indices = array.array(code, INDICES.tolist())
    assert stepped(fo.Adam, fo.RowGradient(VALUES, indices)) == expected


def test_strided_indices_of_another_library() -> None:
    expected = stepped(fo.Adam, fo.RowGradient(VALUES, INDICES))
    for indices in (np.repeat(INDICES, 3)[::3], np.ascontiguousarray(INDICES[::-1])[::-1]):
        assert stepped(fo.Adam, fo.RowGradient(VALUES, Exchanged(indices))) == expected


# What has values and indices


Slices = namedtuple("Slices", ["values", "indices"])  # noqa: PYI024


class IndexedSlices:
    """As TensorFlow has them: the parts are properties."""

    def __init__(self, values: Any, indices: Any, dense_shape: Any = None) -> None:
        self._parts = values, indices, dense_shape

    values = property(lambda self: self._parts[0])
    indices = property(lambda self: self._parts[1])
    dense_shape = property(lambda self: self._parts[2])
    name = "gradient"


SLICES: dict[str, Any] = {
    "namespace": SimpleNamespace(values=VALUES, indices=INDICES),
    "namedtuple": Slices(VALUES, INDICES),
    "without_shape": IndexedSlices(VALUES, INDICES),
    "shape_list": IndexedSlices(VALUES, INDICES, [5, 2]),
    "shape_array": IndexedSlices(VALUES, INDICES, np.array([5, 2])),
    "of_other_objects": IndexedSlices(Converted(VALUES), Exchanged(INDICES), (5, 2)),
}


@pytest.mark.parametrize("name", SLICES)
@every_optimizer
def test_objects_with_values_and_indices(make: Callable[[], Any], name: str) -> None:
    expected = stepped(make, fo.RowGradient(VALUES, INDICES))
    assert stepped(make, SLICES[name]) == expected


def test_they_are_taken_beside_variables() -> None:
    w, other = table(), table()
    optimizer, plain = fo.Adam(), fo.Adam()
    optimizer.build([w])
    plain.build([other])
    optimizer.apply([SLICES["shape_list"]], [w])
    optimizer.apply_gradients([(SLICES["namespace"], w)])
    new, _ = optimizer.stateless_apply(optimizer.variables, [SLICES["namedtuple"]], [w])
    for _ in range(2):
        plain.apply([fo.RowGradient(VALUES, INDICES)])
    assert w.tobytes() == other.tobytes()
    plain.apply([fo.RowGradient(VALUES, INDICES)])
    assert new[0].tobytes() == other.tobytes()


def test_an_array_with_such_attributes_is_dense() -> None:
    class Frame(Converted):
        values = VALUES
        indices = INDICES

    class Labelled(Subclass):
        values = VALUES
        indices = INDICES

    full = np.ones((5, 2), np.float32)
    expected = stepped(fo.Adam, full)
    assert stepped(fo.Adam, Frame(full)) == expected
    assert stepped(fo.Adam, full.view(Labelled)) == expected


@pytest.mark.parametrize("shape", [(4, 2), (5, 3), (5,), (5, 2, 1), ()], ids=str)
@pytest.mark.parametrize("beside_variables", [False, True])
def test_another_shape_is_refused(shape: tuple[int, ...], beside_variables: bool) -> None:
    w = table()
    optimizer = fo.Adam()
    optimizer.build({"other": np.ones(2), "table": w})
    given = IndexedSlices(VALUES[:1], INDICES[1:2], shape)
    with pytest.raises(ValueError, match="gradient") as caught:
        if beside_variables:
            optimizer.apply([given], [w])
        else:
            optimizer.apply({"table": given})
    message = f"variable 1 ('table'): expected shape (5, 2), found {shape}"
    assert str(caught.value).endswith(message)
    assert w.tobytes() == table().tobytes()


def test_the_gradient_itself_is_no_list_of_gradients() -> None:
    optimizer = fo.Adam()
    optimizer.build([np.ones(2), np.ones(2)])
    for given in (fo.RowGradient(np.ones(1), np.zeros(1, int)), Slices(np.ones(2), np.ones(2))):
        message = f"grads: expected a sequence of arrays, found {type(given).__name__}; put it"
        with pytest.raises(TypeError, match=message):
            optimizer.apply(given)


# JAX's BCOO


class Bcoo:
    """The attributes of JAX's class that matter."""

    def __init__(self, data: Any, indices: Any, shape: tuple[int, ...], n_batch: int = 0) -> None:
        self.data, self.indices, self.shape = data, indices, shape
        self.n_batch, self.n_sparse = n_batch, indices.shape[-1]

    def __len__(self) -> int:
        return self.shape[0]

    def todense(self) -> Array:
        raise AssertionError("a step does not make it dense")


@pytest.mark.parametrize("of_values", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("of_indices", [np.int32, np.int64])
@every_optimizer
def test_bcoo(make: Callable[[], Any], of_values: Any, of_indices: Any) -> None:
    values, indices = VALUES.astype(of_values), INDICES.astype(of_indices)
    expected = stepped(make, fo.RowGradient(values, indices))
    assert stepped(make, Bcoo(values, indices[:, None], (5, 2))) == expected
    padded = np.concatenate([[5], indices[:2], [5], indices[2:], [5, 5]])[:, None]
    data = np.full((8, 2), np.nan).astype(of_values)
    data[padded[:, 0] != 5] = values
    assert stepped(make, Bcoo(data, padded, (5, 2))) == expected


def test_bcoo_that_is_not_of_rows() -> None:
    w = table()
    optimizer = fo.Adam()
    optimizer.build({"table": w})
    elements = Bcoo(np.ones(1, np.float32), np.array([[0, 1]]), (5, 2))
    batches = Bcoo(np.ones((5, 1), np.float32), np.zeros((5, 1, 1), int), (5, 2), n_batch=1)
    for given, n_batch, n_sparse in ((elements, 0, 2), (batches, 1, 1)):
        with pytest.raises(TypeError, match="table") as caught:
            optimizer.apply([given])
        assert str(caught.value) == (
            "gradient of variable 0 ('table'): expected a dense gradient or whole rows, found a Bcoo with "
            f"n_batch {n_batch} and n_sparse {n_sparse}; give its .todense(), or one with n_batch 0 and n_sparse 1"
        )
    beyond = Bcoo(np.ones((1, 2), np.float32), np.array([[6]]), (5, 2))
    with pytest.raises(ValueError, match=r"variable 0 \('table'\): expected row indices .*found 6"):
        optimizer.apply([beyond])
    with pytest.raises(ValueError, match=r"expected shape \(5, 2\), found \(6, 2\)"):
        optimizer.apply([Bcoo(np.ones((1, 2), np.float32), np.array([[0]]), (6, 2))])
    assert w.tobytes() == table().tobytes()
