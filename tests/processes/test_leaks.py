"""No call keeps memory, neither of Python's objects nor of the core's, which only the C library counts."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import repeated_calls

pytest.importorskip("safetensors")
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"),
    reason="the C library does not count what is in use (glibc 2.33)",
)
SETTINGS = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
LEAST = 32  # bytes: glibc gives no less


def kept(*names: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, repeated_calls.__file__, *names],
        env={**os.environ, **SETTINGS},
        cwd=Path(repeated_calls.__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(map(json.loads, done.stdout.splitlines()))


@pytest.mark.maintainer
def test_calls_keep_nothing() -> None:
    found = kept()
    assert len(found) > 30
    assert {name: size for name, size in found.items() if size > LEAST / 2} == {}


def test_frequent_calls_keep_nothing() -> None:
    names = ["Adam", "refused", "views", "foreign gradients"]
    found = kept(*names)
    assert list(found) == names
    assert max(found.values()) < LEAST / 2, found


def test_what_a_call_keeps_is_seen() -> None:
    assert kept("keeps on purpose")["keeps on purpose"] >= LEAST
