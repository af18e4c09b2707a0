"""Row gradients that a step refuses: the error names the variable, what was found and what to do; nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from subject import FLOATS, NAMES, OPTIMIZERS, OTHER_DTYPES, Elsewhere, Subject

WHOLE = [kind for kind in OPTIMIZERS if "accumulation" not in kind]
WHO = "gradient of variable 0 ('kernel')"  # of shape (2, 3)
ONE = np.array([1])
VALUES = np.ones((1, 3), np.float32)


@pytest.fixture(params=WHOLE)
def subject(request: pytest.FixtureRequest) -> Subject:
    return Subject(request.param)


def in_a_list(subject: Subject, gradients: list[Any]) -> None:
    subject.optimizer.apply(gradients)


def by_name(subject: Subject, gradients: list[Any]) -> None:
    subject.optimizer.apply(dict(zip(NAMES, gradients, strict=True)))


def some_by_name(subject: Subject, gradients: list[Any]) -> None:
    subject.optimizer.apply({"gain": gradients[2], "kernel": gradients[0]})


def beside_variables(subject: Subject, gradients: list[Any]) -> None:
    subject.optimizer.apply(gradients[::-1], subject.variables[::-1])


WAYS = [in_a_list, by_name, some_by_name, beside_variables]


def refuse(
    subject: Subject,
    values: Any,
    indices: Any,
    error: type[Exception],
    *parts: str,
    way: Callable[[Subject, list[Any]], None] = in_a_list,
) -> None:
    gradients: list[Any] = subject.gradients()
    gradients[0] = fo.RowGradient(values, indices)
    with subject.refuses(error, "variable 0 ('kernel')", *parts):
        way(subject, gradients)


# Which rows

OUTSIDE: dict[str, tuple[Any, str, int]] = {
    "next": ([2], "2", 0),
    "large": ([0, 1, 2**31 - 1], "2147483647", 2),
    "negative": ([1, -1], "-1", 1),
    "lowest": ([-(2**31), 0], "-2147483648", 0),
    "first_of_several": ([0, 7, 5, -3], "7", 1),
}


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("way", WAYS)
def test_rows_that_the_variable_does_not_have(way: Any, name: str, dtype: Any) -> None:
    indices, found, position = OUTSIDE[name]
    values = np.ones((len(indices), 3), np.float32)
    parts = "expected row indices from 0 to 1", "2 rows", f"found {found} at position {position}"
    refuse(Subject("adamw"), values, np.array(indices, dtype), ValueError, *parts, way=way)


def test_rows_in_every_optimizer(subject: Subject) -> None:
    refuse(subject, VALUES, np.array([2]), ValueError, WHO, "from 0 to 1", "found 2 at position 0")


@pytest.mark.parametrize("index", [2**31, 2**32, 2**32 + 1, 2**63 - 1, -(2**63)])
def test_indices_that_32_bits_would_cut_off(index: int) -> None:
    parts = "expected row indices from 0 to 1", f"found {index} at position 1"
    values = np.ones((2, 3))
    refuse(Subject("adamw"), values, np.array([0, index]), ValueError, *parts)


def test_rows_of_a_variable_without_any() -> None:
    empty = np.ones((0, 3))
    optimizer = fo.Adam()
    optimizer.build({"empty": empty})
    optimizer.apply({"empty": fo.RowGradient(np.ones((0, 3)), np.zeros(0, int))})
    with pytest.raises(ValueError, match=r"variable 0 \('empty'\).*found 0 at position 0"):
        optimizer.apply({"empty": fo.RowGradient(np.ones((1, 3)), np.zeros(1, int))})
    assert optimizer.iterations == 1


def test_a_variable_without_dimensions_has_no_rows(subject: Subject) -> None:
    gradients: list[Any] = subject.gradients()
    for values, indices in ((np.ones(1), ONE), (np.ones(0), np.zeros(0, int)), (np.ones(()), ONE)):
        gradients[2] = fo.RowGradient(values, indices)
        with subject.refuses(ValueError, "gradient of variable 2 ('gain')", "expected", "found"):
            subject.optimizer.apply(gradients)


# Shapes


@pytest.mark.parametrize(
    "shape", [(1,), (3,), (1, 2), (1, 4), (1, 3, 1), (1, 1, 3), (3, 1), (), (1, 0)], ids=str
)
def test_shape_of_the_values(shape: tuple[int, ...]) -> None:
    indices = np.zeros(shape[0] if shape else 1, int)
    parts = WHO, "expected", f"found {shape}"
    refuse(Subject("adamw"), np.ones(shape), indices, ValueError, *parts)


@pytest.mark.parametrize("counts", [(0, 1), (1, 0), (2, 1), (1, 2), (3, 2)], ids=str)
def test_as_many_indices_as_values(counts: tuple[int, int]) -> None:
    of_values, of_indices = counts
    parts = WHO, f"expected values of shape ({of_indices}, 3)", f"found ({of_values}, 3)"
    refuse(Subject("adamw"), np.ones((of_values, 3)), np.zeros(of_indices, int), ValueError, *parts)


@pytest.mark.parametrize("shape", [(1, 1), (), (1, 2), (2, 1)], ids=str)
def test_rank_of_the_indices(shape: tuple[int, ...]) -> None:
    parts = WHO, "expected", "one dimension", f"found shape {shape}"
    refuse(Subject("adamw"), VALUES, np.zeros(shape, int), ValueError, *parts)


# What the parts are


@pytest.mark.parametrize(
    "dtype", [d for d in OTHER_DTYPES if d not in ("int32", "int64")] + ["f2", "f4", "f8", ">i4"]
)
def test_dtype_of_the_indices(dtype: str) -> None:
    indices = np.zeros(1, dtype)
    parts = f"{WHO}, indices: expected int32 or int64", f"found dtype {indices.dtype}; "
    refuse(Subject("adamw"), VALUES, indices, TypeError, *parts)


@pytest.mark.parametrize(
    ("indices", "advice"),
    [
        (np.array([0.0]), "convert them with .astype(numpy.int64)"),
        (np.array([1], np.uint64), "convert them with .astype(numpy.int64)"),
        (np.array([1], object), "convert them with .astype(numpy.int64)"),
        (np.array([1], np.int8), "convert them with .astype(numpy.int64)"),
        (np.array([1], ">i8"), "convert them with .astype('int64')"),
        (np.array([1], ">i4"), "convert them with .astype(numpy.int64)"),
        (np.array([True, False]), "give numpy.flatnonzero of it"),
        (np.array(["1"]), "give an array of integers"),
        (np.zeros(1, [("row", int)]), "give an array of integers"),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")),
)
def test_what_to_do_about_indices(indices: Any, advice: str) -> None:
    refuse(Subject("adamw"), VALUES, indices, TypeError, f"found dtype {indices.dtype}; {advice}")


def test_dtype_of_the_indices_in_every_optimizer(subject: Subject) -> None:
    refuse(subject, VALUES, np.array([0.0]), TypeError, f"{WHO}, indices: ", "found dtype float64")


@pytest.mark.parametrize("dtype", OTHER_DTYPES)
def test_dtype_of_the_values(dtype: str) -> None:
    values = np.zeros((1, 3), dtype)
    parts = f"{WHO}, values: expected {FLOATS}", f"found dtype {values.dtype}"
    refuse(Subject("adamw"), values, ONE, TypeError, *parts)


NO_ARRAYS: list[tuple[Any, str]] = [
    ([1], "found list; give numpy.array of it, with dtype=numpy."),
    ((1,), "found tuple; give numpy.array of it, with dtype=numpy."),
    (range(1), "found range; give numpy.array of it, with dtype=numpy."),
    (1, "found int; give numpy.array of it, with dtype=numpy."),
    (None, "found NoneType; give a numpy.ndarray"),
    ({0: 1}, "found dict; give one array here"),
    ({0}, "found set; give a numpy.ndarray"),
    ("1", "found str; give the array itself"),
    (Elsewhere(), "found Elsewhere"),
    (fo.RowGradient(VALUES, ONE), "found RowGradient; give a numpy.ndarray"),
    (SimpleNamespace(values=VALUES, indices=ONE), "found SimpleNamespace; give a numpy.ndarray"),
]


@pytest.mark.parametrize(("part", "found"), NO_ARRAYS, ids=lambda x: type(x).__name__)
def test_parts_that_are_no_arrays(part: Any, found: str) -> None:
    found_in_values, found_in_indices = found, found
    if found.endswith("numpy."):
        found_in_values, found_in_indices = found + "float32", found + "int64"
    subject = Subject("adamw")
    refuse(subject, part, ONE, TypeError, f"{WHO}, values: expected ", found_in_values)
    refuse(subject, VALUES, part, TypeError, f"{WHO}, indices: expected ", found_in_indices)


def test_parts_that_are_put_together_otherwise() -> None:
    subject = Subject("adamw")
    with pytest.raises(TypeError, match=r"; give fusedopt\.RowGradient\(values, indices\) for"):
        subject.optimizer.apply([(VALUES, ONE), *[None] * (len(subject.variables) - 1)])
    refuse(subject, ONE, VALUES, TypeError, f"{WHO}: expected RowGradient(values, indices), found")
    batches = np.zeros((2, 3), np.int64)
    refuse(subject, VALUES, batches, ValueError, "found shape (2, 3); give indices.reshape(-1)")


def test_masked_parts() -> None:
    subject = Subject("loss_scale")
    expected = "expected an array without a mask, found MaskedArray; give .data"
    for mask in (False, True):
        values = np.ma.MaskedArray(VALUES, mask=mask)
        parts = f"{WHO}, values: {expected}", ".filled(0)"
        refuse(subject, values, ONE, TypeError, *parts)
        indices = np.ma.MaskedArray(ONE, mask=mask)
        parts = f"{WHO}, indices: {expected}", ".compressed()"
        refuse(subject, VALUES, indices, TypeError, *parts)


def test_parts_of_which_one_is_missing() -> None:
    subject = Subject("adamw")
    gradients: list[Any] = subject.gradients()
    for part in ("values", "indices"):
        gradients[0] = SimpleNamespace(**{part: VALUES})
        with subject.refuses(TypeError, WHO, "found SimpleNamespace"):
            subject.optimizer.apply(gradients)
        whole = fo.RowGradient(VALUES, ONE)
        delattr(whole, part)
        gradients[0] = whole
        with subject.refuses(AttributeError, part):
            subject.optimizer.apply(gradients)


# Sparse in another way


class Sparse:
    """SciPy's attributes that matter."""

    def __init__(self, format: str) -> None:  # noqa: A002
        self.format, self.shape = format, (2, 3)
        self.data, self.indices, self.indptr = np.ones(1), np.zeros(1, int), np.array([0, 1, 1, 1])

    def tocsr(self) -> Any:
        raise AssertionError("nothing is converted in silence")

    toarray = tocsr


