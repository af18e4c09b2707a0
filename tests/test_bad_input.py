"""Every refusal names what it refuses, what it found and what it expected, and changes nothing.

Everything after a refused call is compared with everything before it, bit by bit, and the next good
step with that of an optimizer that never saw the refused call.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import fusedopt as fo
import numpy as np
import numpy.typing as npt
import pytest

Array = npt.NDArray[Any]

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: fo.SGD(learning_rate=0.1),
    "momentum": lambda: fo.SGD(learning_rate=0.1, momentum=0.9, clipnorm=0.5),
    "rmsprop": lambda: fo.RMSprop(learning_rate=0.1, momentum=0.5, centered=True, clipvalue=0.4),
    "adamw": lambda: fo.AdamW(learning_rate=0.1, amsgrad=True, global_clipnorm=1.0),
    "ema": lambda: fo.Adam(learning_rate=0.1, use_ema=True, ema_overwrite_frequency=2),
    "accumulation": lambda: fo.Adam(
        learning_rate=0.1, use_ema=True, gradient_accumulation_steps=2, global_clipnorm=1.0
    ),
    "loss_scale": lambda: fo.LossScaleOptimizer(
        fo.Adam(learning_rate=0.1), initial_scale=8.0, dynamic_growth_steps=2
    ),
    "loss_scale_accumulation": lambda: fo.LossScaleOptimizer(
        fo.SGD(learning_rate=0.1, momentum=0.9, use_ema=True, gradient_accumulation_steps=3),
        initial_scale=8.0,
        dynamic_growth_steps=2,
    ),
}
NAMES = ["kernel", "bias", "gain", "half"]
FLOATS = "float16, bfloat16, float32 or float64"


def new_variables() -> list[Array]:
    return [
        np.linspace(-1.0, 1.0, 6, dtype=np.float32).reshape(2, 3),
        np.array([0.5, -2.0]),
        np.array(3.0, dtype=np.float32),
        np.array([1.0, -0.25, 8.0], dtype=np.float16),
    ]


class Subject:
    """An optimizer a few steps into its work, and everything a call of it could change."""

    def __init__(self, kind: str, optimizer: Any = None, steps: int = 3) -> None:
        self.variables = new_variables()
        self.optimizer = OPTIMIZERS[kind]() if optimizer is None else optimizer
        self.optimizer.build(dict(zip(NAMES, self.variables, strict=True)))
        self.twin: Subject | None = None
        for _ in range(steps):
            self.step()
        if optimizer is None:
            self.twin = Subject(kind, OPTIMIZERS[kind](), steps)

    def gradients(self) -> list[Any]:
        number = self.optimizer.iterations
        return [
            np.cos(np.arange(w.size) + number).reshape(w.shape).astype(w.dtype)
            for w in self.variables
        ]

    def step(self) -> None:
        self.optimizer.apply(self.gradients())

    def everything(self) -> list[Any]:
        numbers = [
            getattr(self.optimizer, name, None)
            for name in (
                "built",
                "iterations",
                "global_norm",
                "dynamic_scale",
                "step_counter",
                "consecutive_skipped_steps",
            )
        ]
        arrays = [*self.variables, *self.optimizer.variables]
        return [*(array.tobytes() for array in arrays), repr(numbers)]

    @contextlib.contextmanager
    def refuses(
        self, error: type[Exception], *parts: str
    ) -> Iterator[pytest.ExceptionInfo[Exception]]:
        """The body must raise `error`, with `parts` in its message, and leave no trace."""
        before = self.everything()
        with pytest.raises(error) as caught:
            yield caught
        assert type(caught.value) is error
        assert [part for part in parts if part not in str(caught.value)] == [], caught.value
        assert self.everything() == before
        if self.twin is not None:
            self.step()
            self.twin.step()
            assert self.everything() == self.twin.everything()


@pytest.fixture(params=OPTIMIZERS)
def subject(request: pytest.FixtureRequest) -> Subject:
    return Subject(request.param)


def misaligned(array: Array) -> Array:
    raw = np.zeros(array.nbytes + 1, dtype=np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


# Gradients


@pytest.mark.parametrize("count", [1, 3, 5])
def test_number_of_gradients(subject: Subject, count: int) -> None:
    gradients = (subject.gradients() * 2)[:count]
    with subject.refuses(ValueError, "expected 4 gradients", f"found {count}"):
        subject.optimizer.apply(gradients)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_number_of_gradients_beside_variables(subject: Subject, count: int) -> None:
    message = f"apply: expected 2 gradients, one for each variable, found {count}"
    with subject.refuses(ValueError, message) as caught:
        subject.optimizer.apply(subject.gradients()[:count], subject.variables[:2])
    assert str(caught.value) == message


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("kind", [*OPTIMIZERS, "multi_optimizer"])
def test_number_of_gradients_before_build(kind: str, count: int) -> None:
    optimizer: Any = (
        fo.MultiOptimizer(fo.OptimizerMap(fo.SGD()))
        if kind not in OPTIMIZERS
        else OPTIMIZERS[kind]()
    )
    variables = [np.ones(2), np.ones(3)]
    with pytest.raises(ValueError, match=f"expected 2 gradients, .* found {count}$"):
        optimizer.apply((np.ones(2) for _ in range(count)), variables)
    assert not optimizer.built
    optimizer.apply([np.ones(2), np.ones(3)], variables)
    assert optimizer.built


SHAPES = [(1,), (), (1, 1), (3, 2), (6,), (2, 3, 1), (0,), (4,), (1,) * 32]


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("beside_variables", [False, True])
def test_shape_of_a_gradient(position: int, shape: tuple[int, ...], beside_variables: bool) -> None:
    subject = Subject("adamw")
    gradients = subject.gradients()
    expected = gradients[position].shape
    shape = (7, 7) if shape == expected else shape
    gradients[position] = np.zeros(shape, dtype=np.float32)
    parts = f"gradient of variable {position} ('{NAMES[position]}')", f"expected shape {expected}"
    with subject.refuses(ValueError, *parts, f"found {shape}"):
        subject.optimizer.apply(gradients, subject.variables if beside_variables else None)


def test_shape_of_a_gradient_in_every_optimizer(subject: Subject) -> None:
    gradients = subject.gradients()
    gradients[1] = gradients[1][:, None]
    parts = "gradient of variable 1 ('bias')", "expected shape (2,)", "found (2, 1)"
    with subject.refuses(ValueError, *parts):
        subject.optimizer.apply(gradients)


LONG_DOUBLE = ["longdouble"] if np.dtype("longdouble").itemsize > 8 else []
DTYPES = [
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint64", "bool", *LONG_DOUBLE),
    *("complex64", "complex128", "object", "<U3", "S2", ">f2", ">f4", ">f8", "m8[s]", "V4"),
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_of_a_gradient(dtype: str) -> None:
    subject = Subject("loss_scale")
    gradients = subject.gradients()
    gradients[3] = np.zeros(3, dtype=dtype)
    parts = (
        "gradient of variable 3 ('half')",
        f"expected {FLOATS}",
        f"found dtype {np.dtype(dtype)}",
    )
    with subject.refuses(TypeError, *parts):
        subject.optimizer.apply(gradients)


def test_dtype_of_a_gradient_in_every_optimizer(subject: Subject) -> None:
    gradients = subject.gradients()
    gradients[0] = np.ones((2, 3), dtype=np.int32)
    parts = "gradient of variable 0 ('kernel')", f"expected {FLOATS}", "found dtype int32"
    with subject.refuses(TypeError, *parts):
        subject.optimizer.apply(gradients)


def test_dtype_of_a_gradient_beside_variables(subject: Subject) -> None:
    pairs = [
        (subject.gradients()[3], subject.variables[3]),
        (np.ones(2, dtype=np.int64), subject.variables[1]),
    ]
    with subject.refuses(TypeError, "gradient 1", f"expected {FLOATS}", "found dtype int64"):
        subject.optimizer.apply_gradients(pairs)


class Elsewhere:
    """Memory of another device."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        raise RuntimeError("on another device")


