"""The limit: the bytes of a step, and the plain loop that moves them."""

from __future__ import annotations

import copy
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import RULES
from fusedopt.bench import contestants, rules
from fusedopt.bench.contestants import prepare
from fusedopt.bench.limit import (
    SWEEPS,
    Layout,
    Traffic,
    layout_of,
    limit_step,
    reading_loop,
    traffic_of,
)
from fusedopt.bench.measuring import tensors_of
from fusedopt.bench.workload import Array, Workload
from fusedopt.runtime import _core
from mixed import MixedWorkload


def test_bytes_are_those_of_the_state() -> None:
    found = {workload.label: traffic_of(workload).bytes for workload in rules.workloads(1)}
    expected = {"SGD": 12, "SGD(momentum=0.9)": 20, "AdamW": 28, "AdamW(amsgrad=True)": 36}
    assert {label: found[label] for label in expected} == expected
    assert found["Lamb"] == 40


@pytest.mark.parametrize(
    ("rule", "state", "is_matrix", "expected"),
    [
        ("Lamb", ["variable", "momentum", "velocity"], True, 40),
        ("Lamb", ["variable", "average", "momentum", "velocity"], True, 48),
        # What is kept for rows and columns is no array as large as the variable.
        ("Adafactor", ["variable"], True, 24),
        ("Adafactor", ["variable", "velocity"], True, 24),
        ("Adafactor", ["variable", "velocity"], False, 32),
        ("Muon", ["variable", "momentum"], True, None),
        ("Muon", ["variable", "momentum", "velocity"], False, 28),
    ],
)
def test_limits_of_rules_of_another_shape(
    rule: str, state: list[str], is_matrix: bool, expected: int | None
) -> None:
    layout = Layout(state, is_matrix)
    widths = [4.0] * (len(state) + 1)
    assert Traffic(widths, SWEEPS[rule](layout)).bytes == expected


def address(array: Array) -> int:
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize(
    "options",
    [{}, {"use_ema": True, "global_clipnorm": 1.0}],
    ids=["plain", "with an average and a norm"],
)
@pytest.mark.parametrize("kind", [Workload, MixedWorkload])
@pytest.mark.parametrize("shapes", [((8, 9),), ((72,),), ((3, 5), (2, 64))], ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_the_limit_runs_on_the_optimizers_memory(
    rule: str, shapes: tuple[tuple[int, ...], ...], kind: type[Workload], options: dict[str, Any]
) -> None:
    workload = kind("", "", rule, options, shapes)
    gradients = workload.gradients()
    ours = prepare(contestants.FUSEDOPT, workload, gradients)
    ours.step()
    tensors = tensors_of(ours, gradients)
    assert len(tensors) == len(shapes)
    optimizer = ours.step.func.__self__  # type: ignore[attr-defined]
    kept = {address(array): name for name, array in optimizer.named_variables().items()}
    for arrays, variable, gradient in zip(tensors, ours.variables, gradients, strict=True):
        *state, last = arrays
        assert state[0] is variable
        assert last is gradient
        names = [kept[address(array)].partition("/")[0] for array in state[1:]]
        assert names == layout_of(workload)[0].state[1:]
    step = limit_step(traffic_of(workload), tensors)
    assert (step is None) == (rule == "Muon" and len(shapes[0]) == 2)
    if step:
        before = copy.deepcopy(tensors)
        step()
        for arrays, old in zip(tensors, before, strict=True):
            for array, same in zip(arrays, old, strict=True):
                np.testing.assert_array_equal(array, same)


@pytest.mark.parametrize(
    ("updated", "read"),
    [(updated, read) for updated in range(6) for read in range(3)],
)
@pytest.mark.parametrize("level", fo.show_config()["levels_supported"])
@pytest.mark.parametrize("narrow", [None, np.float16], ids=["float32", "and float16"])
@pytest.mark.parametrize("sizes", [(0,), (1,), (1023, 0, 5000)], ids=str)
def test_a_plain_loop_leaves_every_value(
    level: str, updated: int, read: int, narrow: type[np.float16] | None, sizes: tuple[int, ...]
) -> None:
    random = np.random.default_rng(0)
    tensors = []
    for size in sizes:
        arrays = [random.standard_normal(size).astype(np.float32) for _ in range(updated + read)]
        more = [random.standard_normal(size).astype(narrow)] if narrow else []
        tensors.append((arrays[:updated], [*arrays[updated:], *more]))
    before = copy.deepcopy(tensors)
    in_use = _core.level()
    _core.set_level(level)
    try:
        _core.PlainLoop(tensors)()
    finally:
        _core.set_level(in_use)
    for now, old in zip(tensors, before, strict=True):
        for array, same in zip([*now[0], *now[1]], [*old[0], *old[1]], strict=True):
            np.testing.assert_array_equal(array, same)


FLOATS = np.zeros(4, np.float32)


@pytest.mark.parametrize(
    ("updated", "read", "message"),
    [
        ([FLOATS], [FLOATS[:3]], "arrays of one size"),
        ([FLOATS[::2]], [], "incompatible|contiguous"),
        ([], [FLOATS[::2]], "contiguous"),
        ([], [FLOATS.astype(np.float64)], "at most one of 16 bits"),
        ([], [FLOATS.astype(np.float16)] * 2, "at most one of 16 bits"),
        ([FLOATS] * 6, [], "at most 5 arrays to update and 2 to read"),
        ([], [FLOATS] * 3, "at most 5 arrays to update and 2 to read"),
        ([FLOATS.astype(np.float64)], [], "incompatible"),
    ],
    ids=range(8),
)
def test_a_plain_loop_refuses_other_arrays(
    updated: list[Array], read: list[Array], message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        _core.PlainLoop([(updated, read)])


@pytest.mark.parametrize("size", [0, 1, 7, 64])
def test_any_gradient_is_read_as_float32(size: int) -> None:
    for dtype in (np.float16, np.float32):
        reading_loop([np.ones(size, dtype), np.ones((3, size), dtype)])()


def test_a_norm_reads_the_gradients_once_more() -> None:
    for rule, plain_bytes in (("AdamW", 28), ("Lamb", 40), ("Adafactor", 24)):
        for options, more in (({}, 0), ({"clipnorm": 1.0}, 4)):
            traffic = traffic_of(Workload("", "", rule, options, ((8, 8),)))
            assert traffic.bytes == plain_bytes + more
