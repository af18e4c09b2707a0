"""The C++ library on emulated processors: it runs on one of 2008, and tells an older one what it needs."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest
from test_cpp import EXAMPLE, cmake, prefix, run_example, tree

pytestmark = [
    pytest.mark.skipif(not shutil.which("qemu-x86_64"), reason="no qemu-x86_64"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="emulates another kind of machine"),
    pytest.mark.maintainer,
]
__all__ = ["prefix", "tree"]  # the fixtures


def test_the_example_on_old_processors(prefix: Path, tmp_path: Path) -> None:
    cmake(EXAMPLE, tmp_path, f"-DCMAKE_PREFIX_PATH={prefix}", targets=("iris",))
    run_example(tmp_path / "iris")
    for processor, can_run in (("Nehalem", True), ("Penryn", False), ("core2duo", False)):
        done = subprocess.run(
            ["qemu-x86_64", "-cpu", processor, str(tmp_path / "iris")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) == can_run, done.stderr
        if can_run:
            assert "are recognised" in done.stdout
        else:
            assert "run on a newer processor (x86_64_v2 needs SSE4.2 and POPCNT)" in done.stderr
