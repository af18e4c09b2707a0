"""State in one file, in the safetensors format, written whole or not at all."""

from __future__ import annotations

import atexit
import json
import os
import tempfile
import threading
from collections.abc import Mapping
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from fusedopt.runtime import __version__
from fusedopt.state import Array, checked_values

FORMAT = "fusedopt-1"
Function = TypeVar("Function", bound=Any)


class _Exit:
    """Holds up the end of the interpreter until no thread uses the file library.

    That library stops the process if Python ends one of its threads, and a temporary file would stay.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        atexit.register(self.lock_for_good)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        self.lock = threading.RLock()

    def lock_for_good(self) -> None:
        self.lock.acquire()

    def waits_for(self, function: Function) -> Function:
        @wraps(function)
        def locked(*arguments: Any) -> Any:
            with self.lock:
                return function(*arguments)

        return locked  # type: ignore[return-value]


_exit = _Exit()


@_exit.waits_for
def write(
    path: str | os.PathLike[str], state: list[tuple[str, Array]], description: Mapping[str, Any]
) -> None:
    """Write state and description to a new file, then put it in the place of the old one."""
    library = _library()
    target = Path(path)
    metadata = {
        "format": FORMAT,
        "version": __version__,
        "optimizer": json.dumps(description, default=lambda value: None),
    }
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    temporary = Path(name)
    try:
        os.close(descriptor)
        library.numpy.save_file(dict(state), temporary, metadata=metadata)
        _flush(temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        _flush(target.parent)


@_exit.waits_for
def read(
    path: str | os.PathLike[str], state: list[tuple[str, Array]], class_name: str
) -> list[Array]:
    """Read the values of `state` from a file; ValueError where it is not the file of such state."""
    library = _library()
    source = Path(path)
    try:
        with library.safe_open(source, framework="numpy") as file:
            metadata = file.metadata() or {}
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise
    except (library.SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{source}: expected a whole safetensors file, found one that cannot be read ({error})"
        ) from error
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{source}: expected a file that save wrote ({FORMAT}), found {metadata.get('format')!r}"
        )
    try:
        stored = json.loads(metadata["optimizer"])["class_name"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{source}: expected a description of the optimizer") from error
    if stored != class_name:
        raise ValueError(f"{source}: expected the state of {class_name}, found that of {stored}")
    expected = {name for name, _ in state}
    if found.keys() != expected:
        missing, unknown = sorted(expected - found.keys()), sorted(found.keys() - expected)
        raise ValueError(
            f"{source}: expected state of the same variables and options; "
            f"missing: {missing[:8]}, unknown: {unknown[:8]}"
        )
    return checked_values(str(source), state, [found[name] for name, _ in state])


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _library() -> Any:
    try:
        import safetensors.numpy  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            'save and load need the package safetensors: pip install "fusedopt[files]"'
        ) from error
    return safetensors
