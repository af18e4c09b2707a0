"""The benchmark of the speed of slots in fewer bits: limits, steps, goals, and instructions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fusedopt as fo
import instructions
import numpy as np
import pytest
import slot_figures
import slot_suite
from bench_runs import CHECKOUT, python
from cases import NO_FLOAT8
from fusedopt.bench import slot_kinds
from fusedopt.bench.command import main
from fusedopt.bench.contestants import FUSEDOPT, prepare
from fusedopt.bench.limit import FEWEST_CODED, PIECE, limit_step, traffic_of
from fusedopt.bench.measuring import tensors_of
from fusedopt.bench.results import LIMIT, WHOLE, Entry, Measurement, Results, load
from fusedopt.bench.slot_kinds import LowBitWorkload
from fusedopt.bench.workload import Array, Workload
from fusedopt.runtime import _core

KINDS = list(slot_kinds.workloads("", FEWEST_CODED))


@pytest.mark.parametrize(
    ("workload", "moved", "kept"),
    list(zip(KINDS, (20, 16.125, 10.125), (4, 2.0625, 2.0625), strict=True)),
    ids=[one.label for one in KINDS],
)
def test_bytes_are_those_of_the_codes(workload: Workload, moved: float, kept: float) -> None:
    traffic = traffic_of(workload)
    assert (traffic.bytes, traffic.kept) == (moved, kept)
    assert traffic_of(workload.whole()).bytes == 28


@pytest.mark.parametrize(
    ("rule", "dtype", "shape", "kept"),
    [
        ("Lamb", "bfloat16", (64, 64), 4),
        ("Lamb", "float8", (64, 64), 2.0625),
        ("Adafactor", "bfloat16", (4096,), 2),
    ],
)
def test_a_rule_of_two_sweeps_writes_its_codes_in_the_second(
    rule: str, dtype: str, shape: tuple[int, ...], kept: float
) -> None:
    one = LowBitWorkload("", "", rule, {"slot_dtype": dtype}, (shape,))
    # The codes, the weight and the gradient are read; then again, and the first two are written.
    assert traffic_of(one).bytes == (kept + 4 + 4) + (2 * kept + 8 + 4)
    matrix = replace(one, rule="Adafactor", shapes=((64, 64),))
    assert traffic_of(replace(matrix, arguments={"slot_dtype": "bfloat16"})).bytes == 24


@pytest.mark.parametrize("shapes", [((64, 64),), ((3 * PIECE + 77,), (4100,))], ids=str)
@pytest.mark.parametrize("rule", ["AdamW", "Lamb"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda one: one.label)
def test_the_limit_runs_on_the_optimizers_memory_and_leaves_every_bit(
    kind: Workload, rule: str, shapes: tuple[tuple[int, ...], ...]
) -> None:
    workload = replace(kind, rule=rule, shapes=shapes)
    gradients = workload.gradients()
    # An infinity and small numbers: special codes, and words that are no ordinary floats.
    gradients[0].flat[:200] = np.inf
    gradients[0].flat[200:300] = 1e-30
    ours = prepare(FUSEDOPT, workload, gradients)
    ours.step()
    tensors = tensors_of(ours, gradients)
    optimizer = ours.step.func.__self__  # type: ignore[attr-defined]
    kept = {array.ctypes.data for _, array in optimizer._core.state() if array.ndim}
    assert {array.ctypes.data for arrays in tensors for array in arrays[1:-1]} == kept
    assert all(len(arrays) == len(traffic_of(workload).widths) for arrays in tensors)
    before = [[array.tobytes() for array in arrays] for arrays in tensors]
    step = limit_step(traffic_of(workload), tensors)
    assert step is not None
    step()
    assert [[array.tobytes() for array in arrays] for arrays in tensors] == before


@pytest.mark.parametrize("level", fo.show_config()["levels_supported"])
@pytest.mark.parametrize(("updated", "read"), [(0, 2), (2, 0), (1, 1), (5, 2)])
def test_a_plain_loop_over_words_leaves_every_bit(level: str, updated: int, read: int) -> None:
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 2**32, 5000, np.uint32) for _ in range(updated + read)]
    before = [array.copy() for array in arrays]
    in_use = _core.level()
    _core.set_level(level)
    try:
        _core.PlainLoop([(arrays[:updated], arrays[updated:])])()
    finally:
        _core.set_level(in_use)
    for array, same in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, same)


WORDS, FLOATS = np.zeros(4, np.uint32), np.zeros(4, np.float32)


@pytest.mark.parametrize(
    ("updated", "read"),
    [
        ([WORDS], [FLOATS]),
        ([WORDS, FLOATS], []),
        ([FLOATS], [WORDS]),
        ([WORDS[::2]], []),
        ([WORDS], [WORDS[:3]]),
        ([WORDS] * 6, []),
        ([], [WORDS] * 3),
    ],
    ids=range(7),
)
def test_a_plain_loop_over_words_refuses_other_arrays(
    updated: list[Array], read: list[Array]
) -> None:
    with pytest.raises((ValueError, TypeError), match=r"incompatible|expected"):
        _core.PlainLoop([(updated, read)])


def test_every_rule_is_measured_with_what_it_takes() -> None:
    found = [(one.rule, one.arguments["slot_dtype"]) for one in slot_suite.of_rules(64)]
    assert {rule for rule, dtype in found if dtype == "bfloat16"} == slot_suite.RULES.keys()
    assert {rule for rule, dtype in found if dtype == "float8"} == (
        slot_suite.RULES.keys() - NO_FLOAT8.keys()
    )


def test_a_quick_run_measures_everything(tmp_path: Path) -> None:
    words = "--quick --threads 1 2 --rounds 1 --peers --json run.json --markdown run.md"
    program = str(CHECKOUT / "slots.py")
    done = python(program, *words.split(), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    results = load(tmp_path / "run.json")
    assert {one.section for one in results.measurements} == slot_figures.SECTIONS.keys()
    labels = [one.label for one in KINDS]
    levels = fo.show_config()["levels_supported"]
    assert len(results.of("levels")) == len(KINDS) * len(levels)
    for one in results.of("levels"):
        assert one.label in labels
        assert one.name.partition(", ")[2] in levels
    for one in results.measurements:
        assert one.names == [LIMIT, FUSEDOPT.name, WHOLE]
        assert one.thread_counts == [1, 2]
    text = (tmp_path / "run.md").read_text(encoding="utf-8")
    for name in slot_figures.BLOCKS:
        assert f"<!-- {name}: begin -->" in text
    for title in (*slot_figures.SECTIONS.values(), "Goals"):
        assert f"## {title}\n" in text
    assert "| AdamW, float8 slots, all state | <= 2.1 bytes per element | 2.06 (2.06) yes |" in text


def test_a_picture_is_refused_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["--plot", "slots.png"], suite=slot_suite.SLOT_SUITE)
    assert "unrecognized arguments: --plot slots.png" in capsys.readouterr().err


def test_the_goals() -> None:
    results = Results({}, [1, 2])
    for label, level, single, several in (
        (slot_figures.BFLOAT16, "x86_64_v4", 0.9, 0.76),
        (slot_figures.FLOAT8, "x86_64_v4", 0.7, 0.66),
        (slot_figures.FLOAT8, "x86_64_v3", 0.9, 0.8),
        (slot_figures.FLOAT8, "x86_64_v2", 9.0, 9.0),
        (slot_figures.FEWEST, "x86_64_v4", 0.9, 0.5),
    ):
        entries = [
            Entry(who, threads, [time])
            for threads, ours in ((1, single), (2, several))
            for who, time in ((LIMIT, 0.74), (FUSEDOPT.name, ours), (WHOLE, 1.0))
        ]
        name = f"2^24 elements, {level}"
        results.measurements.append(
            Measurement("levels", label, name, 2**24, 1, 20, LIMIT, entries)
        )
    found = [
        (goal.text.removeprefix("AdamW, "), goal.bound, goal.unit, list(goal.measured))
        for goal in slot_figures.goals(results)
    ]
    theirs = "times that of float32 slots"
    assert found == [
        ("bfloat16 slots, 2^24 elements, x86_64_v4", 1.05, "times the limit", [2]),
        ("bfloat16 slots, 2^24 elements, x86_64_v4", 0.75, theirs, [2]),
        ("float8 slots, 2^24 elements, x86_64_v4", 0.65, theirs, [2]),
        ("float8 slots, 2^24 elements, x86_64_v4", 0.72, theirs, [1]),
        ("float8 slots, 2^24 elements, x86_64_v3", 0.80, theirs, [2]),
        ("float8 slots, bfloat16 weights, 2^24 elements, x86_64_v4", 0.55, theirs, [2]),
        ("bfloat16 slots, all state", 4.0, "bytes per element", [1, 2]),
        ("float8 slots, all state", 2.1, "bytes per element", [1, 2]),
    ]
    is_met = [
        all(goal.is_met(threads) for threads in goal.measured)
        for goal in slot_figures.goals(results)
    ]
    assert is_met == [True, False, False, True, True, True, True, True]


@pytest.mark.skipif(not instructions.is_possible(), reason="Linux on x86-64 only")
def test_instructions_are_counted() -> None:
    program = """
import instructions
def loop(count):
    return instructions.counted(lambda: sum(range(count)))
few, more, most = map(loop, (300, 400, 500))
print(None if few is None else abs((most - more) / (more - few) - 1) < 0.1)
"""
    done = python("-c", program, folder=CHECKOUT)
    assert done.returncode == 0, done.stderr
    if done.stdout.strip() == "None":
        pytest.skip("nobody may trace processes here")
    assert done.stdout.strip() == "True"
