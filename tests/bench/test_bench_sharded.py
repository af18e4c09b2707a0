"""The benchmark of ranks: the model on paper next to what ranks send, goals, and a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import fusedopt as fo
import ml_dtypes
import mpi
import numpy as np
import pytest
import ranks
import sharded_figures
import sharded_suite
from bench_runs import CHECKOUT, python
from fusedopt.bench.command import main
from fusedopt.bench.limit import traffic_of
from fusedopt.bench.results import FUSEDOPT, LIMIT, Entry, Measurement, Results, load
from fusedopt.bench.workload import Workload
from ranks import Threads
from sharded_model import (
    Machine,
    Work,
    kept_bytes,
    messages,
    sent_bytes,
    times,
    unsharded,
    windows,
)
from sharded_names import BASELINE, EXCHANGE, KINDS, STEP

MACHINE = Machine(network=1e9, latency=1e-6, memory=1e10)
WORK = Work(2**24, gradient=4, weight=4, step=28, slots=8)
needs_mpi = pytest.mark.skipif(bool(sharded_suite.why_not()), reason=sharded_suite.why_not())


class Counting(Threads):
    """Ranks that are threads, which count what they exchange."""

    exchanges = gathers = 0

    def alltoallv(self, send: Any, *rest: Any) -> Any:
        self.exchanges += 1
        return super().alltoallv(send, *rest)

    def allgatherv(self, send: Any, *rest: Any) -> Any:
        self.gathers += 1
        self.bytes_sent += send.size * (
            self.size - 2
        )  # to each other rank, and one is counted already
        return super().allgatherv(send, *rest)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2, 3, 4, 20])
def test_the_model_knows_what_ranks_send_and_keep(size: int, kind: str) -> None:
    elements = 1200 * 1024 - 24  # on 20 ranks, a window has more of each than its even part
    work = replace(sharded_figures.WORKS[kind], elements=elements)
    dtype: Any = ml_dtypes.bfloat16 if kind == "bfloat16" else np.dtype(kind)

    def of_rank(threads: Threads) -> tuple[int, int, int, int]:
        counting = Counting(threads._group, threads.rank)
        optimizer = fo.Sharded(fo.AdamW(), counting)
        optimizer.build([np.ones(elements, dtype)])
        counting.bytes_sent = counting.gathers = 0
        optimizer.apply([np.ones(elements, dtype)])
        state = [array for _, array in optimizer._core.state() if array.ndim]
        kept = sum(array.nbytes for array in state)
        return counting.bytes_sent, counting.exchanges, counting.gathers, kept

    found = ranks.finished(ranks.run(size, of_rank))
    sent = sum(each[0] for each in found) / size
    assert sent == pytest.approx(sent_bytes(work, size), rel=1e-3)
    exchanges = 2 * windows(work, size) + work.agreements  # of gradients, weights, and agreements
    assert {each[1] + each[2] for each in found} == {exchanges}
    swapped = windows(work, size) * (2 if size == 2 else 1)
    assert {each[1] for each in found} == {swapped}
    slots = kept_bytes(replace(work, gradient=0), size) - elements * 4 / size
    assert max(each[3] for each in found) == pytest.approx(slots, rel=0.02)


def test_the_model_knows_what_a_step_moves() -> None:
    workload = Workload("", "", "AdamW", {}, ((4096,),))
    work = sharded_figures.WORKS["float32"]
    assert traffic_of(workload).bytes == work.step
    assert traffic_of(workload).kept == work.slots


def test_times_of_the_model() -> None:
    found = times(WORK, 2, MACHINE)
    assert found.wire == pytest.approx(2**23 * 8 / 1e9)
    assert found.waiting == pytest.approx((2 * 32 + 2) * 1e-6)
    assert found.step == pytest.approx(2**23 * 28 / 1e10)
    assert found.copies == pytest.approx(2**23 * 12 / 1e10)
    assert found.in_turn == found.wire + found.waiting + found.step + found.copies
    assert found.overlapped == found.wire + found.waiting
    alone = times(WORK, 1, MACHINE)
    assert (alone.wire, alone.waiting, alone.copies) == (0, 0, 0)
    assert alone.in_turn == alone.overlapped == alone.step


@pytest.mark.parametrize("nodes", sharded_figures.NODES)
def test_what_the_model_says_of_many_nodes(nodes: int) -> None:
    halved = replace(WORK, gradient=2, weight=2)
    assert sent_bytes(halved, nodes) == sent_bytes(WORK, nodes) / 2
    assert messages(halved, nodes) == messages(WORK, nodes)
    theirs = unsharded(WORK, nodes, MACHINE)
    assert theirs.wire == pytest.approx(times(WORK, nodes, MACHINE).wire)
    assert theirs.step == pytest.approx(nodes * times(WORK, nodes, MACHINE).step)
    assert kept_bytes(WORK, nodes) == 12 * WORK.elements / nodes


def made_up(label: str, times: dict[str, float]) -> Measurement:
    entries = [Entry(name, 1, [time, time]) for name, time in times.items()]
    return Measurement("steps", label, "2^24", 2**24, 16, None, BASELINE, entries)


def test_goals() -> None:
    results = Results({}, [1])
    first = {BASELINE: 1.0, FUSEDOPT: 1.1, "ZeRO foreach": 4.0, "ZeRO fused": 2.1}
    results.measurements = [
        made_up("float32", first),
        made_up("gradients", {BASELINE: 1.0, FUSEDOPT: 1.2}),
    ]
    found = [
        f"{goal.text};{goal.unit};{goal.measured[1].median:.3f};{goal.is_met(1)}"
        for goal in sharded_figures.goals(results)
    ]
    assert found == [
        "float32, 2^24 elements;times exchange and step;1.100;True",
        "float32, 2^24 elements;times ZeRO fused;0.524;False",
        "gradients, 2^24 elements;times exchange and step;1.200;False",
    ]


def test_the_machine_of_a_run() -> None:
    one = made_up("float32", {EXCHANGE: 0.5, LIMIT: 0.25})
    found = sharded_figures.measured_machine(one, {"sent": 2e9, "latency": 3e-6})
    assert found == Machine(4e9, 3e-6, 28 * 2**23 / 0.25)


def test_a_run_without_mpi_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpi, "MPIEXEC", None)
    with pytest.raises(SystemExit, match="extra mpi"):
        main(["--quick"], sharded_suite.SHARDED_SUITE)


@needs_mpi
def test_a_quick_run_measures_everything(tmp_path: Path) -> None:
    words = "--quick --rounds 2 --json run.json --markdown run.md"
    done = python(str(CHECKOUT / "sharded.py"), *words.split(), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    results = load(tmp_path / "run.json")
    assert [one.label for one in results.of("steps")] == list(KINDS.values())
    for one, (kind, noted) in zip(
        results.measurements, results.more["machines"].items(), strict=True
    ):
        assert one.names == [BASELINE, FUSEDOPT, EXCHANGE, STEP, LIMIT]
        assert all(len(entry.times) == 2 for entry in one.entries)
        work = replace(sharded_figures.WORKS[kind], elements=one.elements)
        assert noted["sent"] == pytest.approx(sent_bytes(work, 2), rel=1e-3)
        assert noted["windows"] == windows(work, 2)
        assert noted["agreements"] == work.agreements
    whole, half, quarter = (one["slots"] for one in results.more["memory_of_a_rank"])
    assert (half, quarter) == (whole / 2, whole / 4)
    text = (tmp_path / "run.md").read_text(encoding="utf-8")
    for name in sharded_figures.BLOCKS:
        assert f"<!-- {name}: begin -->" in text


@needs_mpi
def test_zero_computes_the_same(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    peers = ["ZeRO fused", "ZeRO foreach"]
    found = sharded_suite.on_ranks(
        2, "times", kind="float32", elements=2**14, rounds=2, peers=peers
    )
    assert found["differences"].keys() == set(peers)
    assert max(found["differences"].values()) < sharded_suite.MOST_DIFFERENT
    assert found["seconds"].keys() >= set(peers)