@pytest.mark.parametrize(
    ("gradient", "found"),
    [
        (1.5, "float"),
        ([1.0, 2.0], "list"),
        ("ab", "str"),
        (object(), "object"),
        (b"ab", "found dtype |S2"),
        (Elsewhere(), "Elsewhere"),
    ],
    ids=["float", "list", "str", "object", "bytes", "device"],
)
def test_gradient_that_is_no_array(subject: Subject, gradient: Any, found: str) -> None:
    gradients = subject.gradients()
    gradients[1] = gradient
    with subject.refuses(TypeError, "gradient of variable 1 ('bias')", "expected", found):
        subject.optimizer.apply(gradients)


NO_SEQUENCES = [np.zeros((4, 1)), "abcd", b"abcd", 5, 1.0]


@pytest.mark.parametrize("value", [*NO_SEQUENCES, None], ids=repr)
def test_gradients_that_are_no_sequence(subject: Subject, value: Any) -> None:
    with subject.refuses(TypeError, "grads", "expected a sequence", type(value).__name__):
        subject.optimizer.apply(value)


@pytest.mark.parametrize("value", NO_SEQUENCES, ids=repr)
def test_variables_that_are_no_sequence(subject: Subject, value: Any) -> None:
    parts = "trainable_variables", "expected a sequence", type(value).__name__
    with subject.refuses(TypeError, *parts):
        subject.optimizer.apply(subject.gradients(), value)


@pytest.mark.parametrize("pair", [(1,), (1, 2, 3), 5, None], ids=str)
def test_pairs_that_are_none(subject: Subject, pair: Any) -> None:
    pairs: list[Any] = list(zip(subject.gradients(), subject.variables, strict=True))
    pairs[2] = pair
    parts = "expected (gradient, variable) at position 2", type(pair).__name__
    with subject.refuses(ValueError, *parts):
        subject.optimizer.apply_gradients(pairs)


@pytest.mark.filterwarnings("error")
def test_no_gradient_at_all(subject: Subject) -> None:
    with subject.refuses(ValueError, "No gradients provided for any variable"):
        subject.optimizer.apply([None] * 4)
    with subject.refuses(ValueError, "No gradients provided for any variable"):
        subject.optimizer.apply_gradients([(None, subject.variables[2])])


def test_some_gradients_missing_is_one_warning(subject: Subject) -> None:
    gradients = subject.gradients()
    gradients[0] = gradients[2] = None
    with pytest.warns(UserWarning, match="No gradient for") as caught:
        subject.optimizer.apply(gradients)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "variable 0 ('kernel')" in message
    assert "variable 2 ('gain')" in message
    assert "'bias'" not in message
    assert "'half'" not in message
    assert caught[0].filename == __file__


@pytest.mark.filterwarnings("error")
def test_warning_raised_as_an_error_stops_the_step(subject: Subject) -> None:
    gradients = subject.gradients()
    gradients[0] = None
    with subject.refuses(UserWarning, "variable 0 ('kernel')"):
        subject.optimizer.apply(gradients)


# Gradients over memory that a step writes


@pytest.mark.parametrize(
    ("target", "source", "make"),
    [
        (1, 1, lambda w: w),
        (1, 1, lambda w: w[::-1]),
        (1, 2, lambda w: np.broadcast_to(w, (2,))),
        (1, 0, lambda w: w.reshape(-1)[::5]),
        (1, 0, lambda w: w.reshape(-1)[:4].view(np.float64)),
        (1, 0, lambda w: w.reshape(-1).view(np.uint8)[3:19].view(np.float64)),
        (2, 0, lambda w: w.reshape(-1)[5:].reshape(())),
        (3, 0, lambda w: w[0]),
        (3, 0, lambda w: w[::-1, ::-1][0]),
        (3, 3, lambda w: w.view(np.uint16).view(np.float16)),
    ],
)
def test_gradient_over_a_variable(target: int, source: int, make: Callable[[Array], Array]) -> None:
    subject = Subject("accumulation")
    gradients = subject.gradients()
    gradients[target] = make(subject.variables[source])
    assert np.shares_memory(gradients[target], subject.variables[source])
    parts = (
        f"gradient of variable {target} ('{NAMES[target]}')",
        f"overlapping variable {source} ('{NAMES[source]}')",
    )
    with subject.refuses(ValueError, *parts):
        subject.optimizer.apply(gradients)


@pytest.mark.parametrize("offset", [-4, -1, 0, 1, 4])
def test_gradient_over_a_part_of_a_variable(offset: int) -> None:
    base = np.arange(30, dtype=np.float32)
    optimizer = fo.SGD()
    optimizer.build([base[10:15]])
    before = base.copy()
    with pytest.raises(ValueError, match=r"gradient of variable 0: .* overlapping variable 0"):
        optimizer.apply([base[10 + offset : 15 + offset]])
    assert np.array_equal(base, before)


@pytest.mark.parametrize("offset", [-5, 5])
def test_gradient_next_to_a_variable_is_welcome(offset: int) -> None:
    base = np.arange(15.0)
    optimizer = fo.SGD(learning_rate=1.0)
    optimizer.build([base[5:10]])
    optimizer.apply([base[5 + offset : 10 + offset]])
    assert base[5:10].tolist() == [-offset] * 5


