"""The example `train_digits_on_ranks.py` has the same loss, to the last bit, on 1, 2 and 4 ranks."""

from __future__ import annotations

from pathlib import Path

import mpi
import pytest

pytestmark = mpi.needed
for name in ("sklearn", "tqdm", "threadpoolctl"):
    pytest.importorskip(name, reason='needs the extra "examples"')

PROGRAM = Path(__file__).resolve().parents[2] / "python" / "examples" / "train_digits_on_ranks.py"


def test_the_loss_is_the_same_on_any_number_of_ranks() -> None:
    found = []
    for size in (1, 2, 4):
        done = mpi.run_python(size, PROGRAM, "--epochs", "6")
        assert done.returncode == 0, done.stdout + done.stderr
        loss, accuracy, *_ = done.stdout.splitlines()
        assert loss.startswith("loss "), done.stdout  # of rank 0 alone
        assert "reached" in accuracy
        assert f"of {size}" in done.stdout
        assert "6/6" in done.stderr
        found.append((loss, accuracy))
    assert found == [found[0]] * 3


def test_another_number_of_ranks() -> None:
    done = mpi.run_python(3, PROGRAM)
    assert done.returncode != 0
    assert "expected 1, 2 or 4 ranks, found 3" in done.stderr
