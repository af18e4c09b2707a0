"""`nbytes` is what an optimizer holds beside the variables."""

from __future__ import annotations

from typing import Any

import fusedopt as fo
import numpy as np
import pytest
import ranks

N = 6400


def built(optimizer: Any, dtype: str = "float32", shape: Any = N) -> int:
    assert optimizer.nbytes == 0
    optimizer.build({"w": np.ones(shape, dtype)})
    return int(optimizer.nbytes)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, 8 * N),
        ({"amsgrad": True}, 12 * N),
        ({"slot_dtype": "bfloat16"}, 4 * N),
        ({"slot_dtype": "float8"}, 2 * N + 2 * 2 * N // 64),
        ({"use_ema": True}, 12 * N),
        ({"gradient_accumulation_steps": 2}, 12 * N),
        ({"use_ema": True, "gradient_accumulation_steps": 2, "slot_dtype": "bfloat16"}, 12 * N),
    ],
)
def test_of_adam(arguments: Any, expected: int) -> None:
    optimizer = fo.Adam(**arguments)
    assert built(optimizer) == expected
    optimizer.apply([np.ones(N, np.float32)])
    assert optimizer.nbytes == expected == fo.LossScaleOptimizer(optimizer).nbytes


def test_of_other_variables() -> None:
    assert built(fo.Adam(), "float64") == 16 * N
    assert built(fo.Adam(), "float16") == 12 * N
    assert built(fo.Adam(master=False), "float16") == 8 * N
    assert built(fo.SGD()) == 0
    assert built(fo.SGD(), "float16") == 4 * N
    assert built(fo.Adagrad(rowwise=True), shape=(100, 64)) == 400


def test_of_more_variables() -> None:
    w, b = np.ones(100, np.float32), np.ones(10, np.float32)
    optimizer = fo.Adam()
    optimizer.build([w])
    optimizer.build([w, b])
    assert optimizer.nbytes == 880


@pytest.mark.parametrize("rule", ["Lamb", "Adafactor", "Muon", "Nadam", "ScheduleFreeAdamW"])
def test_it_is_what_is_listed_and_saved(rule: str) -> None:
    optimizer = getattr(fo, rule)(use_ema=True)
    optimizer.build({"kernel": np.ones((64, 32), np.float32), "bias": np.ones(32, np.float32)})
    listed = sum(array.nbytes for _, array in optimizer._core.state() if array.ndim)
    scratch = 4 * 64 * 32 if rule == "Muon" else 0  # the array of a matrix that a step computes in
    assert optimizer.nbytes == listed + scratch


def test_rows_are_noted() -> None:
    lazy, noted = (
        built(fo.Adam(row_updates=how), shape=(1000, 4)) for how in ("lazy", "caught_up")
    )
    assert lazy == 8 * 4000
    assert noted >= lazy + 4 * 1000


def test_of_several() -> None:
    optimizer = fo.MultiOptimizer(fo.OptimizerMap(fo.Adam(), {"b": fo.SGD(momentum=0.5)}))
    optimizer.build({"w": np.ones(100, np.float32), "b": np.ones(10, np.float32)})
    assert optimizer.nbytes == 840
    assert [member.nbytes for member in optimizer.optimizers] == [40, 800]


def test_of_a_rank() -> None:
    def work(communicator: Any) -> int:
        return built(fo.Sharded(fo.Adam(slot_dtype="bfloat16"), communicator), shape=8192)

    found = ranks.finished(ranks.run(2, work))
    assert found == [2 * 8192, 2 * 8192]


def test_after_a_conversion(tmp_path: Any) -> None:
    pytest.importorskip("safetensors")
    first, second = fo.Adam(slot_dtype="float8"), fo.Adam()
    built(first)
    before = built(second)
    first.save(tmp_path / "s")
    second.load(tmp_path / "s", convert_slots=True)
    assert second.nbytes == before == 8 * N
