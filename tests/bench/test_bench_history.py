"""`bench/history.py`: what it says of noise and of changes, which commits it means, and that it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import history
import history_subjects
import numpy as np
import pytest
from bench_runs import CHECKOUT, ROOT, python
from history_verdict import Change, change_of, log_ratio


def verdicts(change: float, noise: float, draws: int = 12, tries: int = 60) -> dict[str, float]:
    """Count what is said of a true change under noise, as shares."""
    random = np.random.default_rng(7)
    said = [
        change_of(np.log(change) + random.normal(0, noise, draws)).verdict() for _ in range(tries)
    ]
    return {verdict: said.count(verdict) / tries for verdict in dict.fromkeys(said)}


@pytest.mark.parametrize("noise", [0.005, 0.02, 0.05, 0.2])
def test_noise_is_no_change(noise: float) -> None:
    said = verdicts(1.0, noise)
    assert said.get("slower", 0) + said.get("faster", 0) <= 0.02


def test_little_noise_allows_to_say_that_nothing_changed() -> None:
    assert verdicts(1.0, 0.01)["same"] >= 0.95


@pytest.mark.parametrize(("change", "verdict"), [(1.1, "slower"), (1 / 1.1, "faster")])
def test_a_tenth_is_told_from_noise(change: float, verdict: str) -> None:
    assert verdicts(change, 0.02)[verdict] >= 0.95


def test_a_change_within_the_tolerance_is_never_called_one() -> None:
    assert verdicts(1.02, 0.005).keys() <= {"same", "unclear"}


def test_one_draw_that_was_disturbed_changes_nothing() -> None:
    change = change_of([*[0.0] * 11, np.log(5.0)])
    assert change.verdict() == "same"


def test_the_whole_interval_decides() -> None:
    assert Change(1.1, 1.02, 1.2).verdict() == "unclear"
    assert Change(1.1, 1.04, 1.2).verdict() == "slower"
    assert Change(1.1, 1.04, 1.2).verdict(tolerance=0.05) == "unclear"
    assert Change(0.9, 0.8, 0.95).verdict() == "faster"


def test_times_of_one_round_are_compared() -> None:
    drifting = np.array([1.0, 2.0, 4.0])
    assert log_ratio(drifting, 2 * drifting) == pytest.approx(np.log(2))


def test_neighbours_are_compared_and_the_first_with_itself() -> None:
    # The first is in the list twice.
    assert list(history.pairs(4)) == [(0, 1), (0, 2), (2, 3)]


def test_a_range_takes_its_ends_and_every_some_commit_between() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    commits = history_subjects.git("rev-list", "--first-parent", "--reverse", "HEAD").splitlines()
    if len(commits) < 6:
        pytest.skip("a checkout without its history")
    *_, oldest, _, second, _, newest = commits
    found = history_subjects.subjects_of(f"{oldest}..{newest},NAME=1", every=2)
    assert [one.commit for one in found] == [oldest, second, newest]
    assert {one.environment for one in found} == {(("NAME", "1"),)}


def test_one_subject_is_not_enough() -> None:
    with pytest.raises(SystemExit, match="two commits or more"):
        history.main(["installed"])


@pytest.mark.maintainer
def test_it_runs_and_writes_ratios_only(tmp_path: Path) -> None:
    done = python(
        *(str(CHECKOUT / "history.py"), "installed", "installed,FUSEDOPT_NUM_THREADS=1"),
        *("--draws", "1", "--rounds", "1", "--turn", "0.0001", "--json", "found.json", "--all"),
        folder=tmp_path,
    )
    assert done.returncode in {0, 1, 2}, done.stderr
    runs = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert [run["new"] for run in runs] == ["installed", "installed,FUSEDOPT_NUM_THREADS=1"]
    for run in runs:
        assert {"AdamW, 2^20", "Muon, 2^14", "AdamW, float16", "Adam, 1000 rows"} <= run[
            "changes"
        ].keys()
        assert {key for change in run["changes"].values() for key in change} == {
            "ratio",
            "low",
            "high",
        }


def test_a_case_that_an_old_build_lacks_is_answered_with_the_reason() -> None:
    worker = subprocess.run(
        [sys.executable, str(history_subjects.WORKER)],
        input='["begin", "no such rule"]\n',
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert "no such rule" in json.loads(worker.stdout)
