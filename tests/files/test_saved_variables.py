"""State and variables in one file (`save(variables=True)`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from sample_arrays import DTYPES_BY_VARIABLE

# Some build by a list, and then no key of the map has a name to match.
pytestmark = pytest.mark.filterwarnings("ignore:optimizer_map. no variable's name matches")

safetensors = pytest.importorskip("safetensors")
safetensors_numpy = pytest.importorskip("safetensors.numpy")


def make_weights(fill: float) -> dict[str, Any]:
    weights = {name: np.full((3, 4), fill, dtype) for name, dtype in DTYPES_BY_VARIABLE.items()}
    return weights | {"gain": np.array(fill, np.float16), "nothing": np.zeros((0, 2))}


def make(kind: str) -> fo.Optimizer:
    optimizer: fo.Optimizer = fo.Adam(0.1, use_ema=True)
    if "several" in kind:
        optimizer = fo.MultiOptimizer(fo.OptimizerMap(optimizer, {"b.*": fo.Lion(0.1)}))
    return fo.LossScaleOptimizer(optimizer) if "scaled" in kind else optimizer


def step(optimizer: fo.Optimizer, count: int) -> None:
    for k in range(count):
        optimizer.apply([np.full(a.shape, k + 1.0) for a in optimizer._core.arrays])


def bits(optimizer: fo.Optimizer) -> list[bytes]:
    state = [array for _, array in optimizer._core.state()]
    return [array.tobytes() for array in (*state, *optimizer._core.arrays)]


@pytest.mark.parametrize("named", [True, False], ids=["named", "in order"])
@pytest.mark.parametrize("kind", ["alone", "scaled", "several", "several, scaled"])
def test_both_are_restored(kind: str, named: bool, tmp_path: Path) -> None:
    def build(fill: float) -> fo.Optimizer:
        optimizer, weights = make(kind), make_weights(fill)
        optimizer.build(weights if named else list(weights.values()))
        return optimizer

    first, second = build(1.0), build(2.0)
    step(first, 3)
    first.save(tmp_path / "state", variables=True)
    step(second, 1)
    second.load(tmp_path / "state")
    assert bits(second) == bits(first)
    step(first, 2)
    step(second, 2)
    assert bits(second) == bits(first)


def test_names_and_dtypes_in_the_file(tmp_path: Path) -> None:
    optimizer = fo.SGD()
    optimizer.build(make_weights(1.5))
    optimizer.save(tmp_path / "state", variables=True)
    with safetensors.safe_open(tmp_path / "state", framework="numpy") as file:
        names = {name for name in file.keys() if name.startswith("variable/")}  # noqa: SIM118
        assert names == {f"variable/{name}" for name in make_weights(0)}
        assert file.get_slice("variable/brain").get_dtype() == "BF16"
        np.testing.assert_array_equal(file.get_tensor("variable/half"), np.full((3, 4), 1.5))


def test_variables_are_left_alone_on_demand(tmp_path: Path) -> None:
    first, second = fo.Adam(), fo.Adam()
    first.build({"w": np.ones(3)})
    w = np.full(3, 2.0)
    second.build({"w": w})
    step(first, 2)
    first.save(tmp_path / "both", variables=True)
    first.save(tmp_path / "state")
    second.load(tmp_path / "both", variables=False)
    assert second.iterations == 2
    np.testing.assert_array_equal(w, 2.0)
    second.load(tmp_path / "state")
    np.testing.assert_array_equal(w, 2.0)
    second.load(tmp_path / "both", variables=True)
    assert (w < 1).all()


def test_a_file_without_variables_has_none_to_give(tmp_path: Path) -> None:
    optimizer = fo.Adam()
    optimizer.build({"w": np.ones(3)})
    optimizer.save(tmp_path / "state")
    step(optimizer, 1)
    before = bits(optimizer)
    with pytest.raises(ValueError, match=r"state: expected the variables, too, as save\("):
        optimizer.load(tmp_path / "state", variables=True)
    assert bits(optimizer) == before


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_variables_of_another_dtype_are_refused(tmp_path: Path, dtype: Any) -> None:
    first, second = fo.SGD(), fo.SGD()
    first.build({"w": np.ones(3, np.float32)})
    first.save(tmp_path / "both", variables=True)
    first.save(tmp_path / "state")
    w = np.full(3, 2, dtype)
    second.build({"w": w})
    step(second, 1)
    before = bits(second)
    with pytest.raises(ValueError, match="both: "):
        second.load(tmp_path / "both")
    assert bits(second) == before


@pytest.mark.parametrize("value", [1, "yes", None])
def test_the_argument_is_true_or_false(tmp_path: Path, value: Any) -> None:
    optimizer = fo.SGD()
    optimizer.build([np.zeros(3)])
    with pytest.raises(TypeError, match="variables: expected"):
        optimizer.save(tmp_path / "state", variables=value)
    optimizer.save(tmp_path / "state")
    if value is not None:
        with pytest.raises(TypeError, match="variables: expected"):
            optimizer.load(tmp_path / "state", variables=value)


def test_moved_and_read_only_memory_is_found(tmp_path: Path) -> None:
    w = np.ones(100_000)
    optimizer = fo.SGD()
    optimizer.build({"w": w})
    optimizer.save(tmp_path / "both", variables=True)
    w.flags.writeable = False
    step_before = optimizer.iterations
    with pytest.raises(ValueError, match="'w'.*read-only"):
        optimizer.load(tmp_path / "both")
    assert optimizer.iterations == step_before
    w.flags.writeable = True
    w.__setstate__(np.zeros(200_000).__reduce__()[2])
    with pytest.raises(ValueError, match="'w'.*moved"):
        optimizer.save(tmp_path / "both", variables=True)


def test_bfloat16_needs_no_package_to_be_read_by(tmp_path: Path) -> None:
    program = """
import sys
import numpy as np
import ml_dtypes
import safetensors.numpy
safetensors.numpy._TYPES.pop("BF16", None)
import fusedopt as fo
w = np.full(3, 1.5, ml_dtypes.bfloat16)
optimizer = fo.Adam()
optimizer.build({"w": w})
optimizer.save(sys.argv[1], variables=True)
w[...] = 0
optimizer.load(sys.argv[1])
assert (w == 1.5).all()
"""
    command = [sys.executable, "-c", program, str(tmp_path / "state")]
    subprocess.run(command, check=True, timeout=120)