@pytest.mark.parametrize("rows", [slice(None, None, 2), slice(None, None, -2)], ids=str)
def test_gradient_that_steps_over_variables_is_welcome(rows: slice) -> None:
    base = np.arange(20.0).reshape(5, 4)
    w = np.zeros((3, 4))
    optimizer = fo.SGD(learning_rate=1.0)
    optimizer.build([base[1], base[3], w])
    expected = -base[rows]
    optimizer.apply([base[rows]], [w])
    assert np.array_equal(w, expected)
    with pytest.raises(ValueError, match=r"gradient of variable 2: .* overlapping variable 0"):
        optimizer.apply([base[:3]], [w])


@pytest.mark.parametrize("name", ["momentum", "velocity", "average", "gradient_accumulator"])
@pytest.mark.parametrize("loss_scale", [False, True])
def test_gradient_over_the_state(name: str, loss_scale: bool) -> None:
    w = np.ones(8)
    optimizer: Any = fo.Adam(use_ema=True, gradient_accumulation_steps=2)
    if loss_scale:
        optimizer = fo.LossScaleOptimizer(optimizer)
    optimizer.build([w])
    optimizer.apply([np.ones(8)])
    state = [array for array in optimizer.variables if array.shape == (8,)]
    position = ["average", "gradient_accumulator", "momentum", "velocity"].index(name)
    reading = [state[position], state[position][::-1], np.broadcast_to(state[position][3:4], (8,))]
    before = [array.copy() for array in (w, *optimizer.variables)]
    for gradient in reading:
        with pytest.raises(ValueError, match=r"gradient of variable 0.*overlapping") as caught:
            optimizer.apply([gradient])
        assert "optimizer's state" in str(caught.value)
    for array, old in zip((w, *optimizer.variables), before, strict=True):
        assert np.array_equal(array, old)


def test_state_of_another_optimizer_is_a_gradient_like_any_other() -> None:
    w, x = np.zeros(2), np.zeros(2)
    first, second = fo.SGD(learning_rate=1.0, momentum=0.5), fo.SGD(learning_rate=1.0)
    first.build([w])
    second.build([x])
    first.apply([np.array([1.0, 2.0])])
    second.apply([first.variables[2]])
    assert x.tolist() == [1.0, 2.0]


# Variables given to a step


def test_unknown_variable(subject: Subject) -> None:
    other = np.zeros((2, 3), dtype=np.float32)
    variables = [subject.variables[1], other]
    gradients = [np.ones(2), np.ones((2, 3), dtype=np.float32)]
    parts = "variable at position 1", "expected one given to build", "shape (2, 3)"
    with subject.refuses(ValueError, *parts):
        subject.optimizer.apply(gradients, variables)


@pytest.mark.parametrize(
    "make",
    [
        lambda w: w.copy(),
        lambda w: w[:1],
        lambda w: w[::-1],
        lambda w: w[:, :2],
        lambda w: w.reshape(-1)[1:],
        lambda w: w.T,
        lambda w: w.reshape(3, 2).T,
    ],
    ids=["copy", "part", "reversed", "columns", "tail", "transposed", "reordered"],
)
def test_other_view_of_a_variable(subject: Subject, make: Callable[[Array], Array]) -> None:
    view = make(subject.variables[0])
    gradient = np.ones(view.shape, dtype=np.float32)
    with subject.refuses(ValueError, "position 0"):
        subject.optimizer.apply([gradient], [view])


def test_transposed_variable_is_not_taken_for_the_built_one() -> None:
    w = np.zeros((3, 3))
    optimizer = fo.SGD(learning_rate=1.0)
    optimizer.build([w])
    with pytest.raises(ValueError, match="variable at position 0"):
        optimizer.apply([np.arange(9.0).reshape(3, 3)], [w.T])
    assert not w.any()


def test_variable_twice_in_a_step(subject: Subject) -> None:
    gradient, w = subject.gradients()[1], subject.variables[1]
    parts = "expected each variable once", "variable 1 ('bias') twice"
    with subject.refuses(ValueError, *parts):
        subject.optimizer.apply([gradient, gradient], [w, w])
    with subject.refuses(ValueError, *parts):
        subject.optimizer.apply_gradients([(gradient, w), (-gradient, w[:])])


@pytest.mark.parametrize(
    ("call", "error", "part"),
    [
        (lambda o: o.apply([np.ones(2)]), ValueError, "not built"),
        (lambda o: o.apply({"w": np.ones(2)}), ValueError, "not built"),
        (lambda o: o.set_weights(o.variables), ValueError, "not built"),
        (lambda o: o.load_own_variables({"0": 0, "1": 0.1}), ValueError, "not built"),
        (lambda o: o.load_own_variables(dict.fromkeys("0123456", 0)), ValueError, "not built"),
        (lambda o: o.finalize_variable_values([np.ones(2)]), ValueError, "not built"),
        (lambda o: o.stateless_apply([], [], []), ValueError, "not built"),
    ],
)
@pytest.mark.parametrize("kind", ["ema", "loss_scale"])
def test_call_before_build(
    kind: str, call: Callable[[Any], Any], error: type[Exception], part: str
) -> None:
    optimizer = OPTIMIZERS[kind]()
    with pytest.raises(error, match=part):
        call(optimizer)
    assert not optimizer.built
    assert optimizer.iterations == 0


# Gradients by name


def test_unknown_names_of_gradients(subject: Subject) -> None:
    gradients = dict(zip(NAMES, subject.gradients(), strict=True))
    parts = "'kernel', 'bias', 'gain', 'half'", "found 'weight'"
    with subject.refuses(ValueError, *parts):
        subject.optimizer.apply({**gradients, "weight": np.ones(2)})
    with subject.refuses(ValueError, *parts):
        subject.optimizer.apply({"weight": np.ones(2)})


def test_gradients_by_name_beside_variables(subject: Subject) -> None:
    gradients = {"bias": np.ones(2)}
    with subject.refuses(TypeError, "expected a sequence", "found a dict"):
        subject.optimizer.apply(gradients, [subject.variables[1]])


def test_gradients_by_name_where_variables_have_none() -> None:
    w = np.ones(2)
    optimizer = fo.SGD()
    optimizer.build([w])
    with pytest.raises(ValueError, match="expected a sequence, as build was given one"):
        optimizer.apply({"0": np.ones(2)})
    assert w.tolist() == [1.0, 1.0]


# Variables at build


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
        for dtype in DTYPES
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
    for others in (new_variables(), subject.variables[1:], subject.variables[:2], []):
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


