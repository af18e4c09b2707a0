"""Tensors that offer DLPack's C functions are read by them. If in doubt, their array decides."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
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


@pytest.mark.parametrize("kind", [Tensor, Newer, Plain])
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


@pytest.mark.parametrize("kind", [Unknown, Empty, OtherName, NoCapsule, Inherits, Negated, Unsure])
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
        (lambda w: w.copy(), "expected the memory it was built with, found it moved"),
        (lambda w: w[1:], "expected the memory it was built with, found it moved"),
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


def test_torch() -> None:
    torch = pytest.importorskip("torch")
    w = torch.ones(3)
    optimizer = fo.SGD(1.0)
    optimizer.build([w])
    optimizer.apply([torch.full((3,), 0.5)])
    optimizer.apply([torch.arange(6.0)[::2]])
    expected = [0.5, -1.5, -3.5]
    assert w.tolist() == expected
    for gradient, cause in (
        (torch.ones(3, dtype=torch.complex64).conj().imag, "negative bit"),
        (torch.ones(3, dtype=torch.complex64).conj(), "conjugate bit"),
        (torch.ones(3).to_sparse(), "Sparse"),
        (torch.ones(3, device="meta"), "meta"),
        (torch._efficientzerotensor(3), "ZeroTensor"),
    ):
        with pytest.raises(TypeError, match=f"^gradient of variable 0: .*{cause}"):
            optimizer.apply([gradient])
    assert w.tolist() == expected
    w.data = torch.ones(3)
    with pytest.raises(ValueError, match="found it moved"):
        optimizer.apply([torch.ones(3)])