@pytest.mark.parametrize("format_", ["csc", "coo", "bsr", "dia", "dok", "lil"])
def test_other_formats(subject: Subject, format_: str) -> None:
    gradients: list[Any] = subject.gradients()
    gradients[0] = Sparse(format_)
    with subject.refuses(TypeError, WHO) as caught:
        subject.optimizer.apply(gradients)
    assert str(caught.value) == (
        f"{WHO}: expected a dense gradient or whole rows, found a Sparse; give its .tocsr(), or its "
        ".toarray(), which is dense"
    )


# What takes no row gradients


@pytest.mark.parametrize("kind", [kind for kind in OPTIMIZERS if "accumulation" in kind])
def test_accumulation(kind: str) -> None:
    parts = WHO, "expected a dense", "gradient_accumulation_steps", "found one of rows; give"
    refuse(Subject(kind), VALUES, ONE, ValueError, *parts)


@pytest.mark.parametrize("rule", ["Lamb", "Adafactor", "Muon"])
def test_rules_that_need_the_whole_variable(rule: str) -> None:
    kernel, before = np.ones((2, 3)), np.ones((2, 3))
    optimizer = getattr(fo, rule)()
    optimizer.build({"kernel": kernel})
    state = [x.tobytes() for x in optimizer.variables]
    with pytest.raises(ValueError, match=r"variable 0 \('kernel'\).*" + rule):
        optimizer.apply({"kernel": fo.RowGradient(VALUES, ONE)})
    assert kernel.tobytes() == before.tobytes()
    assert [x.tobytes() for x in optimizer.variables] == state