# Hyperparameters

NUMBERS = [math.nan, math.inf, -math.inf, 10**400, Fraction(10**400)]
NO_NUMBERS = ["0.5", b"1", True, 1j, [0.5], np.array(0.5), object()]
NEGATIVE = [-1, -1e-300, np.float32(-0.5)]
FRACTION = [*NUMBERS, *NEGATIVE, 1.0, 1, 1.5, np.float64(2)]
FRACTION_OR_ONE = [*NUMBERS, *NEGATIVE, 1.0000001, 2]
POSITIVE = [*NUMBERS, *NEGATIVE, 0, 0.0, -0.0]
NOT_NEGATIVE = [*NUMBERS, *NEGATIVE]
NO_FLAGS = ["True", 1, 0, 1.0, None, [], np.array(True)]
NO_INTEGERS = ["2", [2], 2j, object(), np.array(2)]

# For each argument: values of the right type but out of range, and of a wrong type.
REFUSED: dict[str, tuple[list[Any], list[Any]]] = {
    "learning_rate": (NOT_NEGATIVE, ["0.5", b"1", True, 1j, [0.5], np.zeros(2), object(), None]),
    "momentum": (FRACTION_OR_ONE, [*NO_NUMBERS, None]),
    "rho": (FRACTION, [*NO_NUMBERS, None]),
    "beta_1": (FRACTION, [*NO_NUMBERS, None]),
    "beta_2": (FRACTION, [*NO_NUMBERS, None]),
    "epsilon": ([*POSITIVE, 1e-39], [*NO_NUMBERS, None]),
    "initial_accumulator_value": (NOT_NEGATIVE, [*NO_NUMBERS, None]),
    "learning_rate_power": ([*NUMBERS, 0.5, 1e-300], [*NO_NUMBERS, None]),
    "l1_regularization_strength": (NOT_NEGATIVE, [*NO_NUMBERS, None]),
    "l2_regularization_strength": (NOT_NEGATIVE, [*NO_NUMBERS, None]),
    "l2_shrinkage_regularization_strength": (NOT_NEGATIVE, [*NO_NUMBERS, None]),
    "beta": (NOT_NEGATIVE, [*NO_NUMBERS, None]),
    "warmup_steps": ([-1, 2.5, True, math.nan, 2**70], [*NO_INTEGERS, None]),
    "beta_2_decay": ([*NUMBERS, 0.5, 1e-300], [*NO_NUMBERS, None]),
    "epsilon_1": (NOT_NEGATIVE, [*NO_NUMBERS, None]),
    "epsilon_2": (NOT_NEGATIVE, [*NO_NUMBERS, None]),
    "clip_threshold": (POSITIVE, [*NO_NUMBERS, None]),
    "relative_step": ([], NO_FLAGS),
    "adam_beta_1": (FRACTION, [*NO_NUMBERS, None]),
    "adam_beta_2": (FRACTION, [*NO_NUMBERS, None]),
    "adam_weight_decay": (NOT_NEGATIVE, NO_NUMBERS),
    "adam_lr_ratio": (NOT_NEGATIVE, [*NO_NUMBERS, None]),
    "exclude_layers": ([["("], ["kernel", "a**"]], ["kernel", 5, [5], [None], [b"kernel"]]),
    "exclude_embeddings": ([], NO_FLAGS),
    "muon_a": (NUMBERS, [*NO_NUMBERS, None]),
    "muon_b": (NUMBERS, [*NO_NUMBERS, None]),
    "muon_c": (NUMBERS, [*NO_NUMBERS, None]),
    "ns_steps": ([0, -1, 2.5, True, math.nan, 2**70], [*NO_INTEGERS, None]),
    "rms_rate": (POSITIVE, NO_NUMBERS),
    "nesterov": ([], NO_FLAGS),
    "matrix_product": ([], ["bfloat16", 5, True, [np.matmul]]),
    "centered": ([], NO_FLAGS),
    "amsgrad": ([], NO_FLAGS),
    "weight_decay": (NOT_NEGATIVE, NO_NUMBERS),
    "clipnorm": (POSITIVE, NO_NUMBERS),
    "clipvalue": (POSITIVE, NO_NUMBERS),
    "global_clipnorm": (POSITIVE, NO_NUMBERS),
    "use_ema": ([], NO_FLAGS),
    "ema_momentum": (FRACTION_OR_ONE, [*NO_NUMBERS, None]),
    "ema_overwrite_frequency": ([-1, 2.5, True, math.nan, 2**70], NO_INTEGERS),
    "loss_scale_factor": (POSITIVE, NO_NUMBERS),
    "gradient_accumulation_steps": ([0, 1, -3, 2.5, 2.0, True, math.inf, 2**70], NO_INTEGERS),
    "name": ([], [5, b"adam", True]),
    "skip_nonfinite": ([], NO_FLAGS),
    "initial_scale": ([*POSITIVE, 2.0**-127, 2.0**127 * 1.5, 2.0**128], [*NO_NUMBERS, None]),
    "dynamic_growth_steps": ([0, -1, 2.5, True, math.nan, 2**70], [*NO_INTEGERS, None]),
    "inner_optimizer": (
        [],
        [None, "adam", 5, fo.Adam, fo.serialize(fo.Adam()), fo.LossScaleOptimizer(fo.Adam())],
    ),
}
# Where an argument means something of its own.
REFUSED_OF = {
    ("AdamW", "weight_decay"): ([*NOT_NEGATIVE, None], NO_NUMBERS),
    ("Lion", "beta_1"): ([*NUMBERS, *NEGATIVE, 0.0, 1.5], [*NO_NUMBERS, None]),
    ("ScheduleFreeAdamW", "beta_1"): ([*FRACTION, 0.0], [*NO_NUMBERS, None]),
}


def classes() -> list[Any]:
    found = [getattr(fo, name) for name in fo.__all__]
    return [
        cls
        for cls in found
        if isinstance(cls, type)
        and issubclass(cls, fo.Optimizer)
        and cls not in (fo.Optimizer, fo.MultiOptimizer)  # that one has tests of its own
    ]


def arguments_of(cls: Any) -> list[str]:
    parameters = inspect.signature(cls).parameters.values()
    return [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]


ARGUMENTS = [(cls, name) for cls in classes() for name in arguments_of(cls)]


