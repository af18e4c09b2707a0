"""Variables that `build` refuses, and built ones that can no longer be written."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from reference import Array
from sample_arrays import misaligned
from subject import FLOATS, OPTIMIZERS, OTHER_DTYPES, Elsewhere, Subject, four_variables


def read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array


class Copying:
    """Not a view of its memory: every conversion is a copy."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return np.ones(2)


VARIABLES: list[tuple[str, Any, type[Exception], list[str]]] = [
    ("read_only", read_only(np.ones(2)), ValueError, ["writable", "read-only"]),
    ("broadcast", np.broadcast_to(1.0, 3), ValueError, ["writable", "read-only"]),
    ("bytes", np.frombuffer(bytes(8), np.float32), ValueError, ["writable", "read-only"]),
    ("strided", np.ones(6)[::2], ValueError, ["C-contiguous", "strided", "shape (3,)"]),
    ("reversed", np.ones(3)[::-1], ValueError, ["C-contiguous", "strided", "shape (3,)"]),
    ("transposed", np.ones((2, 3)).T, ValueError, ["C-contiguous", "strided", "shape (3, 2)"]),
    ("columns", np.ones((3, 3))[:, :2], ValueError, ["C-contiguous", "strided", "shape (3, 2)"]),
    ("fortran", np.ones((2, 2), order="F"), ValueError, ["C-contiguous", "strided"]),
    ("misaligned", misaligned(np.ones(2)), ValueError, ["aligned", "8 bytes", "misaligned"]),
    ("misaligned_half", misaligned(np.ones(2, np.float16)), ValueError, ["aligned", "2 bytes"]),
    ("scalar", np.float32(1.0), TypeError, ["shares its memory", "float32", "copy"]),
    ("copying", Copying(), TypeError, ["shares its memory", "Copying", "copy"]),
    ("device", Elsewhere(), TypeError, ["CPU memory", "Elsewhere"]),
    ("float", 1.0, TypeError, ["numpy.ndarray", "found float"]),
    ("list", [1.0, 2.0], TypeError, ["numpy.ndarray", "found list"]),
    ("none", None, TypeError, ["numpy.ndarray", "found NoneType"]),
    ("text", "w", TypeError, ["numpy.ndarray", "found str"]),
    ("bytearray", bytearray(8), TypeError, [FLOATS, "found dtype uint8"]),
    *(
        (dtype, np.zeros(2, dtype), TypeError, [FLOATS, f"found dtype {np.dtype(dtype)}"])
        for dtype in OTHER_DTYPES
    ),
]


@pytest.mark.parametrize(
    ("variable", "error", "parts"),
    [pytest.param(*row[1:], id=row[0]) for row in VARIABLES],
)
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("kind", ["momentum", "loss_scale"])
def test_variable_at_build(
    kind: str, named: bool, variable: Any, error: type[Exception], parts: list[str]
) -> None:
    good = np.array([1.0, 2.0])
    optimizer, expected = OPTIMIZERS[kind](), OPTIMIZERS[kind]()
    bad: Any = {"good": good, "odd": variable} if named else [good, variable]
    with pytest.raises(error) as caught:
        optimizer.build(bad)
    who = "variable 1 ('odd'): expected" if named else "variable 1: expected"
    assert [part for part in [who, *parts] if part not in str(caught.value)] == [], caught.value
    if not isinstance(variable, str):  # else the array is there, and was not given
        assert str(caught.value).endswith(", and use that array in the model, too")
    assert not optimizer.built
    if not named:
        with pytest.raises(error, match="variable 1: expected"):
            optimizer.apply([np.ones(2), np.ones(2)], bad)
        assert not optimizer.built
    assert good.tolist() == [1.0, 2.0]

    other = good.copy()
    optimizer.build([good])
    expected.build([other])
    optimizer.apply([np.array([1.0, -3.0])])
    expected.apply([np.array([1.0, -3.0])])
    assert good.tobytes() == other.tobytes()
    assert good.tolist() != [1.0, 2.0]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize(
    "make",
    [
        lambda w: w,
        lambda w: w[:],
        lambda w: w[3:],
        lambda w: w[5:],
        lambda w: w.view(np.float32)[7:9],
        lambda w: w.view(np.uint8)[4:8].view(np.float32),
    ],
    ids=["same", "view", "half", "end", "float32", "inside"],
)
def test_overlapping_variables(make: Callable[[Array], Array], order: tuple[int, int]) -> None:
    w = np.ones(6)
    both = [w, make(w)]
    optimizer = fo.SGD()
    with pytest.raises(ValueError, match=r"variable 2 \('c'\)") as caught:
        optimizer.build({"a": np.ones(3), "b": both[order[0]], "c": both[order[1]]})
    assert "overlapping variable 1 ('b')" in str(caught.value)
    assert not optimizer.built


