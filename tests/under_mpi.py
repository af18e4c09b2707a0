"""Programs whose processes are ranks of MPI."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MPIEXEC = shutil.which(
    "mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
)

needed = [
    pytest.mark.skipif(not find_spec("mpi4py"), reason="mpi4py is not installed (extra mpi)"),
    pytest.mark.skipif(not MPIEXEC, reason="there is no mpiexec (extra mpi)"),
]


def run(size: int, program: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program on so many ranks, with one thread each."""
    return subprocess.run(
        [str(MPIEXEC), "-n", str(size), sys.executable, "-m", "mpi4py", str(program), *words],
        env={**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
