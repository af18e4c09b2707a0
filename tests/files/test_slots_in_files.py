"""Slots of fewer bits in files: what a file holds, how it is converted, and damage that is refused."""

from __future__ import annotations

import copy
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fusedopt as fo
import ml_dtypes
import numpy as np
import pytest
from fusedopt import files
from fusedopt.files import SavedFile, write

pytest.importorskip("safetensors")

DTYPES = ["float32", "bfloat16", "float8"]
BLOCK = 64
SHAPES = {"table": (80, 70), "kernel": (13, 11), "bias": (5,), "empty": (0,), "scalar": ()}


def weights(seed: int = 1) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    given = {
        name: np.array(random.normal(size=shape), np.float32) for name, shape in SHAPES.items()
    }
    given["half"] = random.normal(size=(9, 64)).astype(np.float16)
    given["double"] = random.normal(size=(3, 64))
    return given


def gradients(variables: dict[str, Any], step: int) -> dict[str, Any]:
    random = np.random.default_rng([step, 3])
    return {
        name: np.array(random.normal(size=w.shape) * 10.0 ** random.integers(-6, 2), np.float32)
        for name, w in variables.items()
    }


def adam(dtype: str, **arguments: Any) -> fo.Optimizer:
    every = dict.fromkeys(weights(), dtype)
    return fo.Adam(0.01, amsgrad=True, slot_dtype=dtype, slot_dtypes=every, **arguments)  # type: ignore[arg-type]


def multi(dtype: str, **arguments: Any) -> fo.Optimizer:
    names = [name for name in weights() if name not in ("table", "half")]
    own = {"slot_dtype": dtype, "slot_dtypes": dict.fromkeys(("table", "half"), dtype), **arguments}
    rest = fo.Adam(0.02, slot_dtype=dtype, slot_dtypes=dict.fromkeys(names, dtype), seed=9)  # type: ignore[arg-type]
    members = fo.OptimizerMap(rest, {"table|half": fo.SGD(0.01, momentum=0.9, **own)})
    return fo.LossScaleOptimizer(fo.MultiOptimizer(members), initial_scale=2.0)


KINDS: dict[str, Callable[..., fo.Optimizer]] = {"adam": adam, "multi": multi}


def trained(
    kind: str, dtype: str, steps: int = 3, seed: int = 1, **arguments: Any
) -> tuple[Any, dict[str, Any]]:
    optimizer, variables = KINDS[kind](dtype, **arguments), weights(seed)
    optimizer.build(variables)
    for step in range(steps):
        optimizer.apply(gradients(variables, step + seed))
    return optimizer, variables


def state(optimizer: fo.Optimizer) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in optimizer._saved(True)}


