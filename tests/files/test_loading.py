"""Loading takes little memory. It finishes what it has begun, and is never half done in silence."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from fusedopt import files

pytest.importorskip("safetensors")

SIZE = 400_000  # more than a piece of the file


def make() -> fo.Optimizer:
    optimizer = fo.Adam()
    optimizer.build({"w": np.zeros(SIZE)})
    return optimizer


def bits(optimizer: fo.Optimizer) -> list[bytes]:
    return [array.tobytes() for array in (*optimizer.variables, *optimizer._core.arrays)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    optimizer = make()
    for _ in range(3):
        optimizer.apply({"w": np.linspace(-1, 1, SIZE)})
    optimizer.save(tmp_path / "state", variables=True)
    return tmp_path / "state"


MEMORY = """
import sys, threading
import numpy as np
import fusedopt as fo
import safetensors.numpy

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024

def forget():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")

def build(size):
    w = np.zeros(size, np.float32)
    optimizer = fo.LossScaleOptimizer(fo.Adam(use_ema=True))
    optimizer.build({"w": w})
    optimizer.apply({"w": np.ones(size, np.float32)})
    return optimizer

size, path = int(sys.argv[1]), sys.argv[2]
small = build(10)
small.save(path, variables=True)
small.load(path)
optimizer = build(size)
state = sum(array.nbytes for array in optimizer.variables)
forget()
before = peak()
optimizer.save(path, variables=True)
saving = (peak() - before) / state
forget()
before = peak()
optimizer.load(path)
print(saving, (peak() - before) / state)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the most memory used")
def test_loading_takes_a_fifth_of_the_state_at_most(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MEMORY, "4000000", str(tmp_path / "state")]
    done = subprocess.run(command, check=True, timeout=300, capture_output=True, text=True)
    saving, loading = map(float, done.stdout.split())
    assert saving < 1.5  # the state and the variables, copied once
    assert loading < 0.2


class Hooked:
    """A core that calls a function when it has taken the numbers, between the two readings of a file."""

    def __init__(self, core: Any, then: Callable[[], None]) -> None:
        self._core, self._then = core, then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def set_state(self, values: Any) -> None:
        self._core.set_state(values)
        self._then()


def test_what_changes_between_the_two_readings_is_not_loaded_in_silence(path: Path) -> None:
    optimizer = make()
    optimizer.apply({"w": np.ones(SIZE)})
    whole = path.read_bytes()
    core = optimizer._core

    def change() -> None:
        with path.open("r+b") as file:
            file.seek(len(whole) - 100)
            file.write(b"changed")

    optimizer._core = Hooked(core, change)  # type: ignore[assignment]
    with pytest.raises(
        ValueError, match="changed while loading; the state is now partly"
    ) as caught:
        optimizer.load(path)
    assert str(path) in str(caught.value)
    optimizer._core = core
    with pytest.raises(ValueError, match="iteration"):
        optimizer.apply({"w": np.ones(SIZE)})
    with pytest.raises(ValueError, match="save: expected a whole state"):
        optimizer.save(path)
    with pytest.raises(ValueError, match="the file is damaged"):
        optimizer.load(path)
    path.write_bytes(whole)
    optimizer.load(path)
    assert optimizer.iterations == 3
    optimizer.apply({"w": np.ones(SIZE)})


def test_a_file_cut_between_the_two_readings(path: Path) -> None:
    optimizer = fo.LossScaleOptimizer(fo.Adam())
    optimizer.build({"w": np.zeros(SIZE)})
    optimizer.save(path)
    core = optimizer._core

    def cut() -> None:
        os.truncate(path, path.stat().st_size // 2)

    optimizer._core = Hooked(core, cut)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="cut while loading; the state is now partly"):
        optimizer.load(path)
    with pytest.raises(ValueError, match="iteration"):
        optimizer.apply({"w": np.ones(SIZE)})


def test_an_interruption_comes_after_what_was_begun(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, optimizer = make(), make()
    expected.load(path)
    copy, count = files.SavedFile.copy_to, 0

    def interrupted(self: Any, name: str, array: Any, begin: int = 0) -> None:
        nonlocal count
        copy(self, name, array, begin)
        count += array.ndim
        if array.ndim and count <= 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(files.SavedFile, "copy_to", interrupted)
    with pytest.raises(KeyboardInterrupt):
        optimizer.load(path)
    assert count > 2
    assert bits(optimizer) == bits(expected)


def test_an_interruption_before_that_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = make()
    before = bits(optimizer)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.SavedFile, "verify", interrupted)
    with pytest.raises(KeyboardInterrupt):
        optimizer.load(path)
    assert bits(optimizer) == before


def test_a_save_meanwhile_is_no_damage(path: Path) -> None:
    """What is open stays the old file; what is opened next is the new one."""
    optimizer, other = make(), make()
    core = optimizer._core

    def replace() -> None:
        other.save(path, variables=True)

    optimizer._core = Hooked(core, replace)  # type: ignore[assignment]
    optimizer.load(path)
    assert optimizer.iterations == 3
    optimizer._core = core
    optimizer.load(path)
    assert optimizer.iterations == 0
    assert bits(optimizer) == bits(other)
