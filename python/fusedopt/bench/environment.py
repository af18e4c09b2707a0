"""The machine and the libraries of a run, and how many threads all of them use."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Sequence
from datetime import datetime, timezone

import cpuinfo  # type: ignore[import-untyped]
import psutil

import fusedopt as fo


def set_threads(threads: int) -> None:
    """Give fusedopt, and PyTorch if it is loaded, the same number of threads."""
    threads = max(threads, 1)
    fo.set_num_threads(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def prepare() -> None:
    """Set what the libraries read when they are imported."""
    # NumPy and fusedopt ask for huge pages by themselves; PyTorch does if it is told to.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # The fastest of Keras's backends that work eagerly on a CPU, else the one that needs no other
    # library.
    os.environ["KERAS_BACKEND"] = "torch" if importlib.util.find_spec("torch") else "numpy"


def describe(packages: Sequence[str]) -> dict[str, str]:
    """Describe what a reader must know about the machine and the libraries."""
    config = fo.show_config()
    versions = [f"{name} {_version(name)}" for name in packages if importlib.util.find_spec(name)]
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "processor": f"{_processor()}, {psutil.cpu_count()} processors",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "fusedopt": f"{config['version']}, {config['compiler']}, level {config['level']}",
        "libraries": ", ".join(versions),
    }


def available_bytes() -> int:
    """Return how much memory can be taken without swapping."""
    return int(psutil.virtual_memory().available)


def _version(package: str) -> str:
    version = importlib.metadata.version(package)
    if package == "keras":
        return f"{version} on {os.environ['KERAS_BACKEND']}"
    return version


def _processor() -> str:
    found = cpuinfo.get_cpu_info()
    return str(found.get("brand_raw") or platform.processor() or "unknown")
