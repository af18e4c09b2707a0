"""The command `python -m fusedopt.bench`: it runs, its files come back, and the README's table is its own."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import RULES
from fusedopt.bench import contestants, environment, picture, report, rules
from fusedopt.bench.command import main
from fusedopt.bench.contestants import COMPILED_PEERS, PEERS, Contestant, installed, prepare
from fusedopt.bench.limit import (
    SWEEPS,
    Layout,
    Traffic,
    layout_of,
    limit_step,
    reading_loop,
    traffic_of,
)
from fusedopt.bench.measuring import Bench, tensors_of
from fusedopt.bench.pytorch import torch_compiled
from fusedopt.bench.results import FUSEDOPT, LIMIT, Entry, Measurement, Results, load, save
from fusedopt.bench.timing import QUICK, Participant, race
from fusedopt.bench.workload import Absent, Array, Ready, Workload
from fusedopt.runtime import _core

ROOT = Path(__file__).resolve().parent.parent
RECORDED = ROOT / "bench" / "results" / "rules.json"
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one tiny run of the command, which has written everything that it can write."""
    folder = tmp_path_factory.mktemp("bench")
    command = "--quick --elements 64 --threads 1 --json new.json --plot new.png --markdown new.md"
    done = python("-m", "fusedopt.bench", *command.split(), folder=folder)
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout, encoding="utf-8")
    return folder


