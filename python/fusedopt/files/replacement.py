# ruff: noqa: PTH114, PTH115, PTH116, PTH118, PTH120
"""A new file that takes an old one's place when it is whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_BINARY = getattr(os, "O_BINARY", 0)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextlib.contextmanager
def replacement(path: str) -> Iterator[io.FileIO]:
    """Give a file to write, and put it in the place of `path` if nothing was raised meanwhile.

    Where it goes, and with which mode, is as if `path` had been opened for writing. Every OSError names `path`.
    """
    with naming(path):
        target, old = _target(path)
        _remove_abandoned(target)
        temporary, descriptor = _create(path, target, 0o600 if old else 0o666)
        try:
            with open(
                temporary, "wb", buffering=0, opener=lambda _name, _flags: descriptor
            ) as file:
                if old:
                    _adopt(temporary, target, old)
                yield file
                os.fsync(descriptor)
                if fcntl is None:
                    file.close()  # Windows renames no open file
                temporary.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    _flush(target.parent)


@contextlib.contextmanager
def creation(path: str, mode: int) -> Iterator[io.FileIO]:
    """Give a new file to write, and remove it again if anything is raised meanwhile. Every OSError names `path`."""
    with naming(path):
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY | _NO_FOLLOW
        descriptor = os.open(path, flags, mode)
        try:
            with open(path, "wb", buffering=0, opener=lambda _name, _flags: descriptor) as file:
                yield file
                os.fsync(descriptor)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(path).unlink()
            raise
    _flush(Path(path).parent)


def open_regular(path: str) -> io.FileIO:
    """Open a file for reading; OSError if it is no regular file."""
    with naming(path):
        _require_regular(path, os.stat(path))
        descriptor = os.open(path, os.O_RDONLY | _BINARY | _NO_WAIT)
        return io.FileIO(descriptor, "rb")


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Raise every OSError as one about `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, path) from None


def _require_regular(path: str, found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "none")
        raise OSError(errno.EINVAL, f"expected a regular file, found {kind}", path)


def _target(path: str) -> tuple[Path, os.stat_result | None]:
    """Find the file that opening `path` would write, at the end of all links, and what it is now.

    Only then pathlib may have it, which drops a slash at the end.
    """
    old = None
    with contextlib.suppress(FileNotFoundError):
        old = os.stat(path)
    if old:
        _require_regular(path, old)
        os.close(os.open(path, os.O_WRONLY | _BINARY | _NO_WAIT))  # refused if it is read-only
    while os.path.islink(path):
        path = os.path.join(os.path.dirname(path), os.readlink(path))
    folder, name = os.path.split(path)
    if not name:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return Path(folder or os.curdir).resolve(strict=True) / name, old


# A temporary file is locked from its first moment to its last. One that is not is what a killed process has left.


def _prefix(target: Path) -> str:
    """Begin the names of the target's temporary files; short, as its own name may be as long as names can be."""
    digest = hashlib.blake2b(os.fsencode(target.name), digest_size=6).hexdigest()
    return f".{target.name[:24]}.{digest}."


def _create(path: str, target: Path, mode: int) -> tuple[Path, int]:
    while True:
        temporary = target.parent / f"{_prefix(target)}{secrets.token_hex(4)}.saving"
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY | _NO_FOLLOW
            descriptor = os.open(temporary, flags, mode)
        except FileExistsError:
            continue
        except PermissionError as error:
            raise PermissionError(
                error.errno,
                f"expected a folder to write a new file in, as it takes the old one's place only "
                f"when it is whole, found {str(target.parent)!r} without permission",
                path,
            ) from None
        if fcntl is None:
            return temporary, descriptor
        with contextlib.suppress(OSError):  # a file system without locks: nothing is removed there
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink > 0:
            return temporary, descriptor
        os.close(descriptor)  # removed by another process before it was locked


def _remove_abandoned(target: Path) -> None:
    if fcntl is None:
        return
    prefix = _prefix(target)
    found: list[Path] = []
    with contextlib.suppress(OSError):
        found = [path for path in target.parent.iterdir() if path.name.startswith(prefix)]
    for temporary in found:
        with contextlib.suppress(OSError):
            descriptor = os.open(temporary, os.O_RDWR | _NO_FOLLOW | _NO_WAIT)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                temporary.unlink()
            finally:
                os.close(descriptor)


def _adopt(temporary: Path, target: Path, old: os.stat_result) -> None:
    """Give a new file the mode of the old one and, as far as the system allows, its owner and attributes."""
    owners = [(old.st_uid, old.st_gid), (-1, old.st_gid)] if hasattr(os, "chown") else []
    for user, group in owners:
        with contextlib.suppress(OSError):
            os.chown(temporary, user, group)
            break
    with contextlib.suppress(OSError):
        shutil.copystat(target, temporary)
    found = temporary.stat()
    mode = stat.S_IMODE(old.st_mode)
    if (found.st_uid, found.st_gid) != (old.st_uid, old.st_gid):
        mode &= 0o777
    if found.st_gid != old.st_gid:
        mode &= 0o707  # they were another group's rights
    if stat.S_IMODE(found.st_mode) != mode:
        temporary.chmod(mode)


def _flush(folder: Path) -> None:
    """Make a rename last, on systems that can."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
