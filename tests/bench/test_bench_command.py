"""The command `python -m fusedopt.bench`: it runs, its files come back, and two runs are compared."""

from __future__ import annotations

import math
import subprocess
from dataclasses import replace
from pathlib import Path

import fusedopt as fo
import memory
import pytest
from bench_runs import CHECKOUT, PNG, python
from fusedopt.bench import rules
from fusedopt.bench.command import main
from fusedopt.bench.results import FUSEDOPT, Results, load, save


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one tiny run of the command, which has written everything that it can write."""
    folder = tmp_path_factory.mktemp("bench")
    command = "--quick --elements 64 --threads 1 --json new.json --plot new.png --markdown new.md"
    done = python("-m", "fusedopt.bench", *command.split(), folder=folder)
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout, encoding="utf-8")
    return folder


def test_every_rule_is_measured(run: Path) -> None:
    results, shown = load(run / "new.json"), (run / "stdout").read_text(encoding="utf-8")
    assert [one.label for one in results.of(rules.SECTION)] == [
        one.label for one in rules.workloads(1)
    ]
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
    [(name, name) for name in ("rich", "matplotlib", "psutil", "ml_dtypes")]
    + [("cpuinfo", "py-cpuinfo")],
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


@pytest.mark.maintainer
def test_sections_are_measured_again(tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        few = ("--quick", "--threads", "1", "--sizes", "64", "--peers")
        return python("run.py", *words, *few, folder=CHECKOUT)

    first, second = str(tmp_path / "first.json"), str(tmp_path / "second.json")
    assert run("--sections", "sizes", "mixed", "memory", "--json", first).returncode == 0
    assert run("--load", first, "--json", second).returncode == 0
    earlier = load(Path(first))
    assert load(Path(second)) == earlier
    assert run("--load", first, "--sections", "mixed", "--json", second).returncode == 0
    again = load(Path(second))
    assert again.of("sizes") == earlier.of("sizes")
    assert again.more == earlier.more
    assert again.more.keys() == ({"growths"} if memory.is_possible() else set())
    assert [one.name for one in again.of("mixed")] == [one.name for one in earlier.of("mixed")]
    assert again.of("mixed") != earlier.of("mixed")
    other = replace(earlier, environment=earlier.environment | {"fusedopt": "0.0.1"})
    save(other, Path(first))
    refused = run("--load", first, "--sections", "mixed", "--json", second)
    assert refused.returncode == 1
    expected = f"expected a run with fusedopt {earlier.environment['fusedopt']}, found 0.0.1"
    assert expected in refused.stderr
    assert load(Path(second)) == again