@pytest.mark.parametrize(("cls", "name"), ARGUMENTS)
def test_argument_out_of_range_or_of_another_type(cls: Any, name: str) -> None:
    own = {"inner_optimizer": fo.Adam()} if cls is fo.LossScaleOptimizer else {}
    assert name in REFUSED, f"no refused values are listed for {name}"
    out_of_range, other_types = REFUSED_OF.get((cls.__name__, name), REFUSED[name])
    for value, error in [(v, ValueError) for v in out_of_range] + [
        (v, TypeError) for v in other_types
    ]:
        with pytest.raises(error) as caught:
            cls(**{**own, name: value})
        assert type(caught.value) is error, f"{value!r}"
        assert str(caught.value).startswith(f"{name}: expected "), f"{value!r}: {caught.value}"
        assert "found " in str(caught.value), f"{value!r}"


@pytest.mark.parametrize(
    "value",
    [-0.1, math.nan, math.inf, -math.inf, pytest.param(10**400, id="huge")],
)
def test_learning_rate_assigned_out_of_range(subject: Subject, value: Any) -> None:
    with subject.refuses(ValueError, "learning_rate: expected"):
        subject.optimizer.learning_rate = value
    assert subject.optimizer.learning_rate == 0.1


@pytest.mark.parametrize("value", ["0.1", None, True, 1j, np.array([0.1, 0.2])], ids=repr)
def test_learning_rate_assigned_of_another_type(subject: Subject, value: Any) -> None:
    with subject.refuses(TypeError, "learning_rate: expected a real number", repr(value)):
        subject.optimizer.learning_rate = value


CLIPS = ["clipnorm", "clipvalue", "global_clipnorm"]


@pytest.mark.parametrize("cls", [cls for cls in classes() if cls is not fo.LossScaleOptimizer])
@pytest.mark.parametrize("left_out", [None, *CLIPS])
def test_two_clip_arguments(cls: Any, left_out: str | None) -> None:
    clips = {name: 1.0 for name in CLIPS if name != left_out}
    with pytest.raises(ValueError, match="clipnorm, clipvalue, global_clipnorm: expected at most"):
        cls(**clips)


@pytest.mark.parametrize("cls", classes())
@pytest.mark.parametrize("names", [["momentums"], ["lr", "jit_compile"]], ids=str)
def test_unknown_arguments(cls: Any, names: list[str]) -> None:
    own = [fo.Adam()] if cls is fo.LossScaleOptimizer else []
    with pytest.raises(ValueError, match="unknown argument") as caught:
        cls(*own, **dict.fromkeys(names, 0.1))
    assert names[0] in str(caught.value)


BASE_ARGUMENTS: dict[str, tuple[Any, Any]] = {
    "weight_decay": (None, 0.1),
    "clipnorm": (None, 1.0),
    "clipvalue": (None, 1.0),
    "global_clipnorm": (None, 1.0),
    "use_ema": (False, True),
    "ema_momentum": (0.99, 0.9),
    "ema_overwrite_frequency": (None, 2),
    "loss_scale_factor": (None, 2.0),
    "gradient_accumulation_steps": (None, 2),
    "skip_nonfinite": (False, True),
}


@pytest.mark.parametrize("name", BASE_ARGUMENTS)
def test_base_arguments_of_loss_scale_optimizer(name: str) -> None:
    default, other = BASE_ARGUMENTS[name]
    fo.LossScaleOptimizer(fo.Adam(), **{name: default})
    inner = fo.Adam(loss_scale_factor=4.0)
    with pytest.raises(ValueError, match=f"{name}: expected on the inner optimizer") as caught:
        fo.LossScaleOptimizer(inner, **{name: other})
    assert repr(other) in str(caught.value)
    assert inner.loss_scale_factor == 4.0


def test_base_arguments_are_all_covered() -> None:
    own = set(arguments_of(fo.SGD)) - {"learning_rate", "momentum", "nesterov", "name"}
    assert own == set(BASE_ARGUMENTS)


def test_refused_loss_scale_optimizer_leaves_the_inner_one_as_it_was() -> None:
    w = np.ones(2)
    inner = fo.SGD(learning_rate=1.0, loss_scale_factor=4.0)
    inner.build([w])
    with pytest.raises(ValueError, match="initial_scale"):
        fo.LossScaleOptimizer(inner, initial_scale=0.0)
    assert inner.scale_loss(1.0) == 4.0
    inner.apply([np.array([4.0, 2.0])])
    assert w.tolist() == [0.0, 0.5]


# State


def stored(subject: Subject) -> list[Array]:
    return [np.array(variable) for variable in subject.optimizer.variables]


@pytest.mark.parametrize("change", [-1, 1], ids=["fewer", "more"])
def test_number_of_weights(subject: Subject, change: int) -> None:
    weights = stored(subject)
    count = len(weights)
    weights = weights[:-1] if change < 0 else [*weights, weights[-1]]
    with subject.refuses(ValueError, f"expected {count} arrays, found {count + change}"):
        subject.optimizer.set_weights(weights)


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda a: a[..., None], "shape"),
        (lambda a: np.zeros((5, *a.shape), a.dtype), "shape"),
        (lambda a: a.astype(np.int64) if a.dtype.kind == "f" else a.astype(np.float64), "dtype"),
        (lambda a: a.astype(np.complex128), "complex128"),
        (lambda a: a.astype(bool), "bool"),
        (lambda a: a.astype(object), "object"),
        (lambda a: a.astype(str), "<U"),
        (lambda a: None, "object"),
        (lambda a: "text", "<U4"),
        (lambda a: a[None], "shape"),
    ],
    ids=["longer", "outer", "kind", "complex", "bool", "object", "str", "none", "text", "shape"],
)
@pytest.mark.parametrize("position", [0, 1, -1])
def test_kind_and_shape_of_weights(
    subject: Subject, position: int, make: Callable[[Array], Any], found: str
) -> None:
    weights: list[Any] = stored(subject)
    number = position % len(weights)
    weights[number] = make(weights[number])
    with subject.refuses(ValueError, f"array {number} (", "expected", "found", found):
        subject.optimizer.set_weights(weights)
    store = {str(k): value for k, value in enumerate(weights)}
    with subject.refuses(ValueError, f"array {number} (", "expected", "found", found):
        subject.optimizer.load_own_variables(store)


