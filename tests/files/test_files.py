"""State in a file: whole or not at all, and a new process goes on bit for bit."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
import safetensors.numpy
from cases import CASES, VARIANTS, Case
from sample_arrays import NAMED_DTYPES


def make(case: Case, wrapped: bool) -> fo.Optimizer:
    arguments = dict(case.arguments)
    if not wrapped:
        return getattr(fo, case.rule)(**arguments)
    arguments.pop("loss_scale_factor", None)
    return fo.LossScaleOptimizer(
        getattr(fo, case.rule)(**arguments), initial_scale=64.0, dynamic_growth_steps=3
    )


def make_weights(dtype: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "kernel": rng.standard_normal((30, 40)).astype(dtype),
        "bias": rng.standard_normal(7).astype(dtype),
        "gain": np.array(rng.standard_normal(), dtype),
        "nothing": np.zeros((0, 3), dtype),
    }


def take_steps(optimizer: fo.Optimizer, weights: dict[str, Any], first: int, last: int) -> None:
    for step in range(first, last):
        rng = np.random.default_rng(50 + step)
        gradients = {
            name: (np.array(rng.standard_normal(w.shape)) * 64).astype(w.dtype)
            for name, w in weights.items()
        }
        if isinstance(optimizer, fo.LossScaleOptimizer) and step in (2, 9):
            gradients["bias"][3] = np.inf
        optimizer.apply(gradients)


def bits(optimizer: fo.Optimizer, weights: dict[str, Any]) -> list[bytes]:
    return [w.tobytes() for w in weights.values()] + [v.tobytes() for v in optimizer.variables]


def check_continuation(case: Case, dtype: Any, wrapped: bool, path: Path) -> None:
    weights = make_weights(dtype)
    optimizer = make(case, wrapped)
    optimizer.build(weights)
    take_steps(optimizer, weights, 0, 10)
    optimizer.save(path)
    copies = {name: w.copy() for name, w in weights.items()}
    other = make(case, wrapped)
    other.build(copies)
    other.load(path)
    assert bits(other, copies) == bits(optimizer, weights)
    take_steps(optimizer, weights, 10, 20)
    take_steps(other, copies, 10, 20)
    assert bits(other, copies) == bits(optimizer, weights)


@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "loss_scale"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_ten_steps_a_file_and_ten_more_are_twenty(
    case: Case, wrapped: bool, tmp_path: Path
) -> None:
    check_continuation(case, np.float32, wrapped, tmp_path / "state")


@pytest.mark.parametrize("dtype", NAMED_DTYPES)
@pytest.mark.parametrize("case", VARIANTS, ids=str)
def test_every_dtype_goes_on(case: Case, dtype: str, tmp_path: Path) -> None:
    check_continuation(case, NAMED_DTYPES[dtype], False, tmp_path / "state")


def test_several_optimizers_go_on(tmp_path: Path) -> None:
    def make_multi() -> fo.Optimizer:
        return fo.LossScaleOptimizer(
            fo.MultiOptimizer(fo.OptimizerMap(fo.Nadam(), {"kernel": fo.Lamb(use_ema=True)}))
        )

    weights = make_weights(np.float16)
    optimizer = make_multi()
    optimizer.build(weights)
    take_steps(optimizer, weights, 0, 4)
    optimizer.save(tmp_path / "state")
    copies = {name: w.copy() for name, w in weights.items()}
    other = make_multi()
    other.build(copies)
    other.load(tmp_path / "state")
    take_steps(optimizer, weights, 4, 12)
    take_steps(other, copies, 4, 12)
    assert bits(other, copies) == bits(optimizer, weights)


def test_a_new_process_goes_on(tmp_path: Path) -> None:
    program = """
import sys, numpy as np, fusedopt as fo
folder, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
w = np.load(folder + "/w.npy")
optimizer = fo.AdamW(use_ema=True, global_clipnorm=1.0)
optimizer.build({"w": w})
if first:
    optimizer.load(folder + "/state")
for step in range(first, last):
    optimizer.apply({"w": np.random.default_rng(step).standard_normal(w.shape).astype(w.dtype)})
