"""Objects that give no usable array are refused. The error says which one, why in its own words, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from reference import Array

# Some build by a list, and then no key of the map has a name to match.
pytestmark = pytest.mark.filterwarnings("ignore:optimizer_map. no variable's name matches")


class Raises:
    """Says why it cannot be converted, and what to do about it."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        raise self.error


class GivesList:
    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return [1.0, 2.0]


class WrongSignature:
    def __array__(self, one: Any, two: Any) -> Array:
        return np.ones(2)


class Sparse:
    def toarray(self) -> Array:
        return np.ones(2)


class OnGraphicsCard:
    __cuda_array_interface__ = None


class Exchanged:
    def __dlpack__(self) -> object:
        return None


# What it is, what is said of it, and what to do.
OBJECTS: dict[str, tuple[Any, list[str]]] = {
    "list": ([1.0, 2.0], ["found list", "give numpy.array of it"]),
    "tuple": ((1.0, 2.0), ["found tuple", "give numpy.array of it"]),
    "range": (range(2), ["found range", "give numpy.array of it"]),
    "float": (1.5, ["found float", "give numpy.array of it"]),
    "bool": (True, ["found bool", "give numpy.array of it"]),
    "complex": (1j, ["found complex", "give numpy.array of it"]),
    "text": ("kernel", ["found str", "give the array itself"]),
    "dict": ({"kernel": np.ones(2)}, ["found dict", "give one array here", "flat dict"]),
    "iterator": (iter([1.0]), ["found list_iterator", "collect its items"]),
    "object": (object(), ["found object", "give a numpy.ndarray"]),
    "sparse": (Sparse(), ["found Sparse", ".toarray()"]),
    "card": (OnGraphicsCard(), ["found OnGraphicsCard", "copy it to the CPU"]),
    "dlpack": (Exchanged(), ["found Exchanged", "give a numpy.ndarray"]),
    "raises": (
        Raises(RuntimeError("It requires grad. Use .detach() instead.")),
        ["found Raises", "(RuntimeError: It requires grad. Use .detach() instead);", "convert it"],
    ),
    "device": (
        Raises(TypeError("can't convert a cuda:0 tensor")),
        ["found Raises", "(TypeError: can't convert a cuda:0 tensor);", "convert it"],
    ),
    "silent": (Raises(KeyError()), ["found Raises", "(KeyError);", "convert it"]),
    "no_array": (GivesList(), ["found GivesList", "not producing an array", "convert it"]),
    "signature": (WrongSignature(), ["found WrongSignature", "TypeError: ", "'one'", "convert it"]),
    "int": (np.ones(2, np.int64), ["found dtype int64", ".astype(numpy.float32)"]),
    "numpy_bool": (np.ones(2, bool), ["found dtype bool", ".astype(numpy.float32)"]),
    "numpy_object": (np.ones(2, object), ["found dtype object", ".astype(numpy.float32)"]),
    "numpy_complex": (np.ones(2, complex), ["found dtype complex128", ".real or .imag"]),
    "byte_order": (np.ones(2, ">f8"), ["found dtype >f8", ".astype('float64')"]),
    "fields": (np.zeros(2, [("x", "f4")]), ["found dtype [('x'", "one of its fields", "['x']"]),
    "time": (np.zeros(2, "M8[s]"), ["found dtype datetime64[s]", "give an array of numbers"]),
}
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": fo.SGD,
    "loss_scale": lambda: fo.LossScaleOptimizer(fo.SGD()),
    "multi": lambda: fo.MultiOptimizer(fo.OptimizerMap(fo.SGD(), {"b": fo.Adam()})),
}

every_object = pytest.mark.parametrize(("value", "parts"), OBJECTS.values(), ids=OBJECTS)
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def check(call: Callable[[], Any], who: str, parts: list[str]) -> None:
    with pytest.raises(TypeError) as caught:
        call()
    message = str(caught.value)
    assert message.startswith(f"{who}: expected ")
    assert [part for part in parts if part not in message] == [], message
    assert message.count("; ") == 1


@every_object
@every_optimizer
def test_gradient(make: Callable[[], Any], value: Any, parts: list[str]) -> None:
    a, b = np.ones(3), np.ones(2)
    optimizer = make()
    optimizer.build({"a": a, "b": b})
    who = "gradient of variable 1 ('b')"
    check(lambda: optimizer.apply([np.ones(3), value]), who, parts)
    check(lambda: optimizer.apply({"b": value, "a": np.ones(3)}), who, parts)
    check(lambda: optimizer.apply({"b": value}), who, parts)
    check(lambda: optimizer.apply([value], [b]), "gradient 0, of variable 1 ('b')", parts)
    assert optimizer.iterations == 0
    assert a.tolist() + b.tolist() == [1.0] * 5


