"""The example `train_digits.py` draws its picture. If it cannot, it names a way out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.maintainer
for name in ("sklearn", "tqdm", "threadpoolctl", "matplotlib"):
    pytest.importorskip(name, reason='needs the extra "examples"')

PROGRAM = Path(__file__).resolve().parents[2] / "python" / "examples" / "train_digits.py"


def train(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    without_display = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "MPLBACKEND")}
    return subprocess.run(
        [sys.executable, "-X", "utf8", str(PROGRAM), "--epochs", "4", *words],
        cwd=folder,
        env=without_display,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


@pytest.mark.parametrize("words", [[], ["--output", "other.png"]], ids=["default", "named"])
def test_picture_is_drawn_and_its_place_is_said(tmp_path: Path, words: list[str]) -> None:
    done = train(tmp_path, *words)
    picture = tmp_path.resolve() / (words[-1] if words else "digits.png")
    assert picture.read_bytes().startswith(b"\x89PNG"), done.stderr
    assert done.stdout.splitlines()[-1].split(maxsplit=1) == ["picture", str(picture)]


def test_picture_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "digits.png").mkdir()
    done = train(tmp_path)
    assert done.returncode == 1
    assert "test accuracy" in done.stdout
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"picture        NOT WRITTEN: {tmp_path.resolve() / 'digits.png'}: ")
    assert last.endswith("Name a file in a folder that you may write to: --output PATH")