def python(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "utf8", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def labels() -> list[str]:
    return [workload.label for workload in rules.workloads(1)]


def test_every_rule_is_measured(run: Path) -> None:
    results, shown = load(run / "new.json"), (run / "stdout").read_text(encoding="utf-8")
    assert [one.label for one in results.of(rules.SECTION)] == labels()
    assert [one.label for one in results.of("limits")] == ["read", "copy", "update"]
    for one in results.of(rules.SECTION):
        assert f" {one.label} " in shown
        entry = one.find(FUSEDOPT, 1)
        assert entry is not None
        assert entry.minimum > 0
        assert (one.ratio(FUSEDOPT, 1) is None) == (one.bytes is None)
    for value in (
        fo.__version__,
        fo.show_config()["level"],
        "threads: 1",
        results.environment["date"],
    ):
        assert value in shown


def test_a_picture_is_drawn(run: Path) -> None:
    assert (run / "new.png").read_bytes().startswith(PNG)


def test_json_comes_back(run: Path, tmp_path: Path) -> None:
    results = load(run / "new.json")
    results.measurements[0].bytes = None
    results.measurements[0].entries[0].seconds[0] = math.nan
    save(results, tmp_path / "again.json")
    again = load(tmp_path / "again.json")
    assert math.isnan(again.measurements[0].entries[0].seconds.pop(0))
    assert results.measurements[0].entries[0].seconds.pop(0)
    assert again == results


def test_an_earlier_run_is_shown_without_measuring(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--load", str(run / "new.json"), "--markdown", str(tmp_path / "new.md")]) == 0
    assert (tmp_path / "new.md").read_bytes() == (run / "new.md").read_bytes()
    assert "AdamW" in capsys.readouterr().out


def compared(old: Path, new: Results, *words: str) -> int:
    path = old.parent / "changed.json"
    save(new, path)
    return main(["--compare", str(old), str(path), *words])


def test_a_planted_regression_is_found(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = run / "new.json", load(run / "new.json")
    # The whole machine is slower: no ratio has changed.
    for one in new.measurements:
        for entry in one.entries:
            entry.seconds = [2 * time for time in entry.seconds]
    assert compared(old, new) == 0
    (slow,) = (one for one in new.of(rules.SECTION) if one.label == "Adagrad")
    entry = slow.find(FUSEDOPT, 1)
    assert entry is not None
    entry.seconds = [1.3 * time for time in entry.seconds]
    capsys.readouterr()
    assert compared(old, new) == 1
    shown = capsys.readouterr().out
    assert "Adagrad" in shown
    assert "+30%" in shown
    assert "Adamax" not in shown
    assert compared(old, new, "--tolerance", "0.4") == 0


def test_runs_that_share_nothing_are_no_success(run: Path) -> None:
    new = load(run / "new.json")
    new.measurements.clear()
    assert compared(run / "new.json", new) == 1


@pytest.mark.parametrize(
    ("name", "project"),
    [(name, name) for name in ("rich", "matplotlib", "psutil")] + [("cpuinfo", "py-cpuinfo")],
)
def test_a_missing_library_is_one_clear_line(name: str, project: str, tmp_path: Path) -> None:
    program = (
        f"import runpy, sys; sys.modules[{name!r}] = None; "
        "runpy.run_module('fusedopt.bench', run_name='__main__')"
    )
    done = python("-c", program, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr == f"fusedopt.bench needs {project}: pip install {project}\n"


def test_the_package_does_not_import_it(tmp_path: Path) -> None:
    program = (
        "import sys, fusedopt; "
        "print([n for n in ('fusedopt.bench', 'rich', 'matplotlib') if n in sys.modules])"
    )
    assert python("-c", program, folder=tmp_path).stdout == "[]\n"


@pytest.mark.parametrize("name", ["README.md", "bench/README.md"])
def test_readmes_are_derived(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    derived = report.with_blocks(load(RECORDED), text, name)
    assert text == derived, (
        "derive it again: python -m fusedopt.bench --load bench/results/rules.json "
        "--markdown README.md bench/README.md"
    )


def test_readme_names_every_rule() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [label for label in labels() if f"| `{label}` |" not in text] == []


def test_a_file_without_blocks_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious.md"
    path.write_text("mine\n")
    with pytest.raises(ValueError, match=r"precious\.md: expected a line <!-- rules: begin -->"):
        report.write(load(RECORDED), path)
    assert path.read_text() == "mine\n"


def test_all_rules_are_found_and_no_wrapper() -> None:
    assert {rule.__name__ for rule in rules.rule_classes()} == RULES.keys()


def test_arguments_that_keep_more_state_are_found() -> None:
    found = {workload.label for workload in rules.workloads(1) if workload.arguments}
    assert found >= {
        "SGD(momentum=0.9)",
        "RMSprop(momentum=0.9)",
        "RMSprop(centered=True)",
        "Adam(amsgrad=True)",
        "AdamW(amsgrad=True)",
    }


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
    assert Traffic(len(state), SWEEPS[rule](layout)).bytes == expected


def address(array: Array) -> int:
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize(
    "options",
    [{}, {"use_ema": True, "global_clipnorm": 1.0}],
    ids=["plain", "with an average and a norm"],
)
@pytest.mark.parametrize("is_mixed", [False, True], ids=["float32", "mixed"])
@pytest.mark.parametrize("shapes", [((8, 9),), ((72,),), ((3, 5), (2, 64))], ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_the_limit_runs_on_the_optimizers_memory(
    rule: str, shapes: tuple[tuple[int, ...], ...], is_mixed: bool, options: dict[str, Any]
) -> None:
    workload = Workload("", "", rule, options, shapes, is_mixed=is_mixed)
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
        assert names == layout_of(workload).state[1:]
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


def test_a_rule_without_a_limit_is_timed_and_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Muon(fo.SGD):
        """Products of matrices."""

    monkeypatch.setattr(fo, "Muon", Muon, raising=False)
    monkeypatch.setattr(fo, "__all__", sorted({*fo.__all__, "Muon"}))
    bench = Bench([], [], [1], QUICK)
    before = fo.get_num_threads()
    try:
        for workload in rules.workloads(2**20):
            if workload.rule == "Muon":
                assert workload.elements == rules.MOST_ELEMENTS_OF_PRODUCTS
                bench.measure(workload, [])
    finally:
        fo.set_num_threads(before)
    assert [one.ratio(FUSEDOPT, 1) for one in bench.results.of(rules.SECTION)] == [None, None]
    row: Any = report.cost_table(bench.results, 1).rows[0]
    assert (row[0], row[2], row[5]) == ("Muon", "-", "-")
    assert "| `Muon` | Products of matrices. |  | - | - |" in report.rules_block(bench.results)
    picture.draw(bench.results, tmp_path / "alone.png")
    both = copy.deepcopy(load(RECORDED))
    both.measurements += bench.results.measurements
    picture.draw(both, tmp_path / "both.png")
    assert (tmp_path / "both.png").read_bytes().startswith(PNG)


MIXED = Workload(
    "mixed",
    "",
    "AdamW",
    {"global_clipnorm": 1.0, "use_ema": True},
    ((40, 50), (7,), (64,)),
    is_mixed=True,
)


@pytest.fixture(params=[*PEERS, *COMPILED_PEERS], ids=lambda peer: peer.name)
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


@pytest.mark.parametrize(("warm_seconds", "warm_steps"), [(60.0, 20), (0.0, 1)])
def test_a_turn_begins_warm(warm_seconds: float, warm_steps: int) -> None:
    begun = 0

    def step() -> None:
        nonlocal begun
        begun += 1

    one = Participant("one", 1, step, enter=lambda: starts.append(begun))
    starts: list[int] = []
    effort = replace(QUICK, budget_seconds=60.0, warm_steps=20, warm_seconds=warm_seconds)
    race([one], effort, lambda _: None)
    starts.append(begun)
    timed = one.repetitions * one.pieces
    assert np.diff(starts[1:]).tolist() == [warm_steps + timed] * effort.rounds


def test_what_takes_minutes_to_compile_is_left_out() -> None:
    many = replace(MIXED, name="very many", shapes=((1,),) * 1000)
    with pytest.raises(Absent, match="minutes to compile very many"):
        torch_compiled(many, many.variables(), many.gradients())


def test_xla_keeps_its_threads(tmp_path: Path) -> None:
    pytest.importorskip("optax")
    program = """
import fusedopt as fo
from fusedopt.bench.peers import in_optax
from fusedopt.bench.workload import Absent, Workload
fo.set_num_threads(1)
mixed = Workload("mixed", "", "AdamW", {"global_clipnorm": 1.0, "use_ema": True}, ((8,),), is_mixed=True)
in_optax(mixed, mixed.variables(), mixed.gradients()).step()
fo.set_num_threads(2)
try:
    in_optax(mixed, mixed.variables(), mixed.gradients())
except Absent as absent:
    print(absent)
"""
    done = python("-c", program, folder=tmp_path)
    assert "keeps the number of threads" in done.stdout, done.stderr


@pytest.mark.parametrize("room", [-1, 0, 1, 2, 9])
def test_those_without_memory_are_left_out_and_named(
    monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    workload = Workload("sizes", "2^20", "AdamW", {}, ((2**20,),))
    peers = list(PEERS[:2])
    traffic = traffic_of(workload)
    # Three besides the peers: ours and two for temporaries.
    available = (room + 3) * traffic.state * 4 * 2**20
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
    assert peer.is_for_mixed
    assert bench.thread_counts(peer) == [2]
    if installed(peer):
        with pytest.raises(Absent, match="mixed pipeline"):
            peer.prepare(next(rules.workloads(64)), [], [])


def thorough(program: str) -> str:
    """Of the thorough run's modules, which are no package; NumPy's formulas there are not the tests' own."""
    done = python("-c", program, folder=ROOT / "bench")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_thorough_run_has_the_mixed_workloads_of_the_goals() -> None:
    program = """
import goals, run
chosen = list(run.plan(["mixed"], None, is_quick=False))
assert {one.name for one in chosen} == goals.MIXED.keys()
for one in chosen:
    assert one.is_mixed
    who = [peer.name for peer in run.PEERS if run._takes_part(peer, one)]
    print(one.name, len(one.shapes), one.elements, *who, sep=";")
plain = [one for section in ("sizes", "tensors") for one in run.plan([section], None, is_quick=True)]
assert plain
print([peer.name for one in plain for peer in run.PEERS if peer.is_for_mixed and run._takes_part(peer, one)])
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


@pytest.mark.maintainer
def test_sections_are_measured_again(tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        few = ("--quick", "--threads", "1", "--sizes", "64", "--peers")
        program = f"import sys; sys.argv += {[*words, *few]}; import run; run.main()"
        return python("-c", program, folder=ROOT / "bench")

    first, second = str(tmp_path / "first.json"), str(tmp_path / "second.json")
    assert run("--sections", "sizes", "mixed", "memory", "--json", first).returncode == 0
    assert run("--load", first, "--json", second).returncode == 0
    earlier = load(Path(first))
    assert load(Path(second)) == earlier
    assert run("--load", first, "--sections", "mixed", "--json", second).returncode == 0
    again = load(Path(second))
    assert again.of("sizes") == earlier.of("sizes")
    assert again.growths == earlier.growths
    assert [one.name for one in again.of("mixed")] == [one.name for one in earlier.of("mixed")]
    assert again.of("mixed") != earlier.of("mixed")
    other = replace(earlier, environment=earlier.environment | {"fusedopt": "0.0.1"})
    save(other, Path(first))
    refused = run("--load", first, "--sections", "mixed", "--json", second)
    assert refused.returncode == 1
    expected = f"expected a run with fusedopt {earlier.environment['fusedopt']}, found 0.0.1"
    assert expected in refused.stderr
    assert load(Path(second)) == again


def test_the_thorough_run_has_the_workloads_of_the_other_goals() -> None:
    program = """
import goals, run
from fusedopt.bench.limit import traffic_of
def plan(section):
    return list(run.plan([section], None, is_quick=False))
print(*[one.elements for one in plan("threads")])
print({f"{one.label}, {one.name}" for one in plan("matrices")} == goals.MATRICES.keys())
print({one.elements for one in plan("reading")} >= {goals.LARGEST})
print({one.rule for one in plan("values")} == run.workloads.RULES.keys())
print({one.elements for one in plan("values")}, {traffic_of(one).bytes is None for one in plan("values")})
print({one.label for one in plan("tensors") if one.elements == 64 * len(one.shapes)} == goals.SMALL_TENSORS.keys())
large = [one for one in plan("sizes") if one.rule in goals.FOREACH_RULES and one.elements >= goals.LARGE]
foreach, = [peer for peer in run.PEERS if peer.name == goals.FOREACH]
print(len(large), {run._takes_part(foreach, one) for one in large})
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
    done = python("run.py", *words.split(), *files, folder=ROOT / "bench")
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
from workloads import reading as workloads
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
import values, numpy as np
from fusedopt.bench.contestants import FUSEDOPT, prepare
from fusedopt.bench.workload import Workload
workload = Workload("", "", "AdamW", {}, ((8, 8),))
gradients = workload.gradients()
ours = prepare(FUSEDOPT, workload, gradients)
enter = values.entrances(ours, workload, gradients)
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


def made_up(
    section: str, label: str, name: str, elements: int, times: dict[str, float], tensors: int = 1
) -> Measurement:
    """A measurement on 2 threads; the first of the times is the baseline's."""
    entries = [Entry(who, 2, [time, 2 * time]) for who, time in times.items()]
    return Measurement(section, label, name, elements, tensors, 28, next(iter(times)), entries)


def goals_of(results: Results, folder: Path) -> list[str]:
    save(results, folder / "run.json")
    program = f"""
import pathlib, goals
from fusedopt.bench.results import load
for goal in goals.goals(load(pathlib.Path({str(folder / "run.json")!r}))):
    print(goal.text, goal.bound, goal.unit, goal.measured[2].who, goal.is_met(2), sep=";")
"""
    return thorough(program).splitlines()


def test_the_goals_of_large_arrays(tmp_path: Path) -> None:
    foreach = "PyTorch foreach"
    results = Results({}, [2])
    for label, power, ours, theirs in (
        ("AdamW", 24, 1.06, None),
        ("SGD(momentum=0.9)", 26, 1.03, 2.0),
        ("Lion", 24, 2.0, None),
        ("Lion", 26, 1.02, None),
        ("Lamb", 24, 2.0, None),
        ("Lamb", 26, 1.1, None),
        ("Adafactor", 26, 2.0, 3.0),
        ("Muon", 26, 2.0, None),
        ("Nadam", 22, 2.0, 2.0),
        ("Nadam", 24, 2.0, 5.1),
        ("Nadam", 26, 1.0, 2.4),
    ):
        times = {LIMIT: 1.0, FUSEDOPT: ours} | ({foreach: theirs} if theirs else {})
        results.measurements.append(made_up("sizes", label, f"2^{power}", 2**power, times))
    assert goals_of(results, tmp_path) == [
        "AdamW, 2^24 elements;1.05;of the limit;;False",
        "SGD(momentum=0.9), 2^26 elements;1.02;of the limit;;False",
        "Lion, 2^26 elements;1.02;of the limit;;True",
        "Lamb, 2^26 elements;1.11;of the limit;;True",
        "Nadam, 2^26 elements;1.02;of the limit;;True",
        f"Nadam, 2^24 elements;0.4;of {foreach}'s time;;True",
        f"Nadam, 2^26 elements;0.4;of {foreach}'s time;;False",
    ]


def test_the_goals_of_small_arrays(tmp_path: Path) -> None:
    results = Results({}, [2])
    for label, micro in (("AdamW", 0.5), ("Lion", 1.0)):
        times = {LIMIT: 1e-6, FUSEDOPT: micro * 1e-6}
        results.measurements.append(made_up("sizes", label, "2^6", 64, times))
    for label, tensor in (("AdamW", 0.1e-6), ("AdamW(global_clipnorm=1.0)", 0.05e-6)):
        times = {LIMIT: 1.0, FUSEDOPT: 1000 * tensor}
        results.measurements.append(
            made_up("tensors", label, "1,000 of 64", 64000, times, tensors=1000)
        )
    assert goals_of(results, tmp_path) == [
        "AdamW, 1,000 of 64;0.2;us a tensor;;True",
        "AdamW(global_clipnorm=1.0), 1,000 of 64;0.06;us a tensor;;False",
        "AdamW, one tensor of 64;0.6;us a call;;False",
        "the slowest rule, one tensor of 64;2.0;us a call;Lion;True",
    ]


def test_the_goals_of_matrices_threads_and_values(tmp_path: Path) -> None:
    results = Results({}, [1, 2])
    results.measurements = [
        made_up("matrices", "Adafactor", "4096 x 4096", 2**24, {"3 sweeps": 1, FUSEDOPT: 1.01}),
        made_up("matrices", "Muon", "1024 x 1024", 2**20, {"its products": 1, FUSEDOPT: 1.29}),
        made_up("matrices", "Muon", "64 x 64", 2**12, {"its products": 1, FUSEDOPT: 2}),
    ]
    for name, ours in (("2^13", 1.02), ("2^14", 1.04), ("2^15", 0.6)):
        one = made_up("threads", "AdamW", name, 1, {"one thread": 1, FUSEDOPT: ours})
        one.entries[0].threads = 0
        one.entries.append(Entry(FUSEDOPT, 1, [9.0, 18.0]))
        results.measurements.append(one)
    for name, label, huge in (("fusedopt, 2^16", "Lion", 1.2), ("naive NumPy, 2^16", "AdamW", 9)):
        results.measurements.append(
            made_up("values", label, name, 1, {"ordinary": 1, "1e30": huge})
        )
    assert goals_of(results, tmp_path) == [
        "Adafactor, 4096 x 4096;1.0;of 3 sweeps;;False",
        "Muon, 1024 x 1024;1.3;of its products;;True",
        "AdamW, the worst of all sizes;1.05;of one thread's time;2^14;True",
        "the worst rule, zero, subnormal and huge numbers;1.1;of ordinary ones;Lion;False",
    ]


def test_the_goals_of_the_mixed_pipeline(tmp_path: Path) -> None:
    results = Results({}, [2])
    for name, elements, tensors in (("2^26", 2**26, 1), ("1,000 of 1,024", 1_024_000, 1000)):
        times = {LIMIT: 1.0, FUSEDOPT: 1.2}
        results.measurements.append(made_up("mixed", "AdamW", name, elements, times, tensors))
    assert goals_of(results, tmp_path) == [
        "mixed pipeline, AdamW, 2^26 elements;1.05;of the limit;;False",
        "mixed pipeline, AdamW, 1,000 of 1,024;1.3;of the limit;;True",
    ]
