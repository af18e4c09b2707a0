"""Slots of fewer bits in Keras: refused with the reason, wherever they are. Keras's stores take their numbers."""

from __future__ import annotations

from typing import Any

import fusedopt as fo
import in_keras as given
import numpy as np
import pytest
from in_keras import adapter, keras

TEXT = "slot_dtype.*: expected 'float32', because variables of Keras's share memory"


def several(**options: Any) -> fo.Optimizer:
    return fo.MultiOptimizer(fo.OptimizerMap(fo.Adam(), {"a": fo.SGD(momentum=0.9, **options)}))


@pytest.mark.parametrize(
    "option", [{"slot_dtype": "bfloat16"}, {"slot_dtypes": {"v0": "float8"}}], ids=str
)
@pytest.mark.parametrize(
    "make",
    [
        fo.Adam,
        lambda **options: fo.LossScaleOptimizer(fo.Adam(**options)),
        several,
        lambda **options: fo.LossScaleOptimizer(several(**options)),
    ],
    ids=["alone", "scaled", "several", "several, scaled"],
)
def test_slots_of_fewer_bits_are_refused(make: Any, option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=TEXT):
        adapter.Optimizer(make(**option))


def test_assigned_ones_are_refused_by_build() -> None:
    optimizer = given.fused("Adam")
    optimizer.slot_dtype = "bfloat16"
    with pytest.raises(ValueError, match=TEXT):
        optimizer.build(given.variables(np.ones(3, np.float32)))
    optimizer.slot_dtype = "float32"
    optimizer.build(given.variables(np.ones(3, np.float32)))


@given.ignore_keras
def test_without_master_copies() -> None:
    """The numbers are those of the optimizer itself, and files have no copies."""
    values = np.linspace(1, 2, 200).astype(np.float16)
    (v,) = given.variables(values, dtype="float16")
    optimizer = given.fused("Adam", 0.01, master=False, seed=3)
    plain, w = fo.Adam(0.01, master=False, seed=3), values.copy()
    optimizer.build([v])
    plain.build([w])
    for step in range(4):
        gradient = np.linspace(-1, step, 200).astype(np.float16)
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [v])
        plain.apply([gradient])
        assert given.value(v).tobytes() == w.tobytes()
    store: dict[str, Any] = {}
    optimizer.save_own_variables(store)
    assert set(store) == {"0", "1", "2", "3"}


@given.ignore_keras
@pytest.mark.parametrize("dtype", ["bfloat16", "float8"])
def test_stores_of_keras_go_both_ways(dtype: Any) -> None:
    """What an optimizer of fusedopt lists has Keras's shapes and types, and Keras's values are rounded."""
    random = np.random.default_rng(1)
    w = random.normal(size=(80, 64)).astype(np.float32)
    (v,) = given.variables(w)
    theirs = given.theirs("Adam", 0.01)
    theirs.build([v])
    for _ in range(3):
        theirs.apply([keras.ops.convert_to_tensor(random.normal(size=w.shape).astype("f4"))], [v])
    store: dict[str, Any] = {}
    theirs.save_own_variables(store)
    store = {key: np.array(keras.ops.convert_to_numpy(value)) for key, value in store.items()}
    ours = fo.Adam(0.01, slot_dtype=dtype)
    ours.build([w])
    ours.load_own_variables(store)
    assert ours.iterations == 3
    back: dict[str, Any] = {}
    ours.save_own_variables(back)
    assert back.keys() == store.keys()
    tolerance = 0.005 if dtype == "bfloat16" else 0.45  # raised where it bounds an update
    for key in ("2", "3"):
        assert (back[key].dtype, back[key].shape) == (store[key].dtype, store[key].shape)
        floor = np.abs(store[key]).max() * 2.0**-10
        np.testing.assert_allclose(back[key], store[key], rtol=tolerance, atol=floor)
    theirs.load_own_variables(back)
    np.testing.assert_array_equal(given.value(theirs.variables[2]), back["2"])