def test_muon_takes_rows_of_what_is_no_matrix() -> None:
    embedding, vector = np.ones((2, 3)), np.ones(2)
    optimizer = fo.Muon()
    optimizer.build({"embedding": embedding, "vector": vector})
    optimizer.apply(
        {"embedding": fo.RowGradient(VALUES, ONE), "vector": fo.RowGradient(np.ones(1), ONE)}
    )
    assert (embedding[0] == 1).all()
    assert (embedding[1] < 1).all()
    assert vector[0] == 1 > vector[1]


# Memory


@pytest.mark.parametrize("kind", ["adamw", "loss_scale"])
def test_values_in_a_variable(kind: str) -> None:
    subject = Subject(kind)
    parts = WHO, "overlapping variable 0 ('kernel')"
    refuse(subject, subject.variables[0][:1], ONE, ValueError, *parts)


@pytest.mark.parametrize("kind", ["adamw", "loss_scale"])
def test_values_in_the_state(kind: str) -> None:
    subject = Subject(kind)
    slot = next(x for x in subject.optimizer.variables if x.shape == (2, 3))
    refuse(subject, slot[:1], ONE, ValueError, WHO, "apart from the optimizer's state")


def test_indices_may_lie_anywhere() -> None:
    table = np.arange(4.0)
    optimizer = fo.SGD(1.0)
    optimizer.build({"table": table})
    indices = table.view(np.int64)[:1]  # copied before the row is written
    assert indices.tolist() == [0]
    optimizer.apply({"table": fo.RowGradient(np.ones(1), indices)})
    assert table.tolist() == [-1.0, 1.0, 2.0, 3.0]
