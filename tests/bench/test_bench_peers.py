"""The other libraries: they do the same work, and whoever does not is left out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import fusedopt as fo
import naive
import numpy as np
import pytest
import reference
from bench_runs import CHECKOUT, python
from compiled import torch_compiled
from fusedopt.bench import environment
from fusedopt.bench.contestants import Contestant, installed, prepare
from fusedopt.bench.limit import traffic_of
from fusedopt.bench.measuring import Bench
from fusedopt.bench.timing import QUICK
from fusedopt.bench.workload import Absent, Array, Ready, Workload
from mixed import MixedWorkload
from peer_lists import COMPILED_PEERS, MIXED_PEERS, PEERS

MIXED = MixedWorkload(
    "mixed",
    "",
    "AdamW",
    {"global_clipnorm": 1.0, "use_ema": True},
    ((40, 50), (7,), (64,)),
)


@pytest.fixture(params=MIXED_PEERS, ids=lambda peer: peer.name)
def peer(request: pytest.FixtureRequest) -> Contestant:
    if not installed(request.param):
        pytest.skip(f"no {request.param.package}")
    environment.prepare()
    return request.param


def plain(array: Any) -> Array:
    return np.array(array.numpy() if hasattr(array, "numpy") else array)


# What other libraries warn about on their own is theirs.
@pytest.mark.filterwarnings("default")
def test_a_peer_does_the_same_mixed_work(peer: Contestant) -> None:
    ready = prepare(peer, MIXED, MIXED.gradients())
    variables = MIXED.variables()
    optimizer = fo.LossScaleOptimizer(fo.AdamW(**MIXED.arguments))
    optimizer.build(variables)
    for _ in range(4):
        ready.step()
        optimizer.apply(MIXED.gradients())
    for before, ours, theirs in zip(MIXED.variables(), variables, ready.variables, strict=True):
        error = np.abs(plain(theirs) - ours)
        assert np.median(error) < 1e-3 * np.median(np.abs(ours - before))


@pytest.mark.filterwarnings("default")
def test_a_peer_skips_an_overflow(peer: Contestant) -> None:
    gradients = MIXED.gradients()
    gradients[1][3] = np.inf
    ready = prepare(peer, MIXED, gradients)
    ready.step()
    for before, after in zip(MIXED.variables(), ready.variables, strict=True):
        assert np.array_equal(plain(after), before)


def test_what_takes_minutes_to_compile_is_left_out() -> None:
    many = replace(MIXED, name="very many", shapes=((1,),) * 1000)
    with pytest.raises(Absent, match="minutes to compile very many"):
        torch_compiled(many, many.variables(), many.gradients())


def test_xla_keeps_its_threads() -> None:
    pytest.importorskip("optax")
    program = """
import fusedopt as fo
from compiled import in_optax
from fusedopt.bench.workload import Absent
from mixed import MixedWorkload
fo.set_num_threads(1)
mixed = MixedWorkload("mixed", "", "AdamW", {"global_clipnorm": 1.0, "use_ema": True}, ((8,),))
in_optax(mixed, mixed.variables(), mixed.gradients()).step()
fo.set_num_threads(2)
try:
    in_optax(mixed, mixed.variables(), mixed.gradients())
except Absent as absent:
    print(absent)
"""
    done = python("-c", program, folder=CHECKOUT)
    assert "keeps the number of threads" in done.stdout, done.stderr


@pytest.mark.parametrize("room", [-1, 0, 1, 2, 9])
def test_those_without_memory_are_left_out_and_named(
    monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    workload = Workload("sizes", "2^20", "AdamW", {}, ((2**20,),))
    peers = list(PEERS[:2])
    traffic = traffic_of(workload)
    # Three besides the peers: ours and two for temporaries.
    available = int((room + 3) * (4 + traffic.kept) * 2**20)
    monkeypatch.setattr(environment, "available_bytes", lambda: available)
    bench = Bench([], [], [1], QUICK)
    fitting = bench.fitting(workload, traffic, peers)
    name = f"{workload.label}, {workload.name}"
    if room < 0:
        assert fitting is None
        assert bench.results.absent == {name: "too little memory"}
    else:
        assert fitting == peers[:room]
        left_out = {f"{peer.name} on {name}": "too little memory" for peer in peers[room:]}
        assert bench.results.absent == left_out


def idle(workload: Workload, variables: list[Array], gradients: list[Array]) -> Ready:
    return Ready(lambda: None, variables, list)


def test_who_computes_something_else_is_left_out_and_named() -> None:
    known = [
        Contestant("does nothing", "numpy", idle),
        Contestant("unknown", "no_such_package", idle),
    ]
    bench = Bench(known, [peer.package for peer in known], [1], QUICK)
    assert [peer.name for peer in bench.peers] == ["does nothing"]
    assert bench.results.absent == {"unknown": "no_such_package is not installed"}
    assert bench.ready(bench.peers[0], MIXED, MIXED.gradients()) is None
    assert "something else" in bench.results.absent[f"does nothing on {MIXED.label}"]


@pytest.mark.parametrize("peer", COMPILED_PEERS, ids=lambda peer: peer.name)
def test_a_compiled_peer_is_for_the_mixed_pipeline(peer: Contestant) -> None:
    bench = Bench([], [], [1, 2], QUICK)
    assert peer not in PEERS
    assert peer.thread_counts(bench.results.threads) == [2]
    if installed(peer):
        with pytest.raises(Absent, match="mixed pipeline"):
            peer.prepare(Workload("", "", "AdamW", MIXED.arguments, ((64,),)), [], [])


def test_plain_numpy_leaves_the_formulas_of_the_tests_alone() -> None:
    assert naive._reference is not reference
    assert naive._reference.RULES.keys() == reference.RULES.keys()
    assert naive._reference.RULES["Lamb"].formula is not reference.RULES["Lamb"].formula
