"""Ranks that are processes under MPI."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fusedopt as fo
import mpi
import pytest
import ranks

HERE = Path(__file__).parent
pytestmark = mpi.needed


def run(size: int, what: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return mpi.run_python(size, HERE / "mpi_rank.py", what, folder)


def findings(size: int, what: str, folder: Path) -> list[list[str]]:
    done = run(size, what, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    texts = [(folder / f"{rank}.txt").read_text(encoding="utf-8") for rank in range(size)]
    return [text.split("\n") for text in texts]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_training(size: int, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    single = ranks.new()
    expected = ranks.train(single, lambda step: ranks.summed(size, step))
    found = findings(size, "trains", tmp_path)
    assert found == [[expected, "4"]] * size
    single.save(tmp_path / "single", variables=True)
    assert (tmp_path / "state").read_bytes() == (tmp_path / "single").read_bytes()
    assert len([*tmp_path.glob("index-*")]) == size
    loaded = ranks.new()
    loaded.build(ranks.variables())
    loaded.load(tmp_path / "index")
    loaded.save(tmp_path / "loaded", variables=True)
    assert (tmp_path / "loaded").read_bytes() == (tmp_path / "single").read_bytes()


def test_a_refusal(tmp_path: Path) -> None:
    for rank, (message, is_right) in enumerate(findings(3, "refuses", tmp_path)):
        assert message.startswith("rank 1: ") == (rank != 1)
        assert "expected shape (5000,), found (3,)" in message
        assert is_right == "True"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_a_forked_child_is_no_rank(tmp_path: Path) -> None:
    assert all("forked child" in text for (text,) in findings(2, "forks", tmp_path))


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
@pytest.mark.parametrize("how", ["dies", "raises", "exits"])
def test_a_rank_that_ends_too_early_ends_all(how: str, tmp_path: Path) -> None:
    assert run(3, how, tmp_path).returncode != 0
    assert [*tmp_path.iterdir()] == []


def test_show_config_knows_how_many_ranks_there_are(tmp_path: Path) -> None:
    count = fo.show_config()["processors"]
    for number, source, advice in findings(count + 1, "shows", tmp_path):
        assert number == str(count + 1)
        assert source
        assert advice.endswith("start no more ranks than processors")


def test_nobody_imports_mpi4py() -> None:
    program = "import sys, fusedopt; sys.exit(any(n.startswith('mpi4py') for n in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
