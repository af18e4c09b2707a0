"""Arrays with a mask are refused as variables, gradients and values, because a mask is never dropped in silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from reference import Array

# Some build by a list, and then no key of the map has a name to match.
pytestmark = pytest.mark.filterwarnings("ignore:optimizer_map. no variable's name matches")


class OwnMaskedArray(np.ma.MaskedArray[Any, Any]):
    """A subclass of NumPy's."""


class OtherMasked(np.ndarray[Any, Any]):
    """Another library's array with a mask."""

    mask = True


class GivesMasked:
    """Its conversion gives a masked array, which numpy.asarray would strip."""

    def __init__(self, values: Array) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.ma.MaskedArray(self.values, mask=self.values > 0)


class DropsMask(GivesMasked):
    """Its conversion drops the mask that it has."""

    @property
    def mask(self) -> Array:
        return self.values > 0

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return self.values


class MaskedInterface:
    """The array interface has a place for a mask, which NumPy does not read."""

    def __init__(self, values: Array) -> None:
        self.values = values

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {**self.values.__array_interface__, "mask": self.values > 0}


MASKED: dict[str, Callable[[Array], Any]] = {
    "some": lambda a: np.ma.MaskedArray(a, mask=a > 0),
    "none": np.ma.MaskedArray,
    "subclass": lambda a: OwnMaskedArray(a, mask=a > 0),
    "other": lambda a: a.view(OtherMasked),
    "gives": GivesMasked,
    "drops": DropsMask,
    "interface": MaskedInterface,
}
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "adam": lambda: fo.Adam(use_ema=True),
    "loss_scale": lambda: fo.LossScaleOptimizer(fo.Adam(use_ema=True)),
    "multi": lambda: fo.MultiOptimizer(fo.OptimizerMap(fo.SGD(), {"b": fo.Adam(use_ema=True)})),
}

masked = pytest.mark.parametrize("masked", MASKED.values(), ids=MASKED)
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def refused(who: str) -> Any:
    message = rf"{who}: expected an array without a mask, found \w+; give \.data .* \.filled\(0\)"
    return pytest.raises(TypeError, match=message)


@masked
@every_optimizer
def test_gradient(make: Callable[[], Any], masked: Callable[[Array], Any]) -> None:
    a, b = np.ones(2), np.ones(3)
    optimizer = make()
    optimizer.build({"a": a, "b": b})
    before = [v.tobytes() for v in optimizer.variables]
    good, bad = np.ones(2), masked(np.array([1.0, -1.0, 2.0]))
    with refused(r"gradient of variable 1 \('b'\)"):
        optimizer.apply([good, bad])
    with refused(r"gradient of variable 1 \('b'\)"):
        optimizer.apply({"b": bad, "a": good})
    with refused(r"gradient of variable 1 \('b'\)"):
        optimizer.apply({"b": bad})
    with refused(r"gradient 0, of variable 1 \('b'\)"):
        optimizer.apply([bad], [b])
    with refused(r"gradient 1, of variable 1 \('b'\)"):
        optimizer.apply_gradients([(good, a), (bad, b)])
    with refused(r"gradient of variable 1 \('b'\)"):
        optimizer.stateless_apply(optimizer.variables, [good, bad], [a, b])
    assert [v.tobytes() for v in optimizer.variables] == before
    assert a.tolist() == [1.0] * 2
    assert b.tolist() == [1.0] * 3


@masked
@every_optimizer
def test_variable(make: Callable[[], Any], masked: Callable[[Array], Any]) -> None:
    a, b = np.ones(2), np.ones(3)
    optimizer = make()
    with refused(r"variable 1 \('b'\)"):
        optimizer.build({"a": a, "b": masked(b)})
    assert not optimizer.built
    with refused("variable 1"):
        optimizer.apply([a, b], [a, masked(b)])
    assert not optimizer.built
    optimizer.build({"a": a, "b": b})
    with refused("build: variable 1"):
        optimizer.build([a, masked(b)])
    with refused("variable at position 0"):
        optimizer.apply([np.ones(3)], [masked(b)])
    with refused("finalize_variable_values: variable 1"):
        optimizer.finalize_variable_values([a, masked(b)])
    with refused(r"stateless_apply: variable 1 \('b'\)"):
        optimizer.stateless_apply(optimizer.variables, [np.ones(2), np.ones(3)], [a, masked(b)])
    assert b.tolist() == [1.0] * 3


@masked
@every_optimizer
def test_weights(make: Callable[[], Any], masked: Callable[[Array], Any]) -> None:
    optimizer = make()
    optimizer.build({"a": np.ones(2), "b": np.ones(3)})
    store: dict[str, Any] = {}
    optimizer.save_own_variables(store)
    position = next(k for k, v in store.items() if v.shape == (3,))
    store[position] = masked(np.array([1.0, -1.0, 2.0]))
    for set_values in (
        lambda: optimizer.load_own_variables(store),
        lambda: optimizer.set_weights(list(store.values())),
        lambda: optimizer.stateless_apply(
            list(store.values()), [np.ones(2), np.ones(3)], [np.ones(2), np.ones(3)]
        ),
    ):
        with refused(rf"set_weights: array {position} \(.*\)"):
            set_values()
    assert all(not v.any() for v in optimizer.variables if v.shape == (3,))


@masked
def test_exclusion(masked: Callable[[Array], Any]) -> None:
    w = np.ones(3)
    optimizer = fo.AdamW()
    optimizer.exclude_from_weight_decay([masked(w)])
    with refused("exclude_from_weight_decay: variable 0"):
        optimizer.build([w])
    assert not optimizer.built


def test_a_method_of_this_name_is_no_mask() -> None:
    class Column(GivesMasked):
        def mask(self) -> None:
            raise AssertionError("this changes values elsewhere")

        def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
            return self.values

    w = np.ones(2)
    optimizer = fo.SGD(learning_rate=1.0)
    optimizer.build([Column(w)])
    optimizer.apply([Column(np.ones(2))])
    assert w.tolist() == [0.0, 0.0]


def test_advice() -> None:
    w = np.ma.MaskedArray([1.0, 1.0, 1.0], mask=[0, 1, 0])
    optimizer = fo.SGD(learning_rate=1.0)
    optimizer.build([w.data])
    optimizer.apply([np.ma.MaskedArray([1.0, 2.0, 3.0], mask=[0, 1, 0]).filled(0)])
    assert w.data.tolist() == [0.0, 1.0, -2.0]