def position_of(subject: Subject, name: str) -> int:
    own = 4 if hasattr(subject.optimizer, "dynamic_scale") else 0
    return {"iteration": own, "learning_rate": own + 1, "step_counter": 2, "dynamic_scale": 3}[name]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iteration", -1),
        ("iteration", -(2**62)),
        ("iteration", np.uint64(2**63 + 1)),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("learning_rate", -0.1),
    ],
)
def test_value_of_weights(subject: Subject, name: str, value: Any) -> None:
    weights: list[Any] = stored(subject)
    weights[position_of(subject, name)] = np.array(value)
    with subject.refuses(ValueError, f"{name}: expected", "found"):
        subject.optimizer.set_weights(weights)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("step_counter", -1),
        ("dynamic_scale", 0.0),
        ("dynamic_scale", -8.0),
        ("dynamic_scale", math.nan),
        ("dynamic_scale", math.inf),
        ("dynamic_scale", 2.0**-127),
        ("dynamic_scale", 1e300),
    ],
)
@pytest.mark.parametrize("kind", ["loss_scale", "loss_scale_accumulation"])
def test_value_of_loss_scale_weights(kind: str, name: str, value: float) -> None:
    subject = Subject(kind)
    weights: list[Any] = stored(subject)
    weights[position_of(subject, name)] = np.array(value)
    with subject.refuses(ValueError, f"{name}", "expected", "found"):
        subject.optimizer.set_weights(weights)


def test_slot_value_that_its_type_cannot_hold() -> None:
    subject = Subject("momentum")
    weights = stored(subject)
    weights[2] = np.full((2, 3), 1e300)
    with subject.refuses(ValueError, "array 2 (momentum/kernel)"):
        subject.optimizer.set_weights(weights)


@pytest.mark.parametrize(
    "change",
    [
        lambda store: store.pop("1"),
        lambda store: store.update({"99": np.zeros(2)}),
        lambda store: store.update({"one": store.pop("1")}),
        lambda store: store.update({1: store.pop("1")}),
        lambda store: store.clear(),
    ],
    ids=["missing", "more", "renamed", "number", "empty"],
)
def test_keys_of_a_store(subject: Subject, change: Callable[[dict[Any, Any]], Any]) -> None:
    store: dict[Any, Any] = {}
    subject.optimizer.save_own_variables(store)
    last = len(store) - 1
    change(store)
    with subject.refuses(ValueError, f"expected the keys '0' to '{last}'", f"found {len(store)}"):
        subject.optimizer.load_own_variables(store)


@pytest.mark.parametrize("store", [None, 5, [], "text", np.zeros(3)], ids=repr)
def test_store_that_is_no_mapping(subject: Subject, store: Any) -> None:
    with subject.refuses(TypeError, "store: expected a mapping", type(store).__name__):
        subject.optimizer.load_own_variables(store)


def test_weights_that_are_no_sequence(subject: Subject) -> None:
    with subject.refuses(TypeError, "weights: expected a sequence", "int"):
        subject.optimizer.set_weights(5)


def test_state_of_another_optimizer(subject: Subject) -> None:
    store: dict[str, Any] = {}
    other = fo.RMSprop(momentum=0.5, centered=True, use_ema=True)
    other.build([*new_variables(), *new_variables()])
    other.save_own_variables(store)
    count = len(stored(subject))
    assert count != len(store)
    with subject.refuses(ValueError, f"'{count - 1}'", f"found {len(store)} keys"):
        subject.optimizer.load_own_variables(store)
    with subject.refuses(ValueError, f"expected {count} arrays, found {len(store)}"):
        subject.optimizer.set_weights(list(store.values()))


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", math.nan),
        ("learning_rate", -1.0),
        ("learning_rate", math.inf),
        ("iteration", -1),
        ("iteration", -7),
    ],
)
def test_nonsense_written_through_a_live_view(kind: str, name: str, value: float) -> None:
    subject = Subject(kind, steps=5)  # the next call is an update, also of accumulated gradients
    view = subject.optimizer.variables[position_of(subject, name)]
    good = view.copy()
    view[...] = value
    before = subject.everything()
    with pytest.raises(ValueError, match=f"{name}: expected .*, found"):
        subject.step()
    assert subject.everything() == before
    view[...] = good
    subject.step()
    assert subject.twin is not None
    subject.twin.step()
    assert subject.everything() == subject.twin.everything()


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, 2.0**-130])
def test_scale_written_through_its_view(value: float) -> None:
    subject = Subject("loss_scale")
    subject.optimizer.variables[3][...] = value
    before = subject.everything()
    with pytest.raises(ValueError, match="dynamic_scale: expected a number from"):
        subject.step()
    assert subject.everything() == before


# Exclusion from weight decay, finalize


def test_exclusion_after_build(subject: Subject) -> None:
    with subject.refuses(ValueError, "before build", "built"):
        subject.optimizer.exclude_from_weight_decay([subject.variables[0]])
    with subject.refuses(ValueError, "before build", "built"):
        subject.optimizer.exclude_from_weight_decay(var_names=["bias"])


@pytest.mark.parametrize("kind", ["adamw", "loss_scale"])
@pytest.mark.parametrize(
    ("variable", "error", "parts"),
    [
        (np.ones((3, 5)), ValueError, ["given to build", "shape (3, 5)"]),
        (1.5, TypeError, ["variable 0", "found float"]),
        ("kernel", TypeError, ["variable 0", "found str"]),
        (None, TypeError, ["variable 0", "found NoneType"]),
        (np.float32(1), TypeError, ["variable 0", "shares its memory"]),
    ],
    ids=["unknown", "float", "name", "none", "scalar"],
)
def test_exclusion_of_what_is_no_variable(
    kind: str, variable: Any, error: type[Exception], parts: list[str]
) -> None:
    w = np.ones(2)
    optimizer = OPTIMIZERS[kind]()
    optimizer.exclude_from_weight_decay([variable])
    with pytest.raises(error) as caught:
        optimizer.build([w])
    for part in ("exclude_from_weight_decay", *parts):
        assert part in str(caught.value)
    assert not optimizer.built
    optimizer.exclude_from_weight_decay([w])
    optimizer.build([w])
    assert w.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("names", "error", "found"),
    [
        ("bias", TypeError, "'bias'"),
        ([5], TypeError, "5"),
        ([b"bias"], TypeError, "b'bias'"),
        ([None], TypeError, "None"),
        (["bi(as"], ValueError, "'bi(as'"),
    ],
)
def test_bad_names_of_an_exclusion(names: Any, error: type[Exception], found: str) -> None:
    optimizer = fo.AdamW()
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    with pytest.raises(error, match="var_names: expected") as caught:
        optimizer.exclude_from_weight_decay(var_names=names)
    assert f"found {found}" in str(caught.value)
    w = {"kernel": np.ones(1), "bias": np.ones(1)}
    optimizer.build(w)
    optimizer.apply([np.zeros(1)] * 2)
    assert w["bias"] == 1.0, "the earlier exclusion holds"
    assert w["kernel"] < 1.0


