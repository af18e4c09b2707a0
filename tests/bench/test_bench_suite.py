"""The suite of the checkout: its workloads, and what each section compares."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_runs import CHECKOUT, python
from cases import RULES
from fusedopt.bench.results import FUSEDOPT, load


def thorough(program: str) -> str:
    """Run a program among the checkout's modules."""
    done = python("-c", program, folder=CHECKOUT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_thorough_run_has_the_mixed_workloads_of_the_goals() -> None:
    program = """
import goals, thorough
from mixed import MixedWorkload
from peer_lists import COMPILED_PEERS, MIXED_PEERS, PEERS
chosen = list(thorough.plan(None, is_quick=False)["mixed"])
assert {one.name for one in chosen} == goals.MIXED.keys()
class Everybody:
    peers = [*PEERS, *MIXED_PEERS]
for one in chosen:
    assert isinstance(one, MixedWorkload)
    who = [peer.name for peer in thorough.peers_of(Everybody, one)]
    print(one.name, len(one.shapes), one.elements, *who, sep=";")
plain = [one for section in ("sizes", "tensors") for one in thorough.plan(None, is_quick=True)[section]]
assert plain
print([peer.name for one in plain for peer in thorough.peers_of(Everybody, one) if peer in COMPILED_PEERS])
"""
    *rows, others = [line.split(";") for line in thorough(program).splitlines()]
    found = {name: (int(tensors), int(elements), who) for name, tensors, elements, *who in rows}
    assert found["2^20"][:2] == (1, 2**20)
    assert found["2^26"][:2] == (1, 2**26)
    assert found["100 of 10,486"][:2] == (100, 1_048_600)
    assert found["1,000 of 1,024"][:2] == (1000, 1_024_000)
    assert found["GPT-2 small, 148 tensors"][:2] == (148, 124_439_808)
    for name, (_, elements, who) in found.items():
        assert {"PyTorch fused", "PyTorch foreach", "PyTorch compiled", "optax"} < set(who), name
        assert ("Keras" in who) == (elements <= 2**24)
    assert others == ["[]"]


def test_the_thorough_run_has_the_workloads_of_the_other_goals() -> None:
    program = """
import goals, sections, thorough
from fusedopt.bench.limit import traffic_of
def plan(section):
    return list(thorough.plan(None, is_quick=False)[section])
print(*[one.elements for one in plan("threads")])
print({f"{one.label}, {one.name}" for one in plan("matrices")} == goals.MATRICES.keys())
print({one.elements for one in plan("reading")} >= {goals.LARGEST})
print({one.rule for one in plan("values")} == sections.RULES.keys())
print({one.elements for one in plan("values")}, {traffic_of(one).bytes is None for one in plan("values")})
print({one.label for one in plan("tensors") if one.elements == 64 * len(one.shapes)} == goals.SMALL_TENSORS.keys())
large = [one for one in plan("sizes") if one.rule in goals.FOREACH_RULES and one.elements >= goals.LARGE]
foreach, = [peer for peer in thorough.PEERS if peer.name == goals.FOREACH]
print(len(large), {thorough.takes_part(foreach, one) for one in large})
"""
    assert thorough(program).splitlines() == [
        " ".join(str(2**power) for power in range(4, 25)),
        "True",
        "True",
        "True",
        "{65536, 4194304} {False}",
        "True",
        "8 {True}",
    ]


@pytest.mark.maintainer
def test_the_thorough_run_measures_more_than_limits(tmp_path: Path) -> None:
    words = "--quick --threads 1 2 --sections tensors reading arithmetic matrices threads values --peers --rounds 1"
    files = ["--json", str(tmp_path / "run.json"), "--markdown", str(tmp_path / "run.md")]
    done = python("run.py", *words.split(), *files, folder=CHECKOUT)
    assert done.returncode == 0, done.stderr
    results = load(tmp_path / "run.json")
    found = {(one.label, one.name): one for one in results.measurements}
    assert found["AdamW(global_clipnorm=1.0)", "1,000 of 64"].bytes == 32
    for name, bytes_each in (("float16, 2^17", 2), ("float32, 2^17", 4)):
        one = found["SGD", name]
        assert (one.bytes, one.names) == (bytes_each, ["plain loop", FUSEDOPT])
    for label, baseline in (("Adafactor", "3 sweeps"), ("Muon", "its matrix products")):
        one = found[label, "64 x 64"]
        assert (one.baseline, one.names) == (baseline, [baseline, FUSEDOPT])
    for one in results.of("threads"):
        assert one.names == ["one thread", FUSEDOPT]
        assert [one.ratio(FUSEDOPT, threads) is None for threads in (1, 2)] == [False, False]
    kinds = ["ordinary", "0", "1e-42", "1e-20", "1e30"]
    assert [one.names for one in results.of("values")] == [kinds] * len(RULES)
    written = (tmp_path / "run.md").read_text(encoding="utf-8")
    rows = written.partition("in the cache with 1 thread")[2].partition("\n## ")[0].split("\n| ")
    labels = [row.split(" |")[0] for row in rows]
    assert [one.label for one in results.of("arithmetic")] == labels[
        -len(RULES) :
    ]  # Muon's is the pipeline
    times = [cell for row in rows[-len(RULES) :] for cell in row.split(" | ")[1:2]]
    assert all(0 < float(time.rstrip("?")) < 1e5 for time in times)  # "?" if the machine is busy
    for title in (
        "Reading gradients",
        "Rules of matrices",
        "More threads against one",
        "Kinds of numbers",
    ):
        assert f"## {title}" in written


def test_a_reading_sweep_reads_everything_and_writes_nothing() -> None:
    program = """
import reading, numpy as np
from fusedopt.bench.limit import reading_loop
from sections import reading as workloads
for workload in workloads([64]):
    gradients = workload.gradients()
    plain = reading_loop(gradients)
    step = reading.skipped_step(workload, gradients)
    before = gradients[0].copy()
    plain()
    print(gradients[0].dtype, np.isinf(before).sum(), step(), np.array_equal(gradients[0], before))
    optimizer = step.func.__self__
    print(int(optimizer.iterations), int(optimizer.consecutive_skipped_steps))
    gradients[0][-1] = 0
    step()
    print(int(optimizer.iterations))
"""
    found = thorough(program).splitlines()
    skipped = ["0 1", "1"]
    assert found == ["float16 1 None True", *skipped, "float32 1 None True", *skipped]


def test_what_steps_on_matrices_are_compared_with() -> None:
    program = """
import matrices, numpy as np
from fusedopt.bench.contestants import FUSEDOPT, prepare
from fusedopt.bench.workload import Workload
for rule in matrices.BASELINES:
    workload = Workload("", "", rule, {}, ((8, 12),))
    gradients = workload.gradients()
    ours = prepare(FUSEDOPT, workload, gradients)
    _, make = matrices.BASELINES[rule]
    step = make(workload, ours, gradients)
    before = ours.variables[0].copy()
    step()
    print(np.array_equal(ours.variables[0], before))
calls = step.__self__.calls
print(len(calls), *[(a.shape, b.shape, product.shape) for a, b, product in calls[:3]])
print(all(np.allclose(a @ b, product) for a, b, product in calls[-2:]))
print(np.matmul.__name__)
"""
    products = "((8, 12), (12, 8), (8, 8)) ((8, 8), (8, 8), (8, 8)) ((8, 8), (8, 12), (8, 12))"
    assert thorough(program).splitlines() == ["True", "True", f"15 {products}", "True", "matmul"]


def test_kinds_of_numbers_are_entered_in_the_same_memory() -> None:
    program = """
import number_kinds, numpy as np
from fusedopt.bench.contestants import FUSEDOPT, prepare
from fusedopt.bench.workload import Workload
workload = Workload("", "", "AdamW", {}, ((8, 8),))
gradients = workload.gradients()
ours = prepare(FUSEDOPT, workload, gradients)
enter = number_kinds.entrances(ours, workload, gradients)
arrays = [*ours.variables, *ours.slots()[0]]
for kind in [*enter, "ordinary"]:
    enter[kind]()
    ours.step()
    print(kind, gradients[0].min(), gradients[0].max(), *[np.isfinite(array).all() for array in arrays])
"""
    ordinary, *others, again = [line.split() for line in thorough(program).splitlines()]
    finite, infinite = ["True"] * 3, ["False", "True", "False"]
    assert ordinary == again
    assert ordinary[1] != ordinary[2]
    assert ordinary[3:] == finite
    assert others == [
        ["0", "0.0", "0.0", *finite],
        ["1e-42", "1e-42", "1e-42", *finite],
        ["1e-20", "1e-20", "1e-20", *finite],
        ["1e30", "1e+30", "1e+30", *infinite],
    ]
