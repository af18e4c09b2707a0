"""The library of the safetensors format: imported when it is needed, and used until the interpreter ends."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any


class UntilExit:
    """Lets the end of the interpreter wait for threads that use files, and keeps others out from then on.

    Python ends daemon threads wherever they are. A temporary file would stay, and the library stops the
    process if that strikes inside it.
    """

    def __init__(self) -> None:
        self._renew()
        atexit.register(self._wait)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._condition = threading.Condition(threading.RLock())
        self._inside = 0

    def _wait(self) -> None:
        self._condition.acquire()  # for good
        self._condition.wait_for(lambda: self._inside == 0)

    @contextlib.contextmanager
    def use(self) -> Iterator[None]:
        """Use files, for a ``with`` block."""
        with self._condition:
            self._inside += 1
        try:
            yield
        finally:
            with self._condition:
                self._inside -= 1
                self._condition.notify_all()


until_exit = UntilExit()


def check(library: Any, path: str) -> None:
    """Let the library check that a file is of its format."""
    with until_exit.use(), library.safe_open(path, framework="numpy"):
        pass


# A process that is forked in the middle of another thread's import could never import that module.
_importing = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_importing.acquire,
        after_in_parent=_importing.release,
        after_in_child=_importing.release,
    )


def library() -> Any:
    """Return the library, or say how to get it."""
    try:
        with _importing:
            import safetensors.numpy  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            "save and load need the package safetensors: pip install safetensors"
        ) from error
    return safetensors
