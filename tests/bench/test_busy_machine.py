"""The bench on a busy machine: what is not to be believed is marked, and never called a regression."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import fusedopt as fo
import pytest

pytest.importorskip("rich", reason="the bench needs the extra bench")
pytest.importorskip("psutil", reason="the bench needs the extra bench")

from fusedopt.bench import costs, rules, timing, watch
from fusedopt.bench.command import main
from fusedopt.bench.measuring import Bench
from fusedopt.bench.results import (
    FUSEDOPT,
    LIMIT,
    MEANS_NOTHING,
    Entry,
    Measurement,
    Results,
    load,
    save,
)
from fusedopt.bench.tables import ABOUT_DOUBTFUL, ABOUT_RATIOS
from fusedopt.bench.timing import BRIEF, QUICK, Participant, race
from fusedopt.bench.watch import Watch

ABOUT = {name: name for name in ("date", "processor", "system", "fusedopt", "libraries")}
STEADY = [1.0, 1.01, 0.99, 1.0, 1.02]
WILD = [1.0, 1.6, 0.6, 1.4, 0.7]
ROUGH = [0.9, 0.93, 1.0, 1.07, 1.1]
ROUGH_LATER = [1.02, 1.05, 1.12, 1.19, 1.22]
BUSY = "other programs kept 1.9 of 2 processors busy"


class Machine:
    """A clock, two processors, and how much of them the process and others get."""

    def __init__(self, mine: float, others: float) -> None:
        self.now = 100.0
        self.mine, self.others = mine, others
        self.perf_counter = lambda: self.now
        self.process_time = lambda: self.now * self.mine

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def cpu_times(self) -> SimpleNamespace:
        times = {
            "user": self.now * (self.mine + 0.5 * self.others),
            "steal": self.now * 0.5 * self.others,
            "idle": self.now * 7,
            "iowait": self.now * 7,
            "guest": self.now * 7,
        }
        return SimpleNamespace(_asdict=lambda: times)


def doubt(monkeypatch: pytest.MonkeyPatch, machine: Machine, threads: int, usable: int = 2) -> str:
    """What is said of a step of 2 ms."""
    system = SimpleNamespace(
        cpu_count=lambda: 2,
        cpu_times=machine.cpu_times,
        Process=lambda: SimpleNamespace(cpu_affinity=lambda: list(range(usable))),
    )
    monkeypatch.setattr(watch, "psutil", system)
    monkeypatch.setattr(watch, "time", machine)
    monkeypatch.setattr(timing, "time", machine)
    one = Participant("one", threads, lambda: machine.sleep(0.002))
    observed = Watch()
    race([one], BRIEF, lambda _: None)
    return observed.doubt(one, observed.others())


@pytest.mark.parametrize(
    ("mine", "others", "threads", "usable", "expected"),
    [
        (1.0, 0.05, 1, 2, ""),
        (2.0, 0.05, 2, 2, ""),
        # A library without threads.
        (1.0, 0.0, 0, 2, ""),
        # A step of few elements leaves the other threads asleep.
        (1.0, 0.0, 2, 2, ""),
        (1.0, 1.0, 1, 2, "other programs kept 1.0 of 2 processors busy"),
        (1.0, 1.0, 2, 2, "other programs kept 1.0 of 2 processors busy"),
        (0.5, 0.0, 1, 2, "the process got a processor for only 50% of the time"),
        (1.0, 0.0, 2, 1, "2 threads shared 1 of the processors"),
    ],
)
def test_a_busy_machine_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
    mine: float,
    others: float,
    threads: int,
    usable: int,
    expected: str,
) -> None:
    assert doubt(monkeypatch, Machine(mine, others), threads, usable) == expected


def test_the_machine_itself_is_read() -> None:
    observed = Watch()
    assert observed.others() >= 0
    assert 1 <= observed.usable <= observed.processors
    assert watch.busy_seconds() > 0


def a_run(ours: list[float], doubt: str = "", label: str = "AdamW") -> Results:
    """A measurement of one rule on 2 threads."""
    entries = [Entry(LIMIT, 2, [1.0] * len(ours)), Entry(FUSEDOPT, 2, ours, doubt)]
    one = Measurement(rules.SECTION, label, "2^24", 2**24, 1, 28, LIMIT, entries)
    return Results(ABOUT, [2], [one])


@pytest.mark.parametrize(
    ("results", "is_marked"),
    [(a_run(STEADY), False), (a_run(WILD), True), (a_run(STEADY, BUSY), True)],
    ids=["quiet", "wild", "busy"],
)
def test_what_is_not_to_be_believed_is_marked(
    results: Results, is_marked: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(results, tmp_path / "run.json")
    main(["--load", str(tmp_path / "run.json"), "--markdown", str(tmp_path / "run.md")])
    shown = " ".join(capsys.readouterr().out.split())
    written = (tmp_path / "run.md").read_text(encoding="utf-8")
    row = costs.cost_table(results, 2).rows[0]
    assert [row[4].endswith("?"), row[5].endswith("?")] == [is_marked] * 2
    assert not row[3].endswith("?")
    for text in (shown, " ".join(written.split())):
        assert (ABOUT_DOUBTFUL in text) == is_marked
        assert ABOUT_RATIOS in text


def test_a_busy_run_says_so_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = a_run(STEADY, BUSY)
    save(results, tmp_path / "run.json")
    (said,) = results.doubts
    assert BUSY in said
    assert "during 1 of 2 timings" in said
    assert next(iter(json.loads((tmp_path / "run.json").read_text()).items())) == ("doubts", [said])
    assert load(tmp_path / "run.json") == results
    main(["--load", str(tmp_path / "run.json"), "--markdown", str(tmp_path / "run.md")])
    assert " ".join(capsys.readouterr().out.split()).startswith(said)
    measurements = costs.measurements_block(results)
    assert " ".join(measurements.split()).startswith(f"**{said}** ")
    assert said in " ".join(costs.rules_block(results).split())


def test_a_quiet_run_says_nothing() -> None:
    assert a_run(STEADY).doubts == []


def test_quick_figures_mean_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = fo.get_num_threads()
    try:
        main(
            ["--quick", "--elements", "64", "--threads", "1", "--json", str(tmp_path / "run.json")]
        )
    finally:
        fo.set_num_threads(before)
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith(MEANS_NOTHING)
    assert load(tmp_path / "run.json").is_quick
    assert MEANS_NOTHING in (tmp_path / "run.json").read_text()


@pytest.mark.parametrize("is_quick", [False, True], ids=["normal", "quick"])
def test_a_run_notes_who_was_disturbed(monkeypatch: pytest.MonkeyPatch, is_quick: bool) -> None:
    monkeypatch.setattr(Watch, "doubt", lambda *_: BUSY)
    bench = Bench([], [], [1], QUICK if is_quick else replace(QUICK, rounds=2))
    before = fo.get_num_threads()
    try:
        bench.measure_limits(64)
    finally:
        fo.set_num_threads(before)
    found = [entry.doubt for one in bench.results.measurements for entry in one.entries]
    assert found == ["" if is_quick else BUSY] * 3
    assert "during 3 of 3 timings" in bench.results.doubts[-1]
    assert (MEANS_NOTHING in bench.results.doubts) == is_quick


def compared(old: Results, new: Results, folder: Path) -> int:
    save(old, folder / "old.json")
    save(new, folder / "new.json")
    return main(["--compare", str(folder / "old.json"), str(folder / "new.json")])


def slower(times: list[float]) -> list[float]:
    return [1.3 * time for time in times]


def test_a_noisy_figure_is_no_regression(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = a_run(STEADY)
    assert compared(quiet, a_run(slower(STEADY)), tmp_path) == 1
    assert "Not to be believed" not in capsys.readouterr().out
    # A rule that is believed keeps the comparison from being empty.
    lion = a_run(STEADY, label="Lion").measurements
    for old, new, change in (
        (STEADY, slower(WILD), "+30%"),
        (WILD, slower(STEADY), "+30%"),
        # Both are believed, but the rounds overlap.
        (ROUGH, ROUGH_LATER, "+12%"),
    ):
        runs = [a_run(old), a_run(new)]
        for run in runs:
            run.measurements += lion
        assert compared(*runs, tmp_path) == 0
        shown = capsys.readouterr().out
        assert "Not to be believed" in shown
        assert change in shown
        assert "0 of 2 are slower" in shown


@pytest.mark.parametrize("is_old", [False, True], ids=["new", "old"])
def test_a_busy_run_shows_no_regression(
    is_old: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [a_run(STEADY), a_run(slower(STEADY))]
    runs[not is_old].measurements[0].entries[1].doubt = BUSY
    assert compared(*runs, tmp_path) == 1
    shown = capsys.readouterr().out
    assert "nothing to compare: no figure is to be believed in both runs" in shown
    for run in runs:
        run.measurements += a_run(STEADY, label="Lion").measurements
    assert compared(*runs, tmp_path) == 0
    assert "Not to be believed" in capsys.readouterr().out
