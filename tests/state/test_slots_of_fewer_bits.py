"""Slots of fewer bits in the lists of state: read-only copies, values that are set, and copies of optimizers."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import fusedopt as fo
import ml_dtypes
import numpy as np
import pytest
from copies import WAYS, Model, assert_same_future, gradients, state, variables, way

DTYPES = ["bfloat16", "float8"]
both = pytest.mark.parametrize("dtype", DTYPES)


def adam(dtype: str, **arguments: Any) -> Any:
    named = dict.fromkeys(variables(), dtype)
    return fo.Adam(0.01, slot_dtype=dtype, slot_dtypes=named, **arguments)  # type: ignore[arg-type]


def several(dtype: str) -> Any:
    """Members that keep their slots in different ways."""
    dense = fo.RMSprop(0.01, momentum=0.9, slot_dtypes={"dense/kernel": dtype}, seed=3)  # type: ignore[dict-item]
    head = fo.Nadam(0.01, slot_dtype="bfloat16", master=False, use_ema=True)
    return fo.MultiOptimizer(fo.OptimizerMap(fo.Adam(0.02), {"dense/.*": dense, "head/.*": head}))


KINDS: dict[str, Callable[[str], Any]] = {
    "adam": adam,
    "averages": lambda dtype: adam(dtype, use_ema=True, gradient_accumulation_steps=2),
    "lion": lambda dtype: fo.Lion(1e-3, slot_dtype=dtype, seed=5),  # type: ignore[arg-type]
    "without master": lambda dtype: adam(dtype, master=False, weight_decay=0.1),
    "scaled": lambda dtype: fo.LossScaleOptimizer(adam(dtype, seed=8), 4.0, 2),
    "several": several,
    "several, scaled": lambda dtype: fo.LossScaleOptimizer(several(dtype), 8.0, 3),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def model(kind: str, dtype: str, **how: Any) -> Model:
    return Model(KINDS[kind](dtype), **how)


# Lists


@both
@kinds
def test_lists_have_the_names_and_shapes_of_whole_slots(kind: str, dtype: str) -> None:
    found = model(kind, dtype).optimizer.named_variables()
    expected = model(kind, "float32").optimizer.named_variables()
    assert list(found) == list(expected)
    for name, array in found.items():
        assert (array.dtype, array.shape) == (expected[name].dtype, expected[name].shape), name


@both
def test_copies_cannot_be_written_in_silence(dtype: str) -> None:
    mine = model("adam", dtype)
    for name, array in mine.optimizer.named_variables().items():
        is_copy = (
            name.startswith(("momentum/", "velocity/")) and "dense/bias" not in name
        )  # float64
        assert array.flags.writeable == (not is_copy), name
        if is_copy:
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0


@both
def test_copies_are_of_one_moment_and_keep_themselves(dtype: str) -> None:
    mine = model("adam", dtype)
    found = mine.optimizer.named_variables()["momentum/dense/kernel"]
    before = found.copy()
    mine.step(7)
    assert found.tobytes() == before.tobytes()
    assert (mine.optimizer.named_variables()["momentum/dense/kernel"] != before).any()
    gone = weakref.ref(mine.optimizer)
    del mine
    gc.collect()
    assert gone() is None
    assert found.tobytes() == before.tobytes()


@both
def test_averages_stay_live(dtype: str) -> None:
    mine = model("averages", dtype, steps=4)
    averages = mine.optimizer.averages
    assert averages.keys() == mine.weights.keys()
    for array in averages.values():
        array[...] = 3
    with mine.optimizer.evaluation_weights() as lent:
        assert all((np.asarray(w, np.float32) == 3).all() for w in lent.values())


# Values


@both
@kinds
def test_values_that_are_set_are_rounded_to_the_nearest(kind: str, dtype: str) -> None:
    source, mine = model(kind, "float32", steps=5), model(kind, dtype)
    expected = source.optimizer.named_variables()
    mine.optimizer.set_weights(source.optimizer.variables)
    for name, found in mine.optimizer.named_variables().items():
        value = expected[name]
        if found.flags.writeable:
            np.testing.assert_array_equal(found, value, err_msg=name)
            continue
        assert ((value != 0) | (found == 0)).all(), name
        halves = value.astype(ml_dtypes.bfloat16).astype(np.float32)
        if not (found == halves).all():
            assert dtype == "float8", name
            scale = np.abs(value).max()
            np.testing.assert_allclose(found, value, rtol=0.26, atol=scale * 2.0**-14, err_msg=name)
    mine.step(3)


@both
def test_values_that_are_listed_are_set_exactly_or_to_a_neighbour(dtype: str) -> None:
    """Of float8 a scale may be another one, and a number may then be none of its codes."""
    mine, other = model("adam", dtype, steps=6), model("adam", dtype)
    other.optimizer.set_weights(mine.optimizer.variables)
    for name, found in other.optimizer.named_variables().items():
        expected = mine.optimizer.named_variables()[name]
        if dtype == "bfloat16":
            assert found.tobytes() == expected.tobytes(), name
        else:
            np.testing.assert_allclose(
                found, expected, rtol=0.26, atol=np.abs(expected).max() * 2.0**-14, err_msg=name
            )


@both
@kinds
def test_stores_go_both_ways(kind: str, dtype: str) -> None:
    mine, whole, other = model(kind, dtype), model(kind, "float32"), model(kind, dtype)
    store: dict[str, Any] = {}
    mine.optimizer.save_own_variables(store)
    assert all(array.flags.writeable for array in store.values())
    assert all(array.dtype.kind in "if" for array in store.values())
    whole.optimizer.load_own_variables(store)
    for found, expected in zip(whole.optimizer.variables, store.values(), strict=True):
        assert found.tobytes() == expected.tobytes()
    store.clear()
    whole.optimizer.save_own_variables(store)
    other.optimizer.load_own_variables(store)
    for a, b in zip(other.optimizer.variables, mine.optimizer.variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=0.26, atol=np.abs(b).max() * 2.0**-14)
    other.step(3)


@both
def test_refused_values_change_nothing(dtype: str) -> None:
    mine = model("adam", dtype)
    before = state(mine.optimizer)
    values = [np.array(array) for array in mine.optimizer.variables]
    for bad in (values[:-1], [*values[:-1], np.ones(3)], [np.array(-1), *values[1:]]):
        with pytest.raises(ValueError, match="set_weights"):
            mine.optimizer.set_weights(bad)
        assert state(mine.optimizer) == before


def test_a_slot_without_a_sign_takes_no_negative_number() -> None:
    mine = model("adam", "float8")
    before = state(mine.optimizer)
    names = list(mine.optimizer.named_variables())
    values = [np.array(array) for array in mine.optimizer.variables]
    place = next(k for k, name in enumerate(names) if name.startswith("velocity/"))
    for negative in (-1.5, -1e-30):
        values[place].flat[7] = negative
        with pytest.raises(
            ValueError, match=rf"velocity/.*expected numbers >= 0.*found {negative} at 7"
        ):
            mine.optimizer.set_weights(values)
        assert state(mine.optimizer) == before
    values[place].flat[7] = -0.0
    mine.optimizer.set_weights(values)


@both
def test_special_values_are_kept(dtype: str) -> None:
    """An infinity and a NaN stay what they are, and spoil nothing beside them."""
    w = np.zeros(300, np.float32)
    optimizer = fo.Adam(slot_dtypes={"w": dtype})  # type: ignore[dict-item]
    optimizer.build({"w": w})
    m, v = np.full(300, 0.5, np.float32), np.full(300, 0.25, np.float32)
    m[3], m[70], m[71], v[5], v[130], v[131] = np.inf, np.nan, -np.inf, np.inf, np.nan, 3e38
    optimizer.set_weights([np.array(1), np.array(0.001), m, v])
    found_m, found_v = optimizer.variables[2:]
    assert found_m[[3, 71]].tolist() == [np.inf, -np.inf]
    assert np.isnan(found_m).nonzero()[0].tolist() == [70]
    assert found_v[5] == np.inf
    assert np.isnan(found_v).nonzero()[0].tolist() == [130]
    assert np.isfinite(found_v[131])
    plain = np.ones(300, bool)
    plain[[3, 70, 71, 5, 130, 131]] = False
    assert (np.abs(found_m[plain] - 0.5) < 0.05).all()
    outside = plain & ~((np.arange(300) >= 128) & (np.arange(300) < 192))  # the block of 3e38
    assert (np.abs(found_v[outside] - 0.25) < 0.03).all()


# Copies


@way
@both
@kinds
def test_copies_go_on_bit_for_bit(way: Any, kind: str, dtype: str) -> None:
    mine = model(kind, dtype)
    assert_same_future(mine, way(mine))


@both
@kinds
def test_shallow_copies_have_slots_of_their_own(kind: str, dtype: str) -> None:
    mine = model(kind, dtype)
    other = copy.copy(mine.optimizer)
    assert state(other) == state(mine.optimizer)
    before = state(mine.optimizer)
    other.apply(gradients(9))
    assert state(mine.optimizer) == before
    assert state(other) != before


@pytest.mark.parametrize("ready", ["built", "not built"])
@pytest.mark.parametrize("how", WAYS)
def test_a_copy_has_the_seed_of_now(ready: str, how: str) -> None:
    optimizer = fo.Adam(slot_dtype="bfloat16", seed=1)
    if ready == "built":
        optimizer.build([np.zeros(3, np.float32)])
    optimizer.seed = 2**40
    assert WAYS[how](optimizer).seed == 2**40


def test_joblib(tmp_path: Any) -> None:
    joblib = pytest.importorskip("joblib")
    w = np.ones((1000, 500), np.float32)
    for dtype in DTYPES:
        optimizer = fo.Adam(slot_dtype=dtype)  # type: ignore[arg-type]
        optimizer.build([w.copy()])
        optimizer.apply([w])
        joblib.dump(optimizer, tmp_path / dtype)
        for mmap_mode in (None, "r", "c"):
            with pytest.warns(UserWarning) if mmap_mode == "r" else nullcontext():
                other = joblib.load(tmp_path / dtype, mmap_mode=mmap_mode)
            assert state(other) == state(optimizer)
            other.apply([w])


# Steps that change nothing here


@both
@kinds
def test_stateless_apply(kind: str, dtype: str) -> None:
    """Of given values it makes what a step makes of them once they are set."""
    mine, other = model(kind, dtype), model(kind, dtype, steps=0)
    before, weights = state(mine.optimizer), [w.copy() for w in mine.weights.values()]
    given = mine.optimizer.variables
    some = list(gradients(4).values())
    new, after = mine.optimizer.stateless_apply(given, some, list(mine.weights.values()))
    assert state(mine.optimizer) == before
    assert [w.tobytes() for w in mine.weights.values()] == [w.tobytes() for w in weights]
    for w, value in zip(other.weights.values(), weights, strict=True):
        w[...] = value
    other.optimizer.set_weights(given)
    other.optimizer.apply(some)
    assert [w.tobytes() for w in new] == [w.tobytes() for w in other.weights.values()]
    listed = [array.tobytes() for array in other.optimizer.variables]
    assert [array.tobytes() for array in after] == listed
    assert all(array.flags.writeable for array in after)


def test_stateless_apply_has_the_seed_that_was_loaded(tmp_path: Any) -> None:
    pytest.importorskip("safetensors")
    w = np.linspace(1, 2, 200, dtype=np.float32)
    optimizer, source = (fo.Adam(slot_dtype="bfloat16", seed=seed) for seed in (1, 2))
    for each in (optimizer, source):
        each.build([w.copy()])
    source.save(tmp_path / "state")
    optimizer.load(tmp_path / "state")
    _, after = optimizer.stateless_apply(optimizer.variables, [w], [w])
    source.apply([w])
    assert [a.tobytes() for a in after] == [b.tobytes() for b in source.variables]