@every_object
@every_optimizer
def test_variable(make: Callable[[], Any], value: Any, parts: list[str]) -> None:
    optimizer = make()
    check(lambda: optimizer.build({"a": np.ones(3), "b": value}), "variable 1 ('b')", parts)
    check(lambda: optimizer.build([value]), "variable 0", parts)
    assert not optimizer.built


@pytest.mark.parametrize("name", ["raises", "device", "silent", "no_array", "signature"])
@every_optimizer
def test_weights(make: Callable[[], Any], name: str) -> None:
    value, parts = OBJECTS[name]
    optimizer = make()
    optimizer.build([np.ones(2)])
    values = [*optimizer.variables]
    values[1] = value
    with pytest.raises(TypeError, match=r"^set_weights: array 1 \(.*\): expected") as caught:
        optimizer.set_weights(values)
    assert [part for part in parts if part not in str(caught.value)] == []


def test_weights_of_another_kind_say_what_to_do() -> None:
    optimizer = fo.SGD()
    optimizer.build([np.ones(2)])
    with pytest.raises(ValueError, match=r"found float64; convert it with \.astype\('int64'\)$"):
        optimizer.set_weights([0.0, 0.1])


def test_the_cause_is_kept() -> None:
    cause = RuntimeError("on another device")
    optimizer = fo.SGD()
    optimizer.build([np.ones(2)])
    with pytest.raises(TypeError) as caught:
        optimizer.apply([Raises(cause)])
    assert caught.value.__cause__ is cause


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError, GeneratorExit])
def test_what_is_no_fault_of_the_object_passes_through(error: type[BaseException]) -> None:
    optimizer = fo.SGD()
    optimizer.build([np.ones(2)])
    for call in (
        lambda: optimizer.apply([Raises(error())]),
        lambda: fo.SGD().build([Raises(error())]),
        lambda: optimizer.set_weights([0, Raises(error())]),
    ):
        with pytest.raises(error) as caught:
            call()
        assert caught.value.args == ()


class Rows:
    """An array of two dimensions, whose rows one can iterate over."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return np.ones((2, 2))

    def __iter__(self) -> Iterator[Array]:
        return iter(np.ones((2, 2)))


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (np.ones((2, 2)), "put it into a list"),
        (Rows(), "put it into a list"),
        (memoryview(np.ones(2)), "put it into a list"),
        ({1.0, 2.0}, "give a list"),
        ("ab", "give a list"),
        (1.0, "give a list"),
    ],
    ids=["ndarray", "rows", "memoryview", "set", "text", "float"],
)
@every_optimizer
def test_no_list_of_arrays(make: Callable[[], Any], value: Any, advice: str) -> None:
    a, b = np.ones(2), np.ones(2)
    optimizer, unbuilt = make(), make()
    optimizer.build([a, b])
    found = f"sequence.* of arrays, found {type(value).__name__}; {advice}$"
    for name, call in (
        ("grads", lambda: optimizer.apply(value)),
        ("grads", lambda: optimizer.apply(value, [a, b])),
        ("trainable_variables", lambda: optimizer.apply([np.ones(2)] * 2, value)),
        ("trainable_variables", lambda: optimizer.stateless_apply([], [np.ones(2)] * 2, value)),
        ("var_list", lambda: optimizer.finalize_variable_values(value)),
        ("weights", lambda: optimizer.set_weights(value)),
        ("variables", lambda: unbuilt.build(value)),
    ):
        with pytest.raises(TypeError, match=f"^{name}: expected a {found}"):
            call()
    assert a.tolist() + b.tolist() == [1.0] * 4
    assert not unbuilt.built


def test_exclusions_are_a_list() -> None:
    with pytest.raises(TypeError, match=r"^var_list: .* found ndarray; put it into a list$"):
        fo.AdamW().exclude_from_weight_decay(np.ones((2, 2)))


@pytest.mark.parametrize("give", [iter, tuple, list, lambda g: (x for x in g)])
@every_optimizer
def test_other_sequences_are_welcome(make: Callable[[], Any], give: Callable[[Any], Any]) -> None:
    a, b = np.ones(2), np.ones(2)
    optimizer = make()
    optimizer.build([a, b])
    optimizer.apply(give([np.ones(2)] * 2))
    optimizer.apply({0: np.ones(2), 1: np.ones(2)}.values())
    assert (np.concatenate([a, b]) < 1.0).all()


def test_advice_of_the_dtype_holds() -> None:
    w = np.ones(2)
    optimizer = fo.SGD(learning_rate=1.0)
    optimizer.build([w])
    optimizer.apply([np.ones(2, ">f8").astype("float64")])
    optimizer.apply([np.ones(2, np.int64).astype(np.float32)])
    assert w.tolist() == [-1.0, -1.0]
