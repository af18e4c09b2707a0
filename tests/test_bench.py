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
from fusedopt.bench import environment, picture, report, rules
from fusedopt.bench.command import main
from fusedopt.bench.contestants import COMPILED_PEERS, PEERS, Contestant, installed, prepare
from fusedopt.bench.limit import SWEEPS, Layout, Traffic, traffic_of
from fusedopt.bench.measuring import Bench
from fusedopt.bench.peers import torch_compiled
from fusedopt.bench.results import FUSEDOPT, LIMIT, Entry, Measurement, Results, load, save
from fusedopt.bench.timing import QUICK
from fusedopt.bench.workload import Absent, Array, Ready, Workload

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


@pytest.mark.parametrize("name", ["rich", "matplotlib"])
def test_a_missing_library_is_one_clear_line(name: str, tmp_path: Path) -> None:
    program = (
        f"import runpy, sys; sys.modules[{name!r}] = None; "
        "runpy.run_module('fusedopt.bench', run_name='__main__')"
    )
    done = python("-c", program, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr == f'fusedopt.bench needs {name}: pip install "fusedopt[bench]"\n'


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
    layout = Layout(state, [len(state)], is_matrix)
    assert Traffic(len(state), 1, SWEEPS[rule](layout)).bytes == expected


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


def test_the_goals_of_the_mixed_pipeline(tmp_path: Path) -> None:
    results = Results({}, [2])
    for name, elements, tensors in (("2^26", 2**26, 1), ("1,000 of 1,024", 1_024_000, 1000)):
        entries = [Entry(LIMIT, 2, [1.0, 2.0]), Entry(FUSEDOPT, 2, [1.2, 2.4])]
        results.measurements.append(
            Measurement("mixed", "AdamW", name, elements, tensors, 36, LIMIT, entries)
        )
    save(results, tmp_path / "run.json")
    program = f"""
import pathlib, goals
from fusedopt.bench.results import load
for goal in goals.goals(load(pathlib.Path({str(tmp_path / "run.json")!r}))):
    print(goal.text, goal.bound, goal.is_met(2), sep=";")
"""
    assert thorough(program).splitlines() == [
        "mixed pipeline, AdamW, 2^26 elements;1.05;False",
        "mixed pipeline, AdamW, 1,000 of 1,024;1.3;True",
    ]
