"""Tensors that offer DLPack's C functions are read by them. If in doubt, their array decides."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from reference import Array

pytestmark = pytest.mark.filterwarnings("ignore:optimizer_map. no variable's name matches")


class Described(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class Table(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("previous", ctypes.c_void_p),
        ("allocate", ctypes.c_void_p),
        ("give", ctypes.c_void_p),
        ("take", ctypes.c_void_p),
        ("describe", ctypes.c_void_p),
        ("stream", ctypes.c_void_p),
    )


@ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(Described))
def describe(tensor: Any, out: Any) -> int:
    return int(tensor.describe(out.contents))


def capsule(table: Table, name: bytes = b"dlpack_exchange_api") -> Any:
    make = ctypes.pythonapi.PyCapsule_New
    make.restype = ctypes.py_object
    make.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return make(ctypes.addressof(table), name, None)


DESCRIBE = ctypes.cast(describe, ctypes.c_void_p).value
TABLE = Table(1, 3, None, None, None, None, DESCRIBE, None)
NEWER = Table(2, 0, ctypes.addressof(TABLE), None, None, None, None, None)
UNKNOWN = Table(2, 0, None, None, None, None, DESCRIBE, None)
EMPTY = Table(1, 3, None, None, None, None, None, None)
NAME = b"another"


class Tensor:
    """Counts how often it is asked for an array."""

    __dlpack_c_exchange_api__ = capsule(TABLE)

    def __init__(self, values: Array, change: dict[str, Any] | None = None) -> None:
        self.values = values
        self.change = change or {}
        self.conversions = 0

    def describe(self, out: Any) -> int:
        values = self.values
        out.data = values.ctypes.data
        out.device_type, out.device_id, out.rank, out.byte_offset = 1, 0, values.ndim, 0
        out.code, out.bits, out.lanes = 2, 8 * values.itemsize, 1
        self.shape_ = (ctypes.c_int64 * values.ndim)(*values.shape)
        self.strides_ = (ctypes.c_int64 * values.ndim)(
            *(s // values.itemsize for s in values.strides)
        )
        out.shape = ctypes.cast(self.shape_, ctypes.POINTER(ctypes.c_int64))
        out.strides = ctypes.cast(self.strides_, ctypes.POINTER(ctypes.c_int64))
        for name, value in self.change.items():
            setattr(out, name, value)
        return 0

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        self.conversions += 1
        return self.values


class Newer(Tensor):
    __dlpack_c_exchange_api__ = capsule(NEWER)


class Unknown(Tensor):
    __dlpack_c_exchange_api__ = capsule(UNKNOWN)


class Empty(Tensor):
    __dlpack_c_exchange_api__ = capsule(EMPTY)


class OtherName(Tensor):
    __dlpack_c_exchange_api__ = capsule(TABLE, NAME)


class NoCapsule(Tensor):
    __dlpack_c_exchange_api__ = None


class Inherits(Tensor):
    pass


class Negated(Tensor):
    __dlpack_c_exchange_api__ = capsule(TABLE)

    def is_neg(self) -> bool:
        return True


class Parameter(Tensor):
    """Known by its name to be read as its base."""

    __module__ = "torch.nn.parameter"
    __qualname__ = "Parameter"


class OtherParameter(Parameter):
    pass


class Unsure(Tensor):
    __dlpack_c_exchange_api__ = capsule(TABLE)

    def is_neg(self) -> bool:
        raise RuntimeError("unsure")


class Plain(Tensor):
    __dlpack_c_exchange_api__ = capsule(TABLE)
    requires_grad = True

    def is_neg(self) -> bool:
        return False


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "adam": fo.Adam,
    "loss_scale": lambda: fo.LossScaleOptimizer(fo.SGD(), initial_scale=2.0),
    "multi": lambda: fo.MultiOptimizer(fo.OptimizerMap(fo.SGD(), {"b": fo.Adam()})),
}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)

VALUES: dict[str, Array] = {
    "matrix": np.arange(12.0, dtype=np.float32).reshape(3, 4),
    "half": np.arange(12.0, dtype=np.float16).reshape(3, 4),
    "double": np.arange(12.0).reshape(3, 4),
    "transposed": np.arange(12.0, dtype=np.float32).reshape(4, 3).T,
    "strided": np.arange(48.0, dtype=np.float32).reshape(6, 8)[::2, 1::2],
    "reversed": np.arange(12.0, dtype=np.float32).reshape(3, 4)[::-1],
    "expanded": np.broadcast_to(np.arange(4.0, dtype=np.float32), (3, 4)),
}


@pytest.mark.parametrize("kind", [Tensor, Newer, Plain, Parameter])
@every_optimizer
def test_same_as_an_array(make: Callable[[], Any], kind: Any) -> None:
    w, copy = np.ones((3, 4)), np.ones((3, 4))
    optimizer, other = make(), make()
    optimizer.build({"b": w})
    other.build({"b": copy})
    for values in VALUES.values():
        tensor = kind(values)
        optimizer.apply([tensor])
        optimizer.apply({"b": tensor})
        other.apply([values])
        other.apply([values])
        assert tensor.conversions == 0
        assert w.tobytes() == copy.tobytes()


def test_number_and_offset() -> None:
    w, v = np.ones(()), np.ones(2, np.float32)
    optimizer = fo.SGD(1.0)
    optimizer.build([w, v])
    optimizer.apply([Tensor(np.array(0.5)), Tensor(np.arange(4, dtype=np.float32), {"byte_offset": 4,
                     "shape": (ctypes.c_int64 * 1)(2)})])  # fmt: skip
    assert w == 0.5
    assert v.tolist() == [0.0, -1.0]


@pytest.mark.parametrize(
    "kind", [Unknown, Empty, OtherName, NoCapsule, Inherits, OtherParameter, Negated, Unsure]
)
@every_optimizer
def test_its_array_decides(make: Callable[[], Any], kind: Any) -> None:
    optimizer = make()
    optimizer.build({"b": np.ones(3)})
    tensor = kind(np.full(3, 0.5))
    optimizer.apply([tensor])
    assert tensor.conversions == 1


@pytest.mark.parametrize(
    "change",
    [{"data": None}, {"device_type": 2}, {"code": 4}, {"code": 0}, {"code": 5}, {"bits": 8}, {"lanes": 2},
     {"rank": 65}, {"rank": -1}, {"strides": None}],
    ids=str,
)  # fmt: skip
def test_what_is_not_known_is_left_to_its_array(change: dict[str, Any]) -> None:
    optimizer = fo.SGD(1.0)
    w = np.ones(3)
    optimizer.build([w])
    tensor = Tensor(np.full(3, 0.5), change)
    optimizer.apply([tensor])
    assert tensor.conversions == 1
    assert w.tolist() == [0.5] * 3


@pytest.mark.parametrize("device_type", [1, 3, 11])
def test_memory_of_the_processor(device_type: int) -> None:
    tensor = Tensor(np.ones(3), {"device_type": device_type})
    w = np.ones(3)
    optimizer = fo.SGD(1.0)
    optimizer.build([w])
    optimizer.apply([tensor])
    assert tensor.conversions == 0
    assert w.tolist() == [0.0] * 3


def test_empty_tensors_without_an_address() -> None:
    w, g = (Tensor(np.ones((0, 3), np.float32), {"data": None}) for _ in range(2))
    optimizer = fo.Adam()
    optimizer.build([w, np.ones(1)])
    optimizer.apply([g, np.ones(1)])
    assert g.conversions == w.conversions == 0


def bfloat16(values: list[float]) -> Array:
    """Return the bits of numbers that bfloat16 holds."""
    return (np.array(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


@every_optimizer
def test_bfloat16(make: Callable[[], Any], tmp_path: Path) -> None:
    w = bfloat16([1.0, 2.0])
    tensor, gradient = (Tensor(x, {"code": 4}) for x in (w, bfloat16([0.5, -0.25])))
    optimizer = make()
    optimizer.build({"b": tensor})
    expected = np.array([1.0, 2.0], np.float32)
    other = make()
    other.build({"b": expected})
    for _ in range(300):
        optimizer.apply([gradient])
        other.apply([np.array([0.5, -0.25], np.float32)])
    # The master copy has the numbers of float32.
    found = (w.astype(np.uint32) << 16).view(np.float32)
    assert np.allclose(found, expected, rtol=2.0**-8)
    optimizer.save(tmp_path / "file", variables=True)
    kept = w.copy()
    w[...] = bfloat16([64.0, 64.0])
    optimizer.load(tmp_path / "file")
    assert np.array_equal(w, kept)
    variables, _ = optimizer.stateless_apply(optimizer.variables, [gradient], [tensor])
    assert variables[0].dtype == np.uint16
    assert np.array_equal(w, kept)
    assert tensor.conversions == gradient.conversions == 0


def test_state_from_bfloat16() -> None:
    optimizer = fo.Adam()
    optimizer.build([np.ones(2, np.float32)])
    values = [*optimizer.variables]
    values[2] = Tensor(bfloat16([0.5, -3.0]), {"code": 4})
    optimizer.set_weights(values)
    assert optimizer.variables[2].tolist() == [0.5, -3.0]


class Asked(Tensor):
    __dlpack_c_exchange_api__ = capsule(TABLE)
    is_negative = False
    questions = 0

    def is_neg(self) -> bool:
        self.questions += 1
        return self.is_negative


@every_optimizer
def test_a_tensor_that_is_given_again_is_not_asked_for_its_sign_again(
    make: Callable[[], Any],
) -> None:
    w = np.ones(3)
    optimizer = make()
    optimizer.build({"b": w})
    tensor = Asked(np.ones(3))
    for _ in range(5):
        optimizer.apply([tensor])
    assert tensor.questions == 2
    tensor.values = np.ones(3)  # elsewhere
    optimizer.apply([tensor])
    assert tensor.questions == 3


def test_a_tensor_in_the_place_of_another_is_asked_for_its_sign() -> None:
    values = np.ones(3)
    w = np.zeros(3)
    optimizer = fo.SGD(1.0)
    optimizer.build([w])
    addresses = set()
    for repetitions in (1, 2, 3, 1):
        for is_negative in (False, True):
            tensor = Asked(values)
            addresses.add(id(tensor))
            tensor.is_negative = is_negative
            for _ in range(repetitions):
                optimizer.apply([tensor])
            assert tensor.conversions == (repetitions if is_negative else 0)
            del tensor
    assert len(addresses) < 8  # some do lie in the place of others


def test_a_mask_is_seen() -> None:
    class Masked(Tensor):
        __dlpack_c_exchange_api__ = capsule(TABLE)
        mask = np.zeros(3, bool)

    optimizer = fo.SGD()
    optimizer.build([np.ones(3)])
    with pytest.raises(TypeError, match="expected an array without a mask, found Masked"):
        optimizer.apply([Masked(np.ones(3))])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: w.astype(np.float64),
            r"expected float32 of shape \(3, 3\), as it was built, found its memory moved",
        ),
        (
            lambda w: w[1:],
            r"expected float32 of shape \(3, 3\), .* and now float32 of shape \(2, 3\)",
        ),
        (lambda w: w[:2], r"expected shape \(3, 3\) as at build, found \(2, 3\)"),
        (lambda w: w.T, "expected C-contiguous memory as at build, found it strided"),
    ],
)
@every_optimizer
def test_variables(make: Callable[[], Any], change: Callable[[Array], Array], message: str) -> None:
    w = np.ones((3, 3), np.float32)
    b = Tensor(w)
    optimizer = make()
    optimizer.build({"b": b})
    at_build = b.conversions
    optimizer.apply([np.ones((3, 3))])
    assert b.conversions == at_build
    assert (w < 1).all()
    before = w.tobytes()
    b.values = change(w)
    with pytest.raises(ValueError, match=rf"^variable 0 \('b'\): {message}"):
        optimizer.apply([np.ones((3, 3))])
    assert w.tobytes() == before
    b.values = w
    with pytest.raises(ValueError, match=r"variable 0 \('b'\)"):
        optimizer.apply([Tensor(w)])
    assert w.tobytes() == before