def listed(optimizer: fo.Optimizer) -> dict[str, Any]:
    return {name: array.copy() for name, array in optimizer.named_variables().items()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


# What a file holds


def test_types_and_shapes(path: Path) -> None:
    optimizer, _ = trained("adam", "float8")
    optimizer.save(path)
    types = SavedFile(path, "Adam").types
    assert types["momentum/table"] == ("U8", (88, BLOCK))
    assert types["momentum_scale/table"] == ("U16", (88,))
    assert types["velocity_hat/bias"] == ("U8", (1, BLOCK))
    assert types["velocity_hat_scale/bias"] == ("U16", (1,))
    assert types["momentum/half"] == ("U8", (9, BLOCK))
    assert types["master/half"] == ("F32", (9, 64))
    assert types["momentum/double"] == ("F64", (3, 64))
    assert types["seed"] == ("I64", ())
    assert "momentum_scale/double" not in types
    optimizer, _ = trained("adam", "bfloat16")
    optimizer.save(path)
    types = SavedFile(path, "Adam").types
    assert types["momentum/table"] == ("BF16", (80, 70))
    assert types["velocity/half"] == ("BF16", (9, 64))
    assert not any("_scale" in name for name in types)


def test_without_rounding_at_random_there_is_no_seed(path: Path) -> None:
    optimizer, _ = trained("adam", "float32")
    optimizer.save(path)
    assert "seed" not in SavedFile(path, "Adam").types
    optimizer, _ = trained("adam", "float32", master=False)
    optimizer.save(path)
    types = SavedFile(path, "Adam").types
    assert "seed" in types
    assert "master/half" not in types


def test_another_program_can_read_the_halves(path: Path) -> None:
    """safetensors' own reader knows the type, and ml_dtypes its numbers."""
    optimizer, _ = trained("adam", "bfloat16")
    optimizer.save(path)
    import safetensors

    with safetensors.safe_open(path, framework="numpy") as file:
        found = file.get_tensor("velocity/table")
    assert found.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(
        found.astype(np.float32), optimizer.named_variables()["velocity/table"]
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip_goes_on_with_the_same_bits(kind: str, dtype: str, path: Path) -> None:
    optimizer, variables = trained(kind, dtype, seed=7)
    optimizer.save(path, variables=True)
    other, others = trained(kind, dtype, steps=1)
    assert other.load(path) is None
    assert state(other) == state(optimizer)
    for step in range(3):
        optimizer.apply(gradients(variables, step))
        other.apply(gradients(others, step))
    assert state(other) == state(optimizer)


def test_seed_is_loaded_and_stays(path: Path) -> None:
    optimizer, variables = trained("adam", "float8", seed=5)
    optimizer.seed = 77
    optimizer.save(path, variables=True)
    other, others = trained("adam", "float8")
    other.load(path)
    assert other.seed == 77
    assert other.get_config()["seed"] == 77
    other.epsilon = other.epsilon  # passes all options on again
    for made in (other, copy.deepcopy(other), copy.copy(other)):
        assert made.seed == 77
    optimizer.apply(gradients(variables, 0))
    other.apply(gradients(others, 0))
    assert state(other) == state(optimizer)


# Another slot_dtype


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("there", DTYPES)
@pytest.mark.parametrize("here", DTYPES)
def test_conversion(kind: str, there: str, here: str, path: Path) -> None:
    source, _ = trained(kind, there)
    source.save(path, variables=True)
    target, variables = trained(kind, here, steps=1, seed=2)
    before = state(target)
    if here != there:
        with pytest.raises(ValueError, match=r"momentum.*convert_slots=True") as caught:
            target.load(path)
        assert f"expected a slot of {here}, found one of {there}" in str(caught.value)
        assert str(path) in str(caught.value)
        assert state(target) == before
    assert target.load(path, convert_slots=True) is None
    found, expected = listed(target), listed(source)
    assert found.keys() == expected.keys()
    for name, array in found.items():
        if here in ("float32", there) or array.dtype != np.float32 or "double" in name:
            np.testing.assert_array_equal(array, expected[name], err_msg=name)
        else:
            assert_nearest(here, name, array, expected[name])
    target.apply(gradients(variables, 0))


def assert_nearest(dtype: str, name: str, found: Any, expected: Any) -> None:
    if dtype == "bfloat16":
        nearest = expected.astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(found, nearest, err_msg=name)
        return
    assert found[expected == 0].tolist() == expected[expected == 0].tolist()
    size = np.array([np.abs(block).max() for block in in_blocks(expected)])
    error, allowed = in_blocks(found - expected), np.abs(in_blocks(expected)) / 15
    if "momentum" in name:
        assert (np.abs(error) <= allowed + size[:, None] * 2.0**-11).all(), name
    else:  # raised where it bounds an update
        assert (found[expected > 0] > 0).all(), name
        assert (-error <= allowed).all(), name
        assert not error.size or (error <= allowed).mean() > 0.9, name


def in_blocks(array: Any) -> Any:
    padded = np.zeros(-(-array.size // BLOCK) * BLOCK)
    padded[: array.size] = array.reshape(-1)
    return padded.reshape(-1, BLOCK)


@pytest.mark.parametrize("there", DTYPES)
@pytest.mark.parametrize("here", DTYPES)
def test_conversion_of_what_fits(there: str, here: str, path: Path) -> None:
    """Without the argument another type is in both lists; with it the slots are taken."""
    source, _ = trained("adam", there)
    source.save(path)
    target, variables = trained("adam", here, steps=1, seed=2)
    slots = {name for name in dict(target._core.state()) if name.endswith("/table")}
    if here != there:
        before = state(target)
        report = target.load(path, strict=False)
        assert slots <= set(report.missing)
        assert {"momentum/table", "velocity/table"} <= set(report.unexpected)
        assert {name: state(target)[name] for name in slots} == {
            name: before[name] for name in slots
        }
        if here == "float32":
            assert "seed" in report.unexpected
    report = target.load(path, strict=False, convert_slots=True)
    assert set(report.missing) <= {"seed"}
    assert set(report.unexpected) <= {"seed"}
    other, _ = trained("adam", here, steps=2, seed=3)
    other.load(path, convert_slots=True)
    ours, theirs = dict(target._core.state()), dict(other._core.state())
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - {"seed"} - {n for n in ours if n.startswith("master/")}:
        assert ours[name].tobytes() == theirs[name].tobytes(), name
    target.apply(gradients(variables, 0))


def test_a_momentum_that_rests_keeps_its_sign(path: Path) -> None:
    coded, whole = fo.SGD(0.1, momentum=0.9, slot_dtype="float8"), fo.SGD(0.1, momentum=0.9)
    for each in (coded, whole):
        each.build({"w": np.ones(5000, np.float32)})
    coded.apply({"w": np.linspace(-1, 1, 5000, dtype=np.float32)})
    coded.save(path)
    whole.momentum = 0.0
    with pytest.warns(UserWarning, match="momentum 0.0"):
        whole.load(path, convert_slots=True)
    found, expected = (each.named_variables()["momentum/w"] for each in (whole, coded))
    assert (expected < 0).any()
    np.testing.assert_array_equal(found, expected)


def test_slots_of_a_variable_are_converted_together_or_not_at_all(path: Path) -> None:
    source = fo.RMSprop(slot_dtype="bfloat16")
    source.build({"a": np.ones(70, np.float32), "b": np.ones(70, np.float32)})
    source.apply([np.ones(70), np.ones(70)])
    source.save(path)
    target = fo.Adam(slot_dtype="float8", slot_dtypes={"a": "float8", "b": "float8"})
    target.build({"a": np.ones(70, np.float32), "b": np.ones(70, np.float32)})
    before = state(target)
    report = target.load(path, strict=False, convert_slots=True)
    assert {name for name in report.missing if name.endswith("/a")} == {
        name for name in before if name.endswith("/a") and not name.startswith("variable/")
    }
    assert "velocity/a" in report.unexpected
    kept = {name for name in before if name.startswith(("momentum", "velocity"))}
    assert {name: state(target)[name] for name in kept} == {name: before[name] for name in kept}


def test_conversion_keeps_zero_and_bounds_updates(path: Path) -> None:
    """The nearest codes of m and v alone could give a larger update than v >= k m^2 does."""
    size = 640
    source = fo.Adam(1.0, epsilon=1e-30)
    source.build({"w": np.zeros(size, np.float32)})
    random = np.random.default_rng(3)
    for _ in range(30):
        gradient = 10.0 ** random.uniform(-8, 0, size) * (random.random(size) < 0.1)
        source.apply([gradient])
    source.save(path)
    target = fo.Adam(1.0, epsilon=1e-30, slot_dtypes={"w": "float8"})
    target.build({"w": np.zeros(size, np.float32)})
    target.load(path, convert_slots=True)
    m, v = (target.named_variables()[f"{slot}/w"] for slot in ("momentum", "velocity"))
    zero = source.named_variables()["velocity/w"] == 0
    assert zero.any()
    assert (m[zero] == 0).all()
    assert (v[zero] == 0).all()
    moved = m != 0
    assert (np.abs(m[moved]) <= 7.3 * np.sqrt(v[moved].astype(np.float64))).all()


# Damage


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Write a file anew with other contents and right checksums."""
    file = SavedFile(path, None)
    file.verify()
    tensors = {name: file.array(name) for name in file.types}
    bits = {name for name, (dtype, _) in file.types.items() if dtype == "BF16"}
    change(tensors)
    ordered = [
        (name, array.view(ml_dtypes.bfloat16) if name in bits else array)
        for name, array in tensors.items()
    ]
    write(path, ordered, file.description)
    file.close()


@pytest.mark.parametrize("here", ["float8", "float32"])
@pytest.mark.parametrize(
    "scale", [0x0100, 0x2000, 0xC010, 0x00F9, 0x80FF, 0xFFFF], ids=lambda scale: f"{scale:#06x}"
)
@pytest.mark.parametrize("slot", ["momentum", "velocity_hat"])
def test_damaged_scales_are_refused(here: str, scale: int, slot: str, path: Path) -> None:
    source, _ = trained("adam", "float8")
    source.save(path, variables=True)
    rewritten(path, lambda tensors: tensors[f"{slot}_scale/table"].__setitem__(5, scale))
    target, _ = trained("adam", here, steps=1, seed=2)
    before = state(target)
    for strict in (True, False):
        with pytest.raises(ValueError, match=rf"{slot}_scale/table.*scale") as caught:
            target.load(path, strict=strict, convert_slots=here != "float8")  # type: ignore[call-overload]
        assert str(path) in str(caught.value)
        assert state(target) == before


def test_any_codes_can_be_loaded(path: Path) -> None:
    """Every code of a sound scale stands for a number, an infinity or a NaN. None stops the program."""
    source, _ = trained("adam", "float8")
    source.save(path, variables=True)
    random = np.random.default_rng(1)

    def change(tensors: dict[str, Any]) -> None:
        for name in [n for n in tensors if n.startswith(("momentum/", "velocity/"))]:
            if tensors[name].dtype == np.uint8:
                tensors[name][...] = random.integers(0, 256, tensors[name].shape)
                base = random.integers(0, 241, tensors[name].shape[0])
                flag = random.integers(0, 3, tensors[name].shape[0]) * 0x4000
                slot, variable = name.split("/")
                tensors[f"{slot}_scale/{variable}"][...] = base | flag

    rewritten(path, change)
    target, variables = trained("adam", "float8", steps=1, seed=2)
    target.load(path)
    assert np.isnan(target.named_variables()["momentum/table"]).any()
    other, _ = trained("adam", "float32", steps=1, seed=2)
    other.load(path, convert_slots=True)
    for name, array in listed(other).items():
        np.testing.assert_array_equal(array, target.named_variables()[name], err_msg=name)
    target.apply(gradients(variables, 0))


@pytest.mark.parametrize("lost", ["momentum_scale/table", "momentum/table"])
@pytest.mark.parametrize("here", ["float8", "float32"])
def test_codes_without_scales_and_the_reverse(lost: str, here: str, path: Path) -> None:
    source, _ = trained("adam", "float8")
    source.save(path)
    rewritten(path, lambda tensors: tensors.pop(lost))
    target, _ = trained("adam", here, steps=1, seed=2)
    before = state(target)
    with pytest.raises(ValueError, match=lost if here == "float8" else "table"):
        target.load(path, convert_slots=True)
    assert state(target) == before
    report = target.load(path, strict=False, convert_slots=True)
    slots = {name for name in before if name.endswith("/table") and "variable" not in name}
    assert slots <= set(report.missing)
    assert {name: state(target)[name] for name in slots} == {name: before[name] for name in slots}


@pytest.mark.parametrize("position", [0.2, 0.5, 0.9])
def test_damaged_bytes_are_refused(position: float, path: Path) -> None:
    source, _ = trained("adam", "float8")
    source.save(path)
    whole = bytearray(path.read_bytes())
    length = int.from_bytes(whole[:8], "little")
    place = 8 + length + int((len(whole) - 8 - length) * position)
    whole[place] ^= 0x10
    path.write_bytes(whole)
    for here in DTYPES:
        target, _ = trained("adam", here, steps=1, seed=2)
        before = state(target)
        with pytest.raises(ValueError, match="the file is damaged"):
            target.load(path, convert_slots=True)
        assert state(target) == before


def test_checksums_are_of_the_codes(path: Path) -> None:
    optimizer, _ = trained("adam", "float8")
    optimizer.save(path)
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    sums = json.loads(header["__metadata__"]["crc32"])
    own = dict(optimizer._core.state())
    assert sums.keys() == own.keys()
    assert {name: f"{zlib.crc32(array.tobytes()):08x}" for name, array in own.items()} == sums


def test_variables_of_16_bits_are_no_slots(path: Path) -> None:
    """A file with bfloat16 variables is read as before, whatever the slots."""
    w = np.arange(6, dtype=np.float32).astype(ml_dtypes.bfloat16)
    source = fo.SGD(momentum=0.9, master=False, slot_dtype="bfloat16")
    source.build({"w": w})
    source.apply([np.ones(6)])
    source.save(path, variables=True)
    types = SavedFile(path, "SGD").types
    assert types[files.VARIABLE + "w"] == types["momentum/w"] == ("BF16", (6,))
    other = np.zeros(6, ml_dtypes.bfloat16)
    target = fo.SGD(momentum=0.9, master=False)
    target.build({"w": other})
    target.load(path, convert_slots=True)
    assert other.tobytes() == w.tobytes()
    np.testing.assert_array_equal(
        target.named_variables()["momentum/w"], source.named_variables()["momentum/w"]
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_schedule_free_slot_of_fewer_bits_begins_at_the_loaded_variable(
    dtype: Any, path: Path
) -> None:
    given = {name: w for name, w in weights().items() if name in ("kernel", "half", "double")}
    given["brain"] = weights()["table"].astype(ml_dtypes.bfloat16)
    source = fo.SGD()
    source.build(given)
    source.save(path, variables=True)
    target = fo.ScheduleFreeAdamW(slot_dtype=dtype)
    variables = {name: np.zeros_like(w) for name, w in given.items()}
    target.build(variables)
    report = target.load(path, strict=False)
    assert "momentum/kernel" in report.missing
    for name, w in given.items():
        assert variables[name].tobytes() == w.tobytes()
        expected = w.astype(np.float32) if w.dtype != np.float64 else w
        if dtype == "bfloat16" and name != "double":
            expected = expected.astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(target.named_variables()[f"momentum/{name}"], expected)
    assert target.iterations == 0
    target.apply({name: np.ones(w.shape) for name, w in variables.items()})