def test_pattern_that_matches_nothing_warns() -> None:
    optimizer = fo.AdamW()
    optimizer.exclude_from_weight_decay(var_names=["bias", "norm$"])
    with pytest.warns(UserWarning, match="no variable's name matches") as caught:
        optimizer.build({"bias": np.ones(1), "normal": np.ones(1)})
    assert len(caught) == 1
    assert "'norm$'" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert optimizer.built


@pytest.mark.filterwarnings("error")
def test_pattern_warning_raised_as_an_error_stops_the_build() -> None:
    optimizer = fo.AdamW()
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    with pytest.raises(UserWarning, match="'bias'"):
        optimizer.build([np.ones(1)])
    assert not optimizer.built


@pytest.mark.parametrize(
    ("choose", "part"),
    [
        (lambda w: w[:3], "expected 4 variables, found 3"),
        (lambda w: [*w, w[0]], "expected 4 variables, found 5"),
        (lambda w: [], "expected 4 variables, found 0"),
        (lambda w: [w[0], w[2], w[1], w[3]], "in the place of variable 1 ('bias')"),
        (lambda w: [w[0], w[0], w[2], w[3]], "in the place of variable 1 ('bias')"),
        (lambda w: [*w[:3], w[3].copy()], "in the place of variable 3 ('half')"),
        (lambda w: [w[0].reshape(3, 2).T, *w[1:]], "in the place of variable 0 ('kernel')"),
    ],
    ids=["fewer", "more", "none", "swapped", "twice", "copy", "reordered"],
)
def test_finalize_of_other_variables(
    subject: Subject, choose: Callable[[list[Array]], list[Array]], part: str
) -> None:
    with subject.refuses(ValueError, "finalize_variable_values", part):
        subject.optimizer.finalize_variable_values(choose(subject.variables))


@pytest.mark.parametrize("value", [None, 1.0, "half"], ids=repr)
def test_finalize_of_no_array(subject: Subject, value: Any) -> None:
    with subject.refuses(TypeError, "finalize_variable_values: variable 3", type(value).__name__):
        subject.optimizer.finalize_variable_values([*subject.variables[:3], value])


# Learning rates and betas that are functions


class Rate:
    """A learning rate that is good until it is told otherwise."""

    def __init__(self) -> None:
        self.answer: Any = None

    def __call__(self) -> Any:
        return 0.1 if self.answer is None else self.answer()


class Schedule(fo.schedules.LearningRateSchedule):
    def __init__(self) -> None:
        self.answer: Any = None

    def __call__(self, step: int) -> Any:
        return 0.1 if self.answer is None else self.answer()


def fail() -> None:
    raise KeyError("rate of the day")


Made = tuple[Any, Rate | Schedule]


def with_callable(**options: Any) -> Made:
    rate = Rate()
    return fo.Adam(learning_rate=rate, **options), rate


def with_schedule(**options: Any) -> Made:
    rate = Schedule()
    return fo.SGD(learning_rate=rate, momentum=0.9, **options), rate


def with_loss_scale(**options: Any) -> Made:
    rate = Schedule()
    inner = fo.RMSprop(learning_rate=rate, **options)
    return fo.LossScaleOptimizer(inner, initial_scale=8.0, dynamic_growth_steps=2), rate


def with_beta(name: str) -> Callable[..., Made]:
    def make(**options: Any) -> Made:
        rate = Rate()
        arguments: dict[str, Any] = {"learning_rate": 0.1, "beta_1": 0.9, "beta_2": 0.9, name: rate}
        return fo.AdamW(**arguments, **options), rate

    return make


MAKERS: dict[str, Callable[..., Made]] = {
    "callable": with_callable,
    "schedule": with_schedule,
    "loss_scale": with_loss_scale,
    "beta_1": with_beta("beta_1"),
    "beta_2": with_beta("beta_2"),
}


@contextlib.contextmanager
def misbehaving(maker: str, error: type[Exception], *parts: str, **options: Any) -> Iterator[Any]:
    """A step whose function misbehaves must raise `error` and leave no trace."""
    (optimizer, rate), (twin, _) = MAKERS[maker](**options), MAKERS[maker](**options)
    subject, untouched = Subject("", optimizer, steps=3), Subject("", twin, steps=3)
    before = subject.everything()
    yield subject, rate
    with pytest.raises(error) as caught:
        subject.step()
    assert type(caught.value) is error
    assert [part for part in parts if part not in str(caught.value)] == [], caught.value
    assert subject.everything() == before
    rate.answer = None
    subject.step()
    untouched.step()
    assert subject.everything() == untouched.everything()


@pytest.mark.parametrize("options", [{}, {"use_ema": True, "gradient_accumulation_steps": 2}])
@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize(
    ("answer", "error", "found"),
    [
        (fail, KeyError, "rate of the day"),
        (lambda: math.nan, ValueError, "found nan"),
        (lambda: math.inf, ValueError, "found inf"),
        (lambda: -0.5, ValueError, "found -0.5"),
        (lambda: "0.1", TypeError, "found '0.1'"),
        (lambda: None, TypeError, "found None"),
        (lambda: 1j, TypeError, "found 1j"),
        (lambda: np.ones(2), TypeError, "found array([1., 1.])"),
    ],
    ids=["raises", "nan", "inf", "negative", "str", "none", "complex", "array"],
)
def test_function_that_gives_no_number(
    maker: str, answer: Any, error: type[Exception], found: str, options: dict[str, Any]
) -> None:
    name = maker if maker.startswith("beta") else "learning_rate"
    parts = [found] if error is KeyError else [f"{name}: expected", found]
    with misbehaving(maker, error, *parts, **options) as (_, rate):
        rate.answer = answer


@pytest.mark.parametrize("maker", ["beta_1", "beta_2"])
@pytest.mark.parametrize("value", [1.0, 1, 1.5])
def test_beta_function_out_of_range(maker: str, value: float) -> None:
    with misbehaving(maker, ValueError, f"{maker}: expected a number in [0, 1)") as (_, rate):
        rate.answer = lambda: value


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize(
    "action",
    [
        lambda s: s.step(),
        lambda s: s.optimizer.apply(s.gradients()[:1], s.variables[:1]),
        lambda s: s.optimizer.finalize_variable_values(s.variables),
        lambda s: s.optimizer.set_weights([np.array(v) * 0 + 1 for v in s.optimizer.variables]),
        lambda s: setattr(s.optimizer, "learning_rate", Rate()),
    ],
    ids=["apply", "subset", "finalize", "set_weights", "learning_rate"],
)
def test_function_that_changes_its_optimizer(maker: str, action: Callable[[Subject], Any]) -> None:
    with misbehaving(maker, ValueError, "of its own step", use_ema=True) as (subject, rate):

        def answer() -> float:
            action(subject)
            return 0.1

        rate.answer = answer


