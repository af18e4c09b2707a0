"""The programs of python/examples run, and their losses are those of the hosts' own optimizers."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "python" / "examples"
# Each program, what it imports, and how many trainings it reports.
PROGRAMS = {
    "train_characters.py": (["torch"], 2),
    "train_federated.py": ([], 3),
    "train_keras.py": (["torch", "keras", "sklearn"], 2),
    "train_recommender.py": ([], 3),
    "train_spacy.py": (["spacy"], 2),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_trains_as_well_as_its_host(program: str) -> None:
    needed, trainings = PROGRAMS[program]
    for name in needed:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name}")
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", str(EXAMPLES / program)],
        # The processes of pytest share the processors already.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shares = re.findall(r"loss [0-9.]+ .*(?:optimizer|step) +([0-9.]+)% of", done.stdout)
    assert len(shares) == trainings, done.stdout
    assert all(0.0 <= float(share) < 100.0 for share in shares)


def test_every_program_is_run() -> None:
    found = {path.name for path in EXAMPLES.glob("*.py")}
    assert found - {"train_digits.py", "train_digits_on_ranks.py"} == set(PROGRAMS)
