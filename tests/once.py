"""What takes minutes to make is made once for a run of pytest, by whichever of its processes needs it first."""

from __future__ import annotations

import faulthandler
import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter

import pytest
from filelock import FileLock


def without_time_limit() -> None:
    """Let the test that runs take as long as it must: pytest's limit is for deadlocks, not for compilers."""
    faulthandler.cancel_dump_traceback_later()


class Once:
    """Makes folders that all processes of one run of pytest share."""

    def __init__(self, folder: Path, config: pytest.Config) -> None:
        self._folder = folder
        self._config = config

    def __call__(self, name: str, what: str, make: Callable[[Path], None]) -> Path:
        """Return the folder that `make` has filled, in this process or another; fail if it failed there."""
        without_time_limit()
        record = self._folder / f"{name}.json"
        with FileLock(
            self._folder / f"{name}.lock"
        ):  # the system takes it back from a process that dies
            if not record.exists():
                self._make(what, make, record)
        made = json.loads(record.read_text())
        if made["error"] is not None:
            pytest.fail(made["error"], pytrace=False)
        return Path(made["folder"])

    def _make(self, what: str, make: Callable[[Path], None], record: Path) -> None:
        # A new folder each time: where a process was killed, its compilers may still write into the old one.
        folder = Path(tempfile.mkdtemp(prefix=f"{record.stem}-", dir=self._folder))
        error = None
        began = perf_counter()
        self._say(f"building {what}, once for all processes ...")
        try:
            make(folder)
        except (OSError, pytest.fail.Exception) as failure:
            error = f"{what}: {failure}"
        self._say(
            f"{what}: {'built' if error is None else 'FAILED'} in {perf_counter() - began:.0f} s"
        )
        unfinished = record.with_suffix(".unfinished")
        unfinished.write_text(json.dumps({"folder": str(folder), "error": error}))
        unfinished.replace(record)

    def _say(self, line: str) -> None:
        """Write to the terminal, which the processes of pytest-xdist reach only by stderr."""
        capture = self._config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            print(f"\n{line}", file=sys.stderr, flush=True)