@pytest.mark.parametrize("maker", MAKERS)
def test_function_that_reads_its_optimizer_is_welcome(maker: str) -> None:
    optimizer, rate = MAKERS[maker]()
    subject = Subject("", optimizer)
    seen = []

    def answer() -> float:
        seen.append((optimizer.iterations, optimizer.built, len(optimizer.variables)))
        return 0.1

    rate.answer = answer
    subject.step()
    assert seen == [(3, True, len(optimizer.variables))]


# Threads and the environment


@pytest.mark.parametrize(
    ("count", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (10**6, ValueError),
        (2**40, ValueError),
        (-(2**70), ValueError),
        (1.5, TypeError),
        (2.0, TypeError),
        ("a", TypeError),
        ("2", TypeError),
        (None, TypeError),
        (True, TypeError),
    ],
)
def test_number_of_threads(count: Any, error: type[Exception]) -> None:
    before = fo.get_num_threads()
    with pytest.raises(error, match=r"num_threads: expected .*, found") as caught:
        fo.set_num_threads(count)
    assert repr(count) in str(caught.value)
    assert fo.get_num_threads() == before


# Configurations

NO_CONFIGS: list[tuple[Any, type[Exception], str]] = [
    (None, TypeError, "None"),
    (5, TypeError, "5"),
    ([], TypeError, "[]"),
    ({}, TypeError, "{}"),
    ({"class_name": "SGD"}, TypeError, "class_name and config"),
    ({"config": {}}, TypeError, "class_name and config"),
    ({"class_name": 5, "config": {}}, TypeError, "5"),
    ({"class_name": "SGD", "config": 5}, TypeError, "5"),
    ({"class_name": "SGD", "config": None}, TypeError, "None"),
    ({"class_name": "Sgdd", "config": {}}, ValueError, "'Sgdd'"),
    ({"class_name": "Optimizer", "config": {}}, ValueError, "'Optimizer'"),
    ({"class_name": "", "config": {}}, ValueError, "''"),
    ({"class_name": "SGD", "config": {"rho": 0.9}}, ValueError, "rho"),
    ({"class_name": "SGD", "config": {"momentum": 2.0}}, ValueError, "momentum"),
    ({"class_name": "SGD", "config": {"momentum": "0.9"}}, TypeError, "momentum"),
    ({"class_name": "SGD", "config": {5: 0.9}}, TypeError, "5"),
    ({"class_name": "SGD", "config": {"learning_rate": {}}}, TypeError, "{}"),
    (
        {"class_name": "SGD", "config": {"learning_rate": {"class_name": "Warm", "config": {}}}},
        ValueError,
        "'Warm'",
    ),
    ({"class_name": "LossScaleOptimizer", "config": {}}, TypeError, "inner_optimizer"),
    (
        {"class_name": "LossScaleOptimizer", "config": {"inner_optimizer": {"class_name": "SGD"}}},
        TypeError,
        "class_name and config",
    ),
    (
        fo.serialize(fo.LossScaleOptimizer(fo.Adam()))
        | {"config": {"inner_optimizer": fo.serialize(fo.LossScaleOptimizer(fo.Adam()))}},
        TypeError,
        "LossScaleOptimizer",
    ),
]


@pytest.mark.parametrize(("config", "error", "part"), NO_CONFIGS)
@pytest.mark.parametrize("function", [fo.deserialize, fo.get])
def test_bad_configuration(
    function: Callable[[Any], Any], config: Any, error: type[Exception], part: str
) -> None:
    with pytest.raises(error) as caught:
        function(config)
    assert type(caught.value) is error
    assert part in str(caught.value)


@pytest.mark.parametrize("cls", classes())
@pytest.mark.parametrize("config", [None, 5, [], "text", [("name", "x")]], ids=repr)
def test_from_config_of_no_dict(cls: Any, config: Any) -> None:
    with pytest.raises(TypeError, match="config: expected a dict") as caught:
        cls.from_config(config)
    assert repr(config) in str(caught.value)


@pytest.mark.parametrize("custom", [{"Own": int}, {"Own": 5}, {"Own": Schedule}], ids=str)
def test_custom_object_of_another_kind(custom: Any) -> None:
    with pytest.raises(TypeError, match="Own: expected a subclass of Optimizer"):
        fo.deserialize({"class_name": "Own", "config": {}}, custom_objects=custom)


@pytest.mark.parametrize(
    ("identifier", "error", "part"),
    [
        ("nope", ValueError, "'nope'"),
        ("", ValueError, "''"),
        ("optimizer", ValueError, "'optimizer'"),
        (None, TypeError, "None"),
        (5, TypeError, "5"),
        (fo.SGD, TypeError, "SGD"),
        (["sgd"], TypeError, "['sgd']"),
    ],
    ids=str,
)
def test_get_of_nothing_known(identifier: Any, error: type[Exception], part: str) -> None:
    with pytest.raises(error, match="expected") as caught:
        fo.get(identifier)
    assert part in str(caught.value)


@pytest.mark.parametrize("value", [None, "sgd", {}, fo.SGD], ids=str)
def test_serialize_of_no_optimizer(value: Any) -> None:
    with pytest.raises(TypeError, match="optimizer: expected an Optimizer, found") as caught:
        fo.serialize(value)
    assert repr(value) in str(caught.value)


def test_schedule_without_a_configuration() -> None:
    optimizer = fo.SGD(learning_rate=Schedule())
    for function in (fo.serialize, fo.SGD.get_config):
        with pytest.raises(TypeError, match="Schedule: expected a get_config method"):
            function(optimizer)


# A step without side effects


@pytest.mark.parametrize(
    ("variables", "grads", "part"),
    [
        (lambda w: w[:3], lambda g: g[:3], "expected"),
        (lambda w: [*w[:3], np.zeros(4)], lambda g: g, "expected"),
        (lambda w: w, lambda g: g[:3], "expected 4 gradients"),
        (lambda w: w, lambda g: [None] * 4, "No gradients"),
    ],
    ids=["variables", "shape", "gradients", "none"],
)
def test_stateless_apply(
    subject: Subject, variables: Callable[[Any], Any], grads: Callable[[Any], Any], part: str
) -> None:
    with subject.refuses(ValueError, part):
        subject.optimizer.stateless_apply(
            stored(subject), grads(subject.gradients()), variables(subject.variables)
        )
    with subject.refuses(ValueError, "expected", "arrays, found"):
        subject.optimizer.stateless_apply([], subject.gradients(), subject.variables)
