"""State in a file: whole or not at all, and a new process goes on bit for bit."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import fusedopt as fo
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from cases import CASES, VARIANTS, Case

DTYPES = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float32": np.float32,
    "float64": np.float64,
}


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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", VARIANTS, ids=str)
def test_every_dtype_goes_on(case: Case, dtype: str, tmp_path: Path) -> None:
    check_continuation(case, DTYPES[dtype], False, tmp_path / "state")


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
    elif kind == "folder":
        path.unlink()
        path.mkdir()
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
    elif kind == "bad values":
        tensors = safetensors.numpy.load_file(path)
        tensors["learning_rate"][...] = np.nan
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
        safetensors.numpy.save_file(tensors, path, metadata=metadata)


@pytest.mark.parametrize(
    "kind",
    [
        "truncated",
        "header cut",
        "empty",
        "garbage",
        "pickle",
        "folder",
        "foreign",
        "another class",
        "other shapes",
        "other options",
        "bad values",
    ],
)
def test_a_wrong_file_is_refused_and_changes_nothing(saved: Any, kind: str) -> None:
    path, optimizer, weights = saved
    damaged(path, kind)
    before = bits(optimizer, weights)
    with pytest.raises(ValueError, match="expected") as caught:
        optimizer.load(path)
    assert path.name in str(caught.value) or kind == "bad values"
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


@pytest.mark.parametrize("function", ["save_file", "fsync", "replace"])
def test_a_failure_while_writing_leaves_the_old_file(
    saved: Any, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, optimizer, weights = saved
    whole = path.read_bytes()
    take_steps(optimizer, weights, 3, 5)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    if function == "save_file":
        monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    elif function == "fsync":
        monkeypatch.setattr("os.fsync", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        optimizer.save(path)
    assert path.read_bytes() == whole
    assert list(path.parent.iterdir()) == [path]


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