optimizer.save(folder + "/state")
np.save(folder + "/w.npy", w)
"""

    def run(folder: Path, *spans: tuple[int, int]) -> list[bytes]:
        folder.mkdir()
        np.save(folder / "w.npy", np.linspace(-1, 1, 3000).astype(np.float16))
        for first, last in spans:
            command = [sys.executable, "-c", program, str(folder), str(first), str(last)]
            subprocess.run(command, check=True, timeout=120)
        state = safetensors.numpy.load_file(folder / "state")
        return [(folder / "w.npy").read_bytes(), *(state[name].tobytes() for name in sorted(state))]

    assert run(tmp_path / "once", (0, 20)) == run(tmp_path / "twice", (0, 10), (10, 20))


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, fo.Optimizer, dict[str, Any]]:
    weights = make_weights(np.float32)
    optimizer = fo.Adam()
    optimizer.build(weights)
    take_steps(optimizer, weights, 0, 3)
    path = tmp_path / "state.safetensors"
    optimizer.save(path)
    return path, optimizer, weights


def test_the_file_is_readable_elsewhere(saved: Any) -> None:
    path, optimizer, _ = saved
    tensors = safetensors.numpy.load_file(path)
    np.testing.assert_array_equal(tensors["momentum/bias"], optimizer.variables[4])
    assert int(tensors["iteration"]) == 3
    with safetensors.safe_open(path, framework="numpy") as file:
        description = json.loads(file.metadata()["optimizer"])
    assert fo.deserialize(description).get_config() == optimizer.get_config()


def damaged(path: Path, kind: str) -> None:
    whole = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(whole[:-100])
    elif kind == "header cut":
        path.write_bytes(whole[:40])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "garbage":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"a": 1}))
    elif kind == "huge header":
        path.write_bytes((1 << 62).to_bytes(8, "little") + whole[8:])
    elif kind == "deep header":
        header = b'{"a":' * 100_000
        path.write_bytes(len(header).to_bytes(8, "little") + header)
    elif kind == "foreign":
        safetensors.numpy.save_file({"weight": np.zeros(3)}, path)
    elif kind == "another class":
        other = fo.SGD()
        other.build(make_weights(np.float32))
        other.save(path)
    elif kind == "other shapes":
        other = fo.Adam()
        other.build({name: np.zeros(2, np.float32) for name in make_weights(np.float32)})
        other.save(path)
    elif kind == "other options":
        other = fo.Adam(use_ema=True)
        other.build(make_weights(np.float32))
        other.save(path)
    else:
        tensors = safetensors.numpy.load_file(path)
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
        if kind == "other bytes":
            tensors["momentum/kernel"][3, 4] += 1
        elif kind == "another dtype":
            metadata["format"] = "fusedopt-1"  # has no checksums
            tensors["momentum/kernel"] = tensors["momentum/kernel"].astype(np.float64)
        elif kind == "bad values":
            metadata["format"] = "fusedopt-1"
            tensors["learning_rate"][...] = np.nan
        elif kind == "no checksums":
            del metadata["crc32"]
        elif kind == "wrong checksums":
            metadata["crc32"] = json.dumps({"iteration": "x"})
        elif kind == "deep checksums":
            metadata["crc32"] = "[" * 100_000
        elif kind == "deep description":
            metadata["optimizer"] = '{"class_name":' * 100_000
        elif kind == "listed description":
            metadata["optimizer"] = "[1, 2]"
        elif kind == "no description":
            del metadata["optimizer"]
        elif kind == "a later format":
            metadata["format"] = "fusedopt-99"
        safetensors.numpy.save_file(tensors, path, metadata=metadata)


@pytest.mark.parametrize(
    "kind",
    [
        "truncated",
        "header cut",
        "empty",
        "garbage",
        "pickle",
        "foreign",
        "another class",
        "other shapes",
        "other options",
        "huge header",
        "deep header",
        "other bytes",
        "another dtype",
        "bad values",
        "no checksums",
        "wrong checksums",
        "deep checksums",
        "deep description",
        "listed description",
        "no description",
        "a later format",
    ],
)
def test_a_wrong_file_is_refused_and_changes_nothing(saved: Any, kind: str) -> None:
    path, optimizer, weights = saved
    damaged(path, kind)
    before = bits(optimizer, weights)
    with pytest.raises(ValueError, match="expected") as caught:
        optimizer.load(path)
    assert path.name in str(caught.value)
    assert bits(optimizer, weights) == before


def test_there_must_be_a_file_and_a_built_optimizer(tmp_path: Path) -> None:
    optimizer = fo.SGD()
    with pytest.raises(ValueError, match="save: the optimizer is not built"):
        optimizer.save(tmp_path / "state")
    with pytest.raises(ValueError, match="load: the optimizer is not built"):
        optimizer.load(tmp_path / "state")
    optimizer.build([np.zeros(3)])
    with pytest.raises(FileNotFoundError):
        optimizer.load(tmp_path / "state")
    with pytest.raises(FileNotFoundError):
        optimizer.save(tmp_path / "no" / "state")


def test_functions_have_no_place_in_the_file(tmp_path: Path) -> None:
    w = np.zeros(3)
    optimizer = fo.SGD(learning_rate=lambda: 0.5)
    optimizer.build([w])
    optimizer.apply([np.ones(3)])
    optimizer.save(tmp_path / "state")
    other = fo.SGD(learning_rate=lambda: 0.5)
    other.build([w])
    other.load(tmp_path / "state")
    assert other.iterations == 1


def scaled_before() -> tuple[fo.Optimizer, dict[str, Any]]:
    weights = {
        "kernel": np.linspace(-1, 1, 6).reshape(2, 3).astype(np.float16),
        "bias": np.ones(3, np.float32),
    }
    optimizer = fo.LossScaleOptimizer(
        fo.Adam(use_ema=True), initial_scale=64.0, dynamic_growth_steps=3
    )
    return optimizer, weights


def coded_before() -> tuple[fo.Optimizer, dict[str, Any]]:
    weights = {"table": np.linspace(-1, 1, 4096, dtype=np.float32), "bias": np.ones(3, np.float32)}
    return fo.AdamW(slot_dtype="float8", seed=5, gradient_accumulation_steps=3), weights


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (scaled_before, "fusedopt-1.safetensors"),
        (scaled_before, "fusedopt-2.safetensors"),
        (coded_before, "fusedopt-2-coded.safetensors"),
    ],
    ids=["fusedopt-1", "fusedopt-2", "fusedopt-2-coded"],
)
def test_files_written_before_are_read(
    make: Callable[[], tuple[fo.Optimizer, dict[str, Any]]], name: str
) -> None:
    expected, weights = make()
    expected.build(weights)
    for step in range(4):
        expected.apply(
            {name: np.full(w.shape, 64.0 * (step + 1), np.float32) for name, w in weights.items()}
        )
    found, again = make()
    found.build(again)
    found.load(Path(__file__).parent / name)
    for (entry, array), (_, same) in zip(expected._core.state(), found._core.state(), strict=True):
        assert array.tobytes() == same.tobytes(), entry


def test_a_counter_that_an_old_file_does_not_have_is_zero(tmp_path: Path) -> None:
    optimizer = fo.LossScaleOptimizer(fo.SGD())
    w = np.ones(3)
    optimizer.build([w])
    optimizer.apply([np.full(3, np.inf)])
    optimizer.save(tmp_path / "state")
    assert optimizer.consecutive_skipped_steps == 1
    tensors = safetensors.numpy.load_file(tmp_path / "state")
    del tensors["loss_scale/consecutive_skipped_steps"]
    with safetensors.safe_open(tmp_path / "state", framework="numpy") as file:
        metadata = file.metadata()
    metadata["format"] = "fusedopt-1"
    safetensors.numpy.save_file(tensors, tmp_path / "state", metadata=metadata)
    optimizer.load(tmp_path / "state")
    assert optimizer.consecutive_skipped_steps == 0


def loading(optimizer: fo.Optimizer, path: Path, saved: Any, before: Any) -> bool:
    """Whether a file is loaded, as it was saved; if not, nothing has changed."""
    optimizer.set_weights(before)
    refusal = None
    try:
        optimizer.load(path)
    except ValueError as error:
        refusal = str(error)
    expected = saved if refusal is None else before
    assert [v.tobytes() for v in optimizer.variables] == [v.tobytes() for v in expected]
    assert refusal is None or str(path) in refusal
    return refusal is None


@pytest.mark.filterwarnings("ignore:load")  # a digit of an argument has changed
def test_every_flipped_byte_and_every_cut_is_found(tmp_path: Path) -> None:
    path = tmp_path / "state"
    optimizer = fo.SGD(momentum=0.9)
    optimizer.build({"w": np.zeros(2)})
    before = [v.copy() for v in optimizer.variables]
    optimizer.apply({"w": np.array([1.0, -2.0])})
    saved = [v.copy() for v in optimizer.variables]
    optimizer.save(path)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    assert loading(optimizer, path, saved, before)
    for position in range(len(whole)):
        for flip in (0x01, 0x20, 0xFF):
            damaged = bytearray(whole)
            damaged[position] ^= flip
            path.write_bytes(damaged)
            assert not loading(optimizer, path, saved, before) or 8 <= position < header
        path.write_bytes(whole[:position])
        assert not loading(optimizer, path, saved, before)
    path.write_bytes(whole + b"more")
    assert not loading(optimizer, path, saved, before)


@pytest.mark.filterwarnings("ignore:load")
@pytest.mark.parametrize("seed", range(3))
def test_noise_is_refused_or_does_no_harm(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "state"
    optimizer = fo.Adam()
    optimizer.build({"w": np.zeros(3), "v": np.zeros(3)})
    before = [v.copy() for v in optimizer.variables]
    optimizer.apply({"w": np.ones(3), "v": np.full(3, 2.0)})
    saved = [v.copy() for v in optimizer.variables]
    optimizer.save(path)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(seed)
    for _ in range(1000):
        damaged = whole.copy()
        first, count = rng.integers(len(whole)), rng.integers(1, 9)
        part = damaged[first : first + count]
        part[:] = rng.choice(whole, len(part)) if rng.random() < 0.5 else rng.integers(256)
        path.write_bytes(damaged.tobytes())
        loading(optimizer, path, saved, before)


@pytest.mark.parametrize(("here", "there"), [(0.5, "schedule"), ("schedule", 0.5)])
@pytest.mark.parametrize("several", [False, True])
def test_a_number_does_not_take_the_place_of_a_schedule(
    tmp_path: Path, here: Any, there: Any, several: bool
) -> None:
    def made(rate: Any) -> fo.Optimizer:
        optimizer = fo.SGD(fo.schedules.CosineDecay(0.1, 100) if rate == "schedule" else rate)
        if several:
            optimizer = fo.MultiOptimizer(fo.OptimizerMap(fo.SGD(), {"w": optimizer}))
        optimizer.build({"w": np.zeros(3)})
        return optimizer

    made(there).save(tmp_path / "state")
    optimizer = made(here)
    kind = "a number" if here == 0.5 else "a schedule or callable"
    with pytest.raises(ValueError, match=f"expected the state of .* rate is {kind}"):
        optimizer.load(tmp_path / "state")


def test_load_replaces_numbers_that_change_and_no_others(tmp_path: Path) -> None:
    first = fo.SGD(learning_rate=0.5, momentum=0.9, weight_decay=0.1)
    first.build([np.zeros(3)])
    first.save(tmp_path / "state")
    second = fo.SGD(learning_rate=0.1, momentum=0.5, weight_decay=0.2)
    second.build([np.zeros(3)])
    with pytest.warns(UserWarning, match=r"momentum 0\.5 .*0\.9.*, weight_decay 0\.2 .*0\.1"):
        second.load(tmp_path / "state")
    assert (second.learning_rate, second.momentum, second.weight_decay) == (0.5, 0.5, 0.2)
    assert second.get_config()["learning_rate"] == 0.5


class Odd(fo.SGD):
    """Has a configuration that no file can hold."""

    depth = 0

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()
        for _ in range(self.depth):
            config = {"config": config}
        if self.depth == 0:
            config["config"] = config
        return config


@pytest.mark.parametrize("depth", [0, 100_000])
def test_a_configuration_that_no_file_can_hold(tmp_path: Path, depth: int) -> None:
    optimizer = Odd()
    optimizer.build([np.zeros(3)])
    optimizer.depth = depth
    with pytest.raises(ValueError, match="expected a configuration without cycles"):
        optimizer.save(tmp_path / "state")
    assert list(tmp_path.iterdir()) == []
