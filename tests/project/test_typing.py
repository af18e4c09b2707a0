"""What a strict type checker makes of the package: it knows every argument, and refuses a slip."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fusedopt as fo
import pytest

pytestmark = pytest.mark.maintainer

RIGHT = """
import fusedopt as fo

optimizer = fo.AdamW(beta_1=0.8)
fo.AdamW(1e-3, clipnorm=1.0, name="mine", skip_nonfinite=True, amsgrad=True)
fo.AdamW(fo.schedules.CosineDecay(0.1, 10), beta_2=lambda: 0.9)
fo.SGD(0.1, 0.9, True, weight_decay=0.1)
fo.Muon(0.1, exclude_layers=["head"], rms_rate=None)
fo.LossScaleOptimizer(optimizer, 1024.0, name="scaled")
fo.MultiOptimizer(fo.OptimizerMap(optimizer), global_clipnorm=1.0)
fo.AdamW(row_updates="caught_up").row_updates = "lazy"
fo.AdamW(slot_dtype="float8", slot_dtypes={"w": "bfloat16"}, seed=3, master=False).seed = 5
optimizer.load("state", convert_slots=True)
missing: list[str] = optimizer.load("state", strict=False, convert_slots=True).missing
optimizer.apply([fo.RowGradient(values=[], indices=[])])
optimizer.catch_up("table", indices=[])
rate: float = optimizer.learning_rate
optimizer.learning_rate = fo.schedules.CosineDecay(0.1, 10)
optimizer.learning_rate = 0.5
optimizer.beta_1 = 0.5
name: str = optimizer.name


class Mine(fo.Adam):
    def __init__(self, patience: int) -> None:
        super().__init__(beta_1=0.5)
        self.patience = patience


Mine(3)
"""
WRONG = [
    "fo.AdamW(lr=1e-3)",
    "fo.AdamW(betas=(0.9, 0.999))",
    "fo.AdamW(beta_1='0.9')",
    "fo.AdamW(weight_decay=None)",
    "fo.Adam(momentum=0.9)",
    "fo.Lion(epsilon=1e-3)",
    "fo.Lion(row_updates='catch_up')",
    "fo.Adam(slot_dtype='fp8')",
    "fo.Adam(slot_dtypes={'w': 'fp8'})",
    "fo.Adam(slot_dtypes='float8')",
    "fo.Adam(seed=0.5)",
    "fo.Adam().master = 1",
    "fo.RowGradient([])",
    "fo.RowGradient([], [], [])",
    "fo.Adam().catch_up(rows=[])",
    "fo.SGD(nesterov=0.5)",
    "fo.Ftrl(l1=0.1)",
    "fo.LossScaleOptimizer()",
    "fo.LossScaleOptimizer(fo.Adam(), dynamic_growth_steps='3')",
    "fo.MultiOptimizer(fo.Adam())",
    "fo.Adam().lr = 0.1",
    "fo.Adam().beta_1 = '0.9'",
    "fo.Adam().name = 3",
    "fo.Adam().iterations = 3",
]


def checked(text: str, folder: Path) -> str:
    pytest.importorskip("mypy")
    (folder / "user.py").write_text(text, encoding="utf-8")
    source = str(Path(fo.__file__).parent.parent)
    # mypy finds an installed package by itself, and refuses to be pointed to where that is.
    path = "" if source in sys.path else source
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file=",
            "--no-color-output",
            "user.py",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "MYPYPATH": path},
    )
    assert done.returncode in {0, 1}, done.stderr  # 1 is errors found, 2 is no answer
    assert not done.stderr
    return done.stdout


def test_right_calls(tmp_path: Path) -> None:
    assert checked(RIGHT, tmp_path).startswith("Success")


def test_wrong_calls(tmp_path: Path) -> None:
    text = "import fusedopt as fo\n\n" + "\n".join(WRONG)
    found = {
        int(line.split(":")[1])
        for line in checked(text, tmp_path).splitlines()
        if line.startswith("user.py") and ": error:" in line
    }
    assert found == set(range(3, 3 + len(WRONG)))