@pytest.mark.parametrize("variables", [np.ones((2, 2)), "ab", b"ab", 5, None], ids=repr)
@pytest.mark.parametrize("kind", ["sgd", "loss_scale"])
def test_build_on_no_sequence(kind: str, variables: Any) -> None:
    found = f"expected a sequence or dict of arrays, found {type(variables).__name__}"
    optimizer = OPTIMIZERS[kind]()
    with pytest.raises(TypeError, match=found):
        optimizer.build(variables)
    assert not optimizer.built


def test_names_that_are_no_strings() -> None:
    with pytest.raises(TypeError, match="variable name: expected a string, found 3"):
        fo.SGD().build({3: np.ones(2)})  # type: ignore[dict-item]


def test_build_on_other_variables(subject: Subject) -> None:
    for others in (four_variables(), subject.variables[1:], subject.variables[:2], []):
        with subject.refuses(ValueError, "built already, on 4 variables"):
            subject.optimizer.build(others)


@pytest.mark.parametrize("size", [2, 6, 1000])
@pytest.mark.parametrize("refcheck", [True, False])
def test_variable_cannot_be_resized(subject: Subject, size: int, refcheck: bool) -> None:
    w = np.ones(4)
    optimizer = type(subject.optimizer).from_config(subject.optimizer.get_config())
    optimizer.build([w])
    optimizer.apply([np.ones(4)])
    before = w.copy()
    with pytest.raises(ValueError, match="cannot resize"):
        w.resize(size, refcheck=refcheck)
    assert np.array_equal(w, before)
    for _ in range(4):
        optimizer.apply([np.ones(4)])
    assert (w < before).all()
    del optimizer
    gc.collect()
    w.resize(size, refcheck=False)
    assert w.size == size


@pytest.mark.parametrize("size", [2, 1000])
def test_variable_moved_after_build(subject: Subject, size: int) -> None:
    kernel, w = np.ones(2), np.ones(4)
    optimizer = type(subject.optimizer).from_config(subject.optimizer.get_config())
    optimizer.build({"kernel": kernel, "moved": w})
    optimizer.apply([np.ones(2), np.ones(4)])
    state = [array.copy() for array in optimizer.variables]
    other = np.arange(float(size))
    w.__setstate__(
        (1, other.shape, other.dtype, False, other.tobytes())
    )  # numpy < 2.4: .data = other.data, too
    who = r"variable 1 \('moved'\): expected the memory it was built with"
    for gradient in (np.ones(4), np.ones(size)):
        with pytest.raises(ValueError, match=who):
            optimizer.apply([np.ones(2), gradient])
        with pytest.raises(ValueError, match=who):
            optimizer.apply([np.ones(2)], [kernel])
    with pytest.raises(ValueError, match=who):
        optimizer.finalize_variable_values([kernel, w])
    assert np.array_equal(w, other)
    for array, old in zip(optimizer.variables, state, strict=True):
        assert np.array_equal(array, old)


def test_variable_made_read_only_after_build(subject: Subject) -> None:
    w = subject.variables[1]
    who = "variable 1 ('bias'): expected writable memory, found it made read-only after build"
    calls: list[Callable[[], Any]] = [
        lambda: subject.optimizer.apply(subject.gradients()),
        lambda: subject.optimizer.apply(subject.gradients()[:1], subject.variables[:1]),
        lambda: subject.optimizer.finalize_variable_values(subject.variables),
    ]
    for call in calls:
        with subject.refuses(ValueError, who):
            w.flags.writeable = False
            try:
                call()
            finally:
                w.flags.writeable = True


def test_variable_of_a_group_made_read_only_after_build() -> None:
    w, x = np.ones(2), np.ones(3)
    optimizer = fo.MultiOptimizer(fo.OptimizerMap(fo.Adam(), {"w": fo.SGD()}))
    optimizer.build({"w": w, "x": x})
    x.flags.writeable = False
    for subject in (optimizer, fo.LossScaleOptimizer(optimizer), optimizer.optimizers[1]):
        count = 1 if subject is optimizer.optimizers[1] else 2
        with pytest.raises(ValueError, match=r"\('x'\): expected writable memory"):
            subject.apply([np.ones(2), np.ones(3)][-count:])
    assert w.tolist() == [1.0] * 2
    assert x.tolist() == [1.0] * 3
    x.flags.writeable = True
    optimizer.apply([np.ones(2), np.ones(3)])
    assert (w < 1.0).all()
    assert (x < 1.0).all()
