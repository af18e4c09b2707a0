"""Starts programs on several ranks, with the mpiexec of MPICH or of Open MPI."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

# The interpreter's own comes first.
MPIEXEC = shutil.which(
    "mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
)

needed = [
    pytest.mark.skipif(not find_spec("mpi4py"), reason="mpi4py is not installed (extra mpi)"),
    pytest.mark.skipif(not MPIEXEC, reason="there is no mpiexec (extra mpi)"),
]

# Open MPI wants to be told that root may start ranks, and that there may be more of them than processors. The last two
# are of versions 4 and 5. MPICH knows none of these.
ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


def run(
    size: int,
    *program: Any,
    mpiexec: str | None = MPIEXEC,
    timeout: float = 120,
    folder: Path | None = None,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run a program on so many ranks of one thread each."""
    return subprocess.run(
        [str(mpiexec), "-n", str(size), *map(str, program)],
        cwd=folder,
        env={**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def run_python(size: int, *program: Any) -> subprocess.CompletedProcess[str]:
    """Run a program in Python, which may import what the tests do."""
    words = (sys.executable, "-m", "mpi4py", *program)
    return run(size, *words, PYTHONPATH=str(Path(__file__).parent))
