"""What this build and machine offer (levels, threads), and programs that run in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import fusedopt as fo

LEVELS = fo.show_config()["levels_supported"]
HAS_THREADS = fo.show_config()["openmp"]
COUNTS = [2, 3, 5, 16] if HAS_THREADS else [1]
TWO = 2 if HAS_THREADS else 1
LARGE = 300_001  # elements; enough for several threads, and no whole number of tiles
SETTINGS = ("FUSEDOPT_NUM_THREADS", "OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "OMP_DYNAMIC")


def python(program: str, settings: dict[str, str] | None = None, timeout: int = 120) -> list[str]:
    """Run a program with just these settings of threads and return the words it prints."""
    environment = {k: v for k, v in os.environ.items() if k not in SETTINGS}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env=environment | (settings or {}),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def in_threads(count: int, body: Callable[[int], None]) -> None:
    """Run body(0), body(1) ... at the same time and raise what any of them raised."""
    start = threading.Barrier(count)

    def begin(index: int) -> None:
        start.wait(timeout=60)
        body(index)

    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(begin, index) for index in range(count)]:
            future.result(timeout=60)


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def lines(program: str) -> list[str]:
    done = run(program)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
