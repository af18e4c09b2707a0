"""Where and how `save` writes: links, modes, owners, limits and killed processes. A file is whole or as it was."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest

pytest.importorskip("safetensors")
posix = pytest.mark.skipif(os.name != "posix", reason="links, modes and limits of POSIX")


@pytest.fixture
def optimizer() -> fo.Optimizer:
    made = fo.Adam()
    made.build({"w": np.linspace(-1, 1, 50)})
    made.apply({"w": np.ones(50)})
    return made


@pytest.fixture
def umask() -> Iterator[Callable[[int], None]]:
    before = os.umask(0o22)
    yield lambda mask: os.umask(mask) and None
    os.umask(before)


def loads(path: Any) -> int:
    other = fo.Adam()
    other.build({"w": np.zeros(50)})
    other.load(path)
    return other.iterations


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def is_alone(path: Path) -> bool:
    return list(path.parent.iterdir()) == [path]


@posix
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002, 0o000])
def test_a_new_file_has_the_mode_of_the_umask(
    optimizer: fo.Optimizer, tmp_path: Path, umask: Callable[[int], None], mask: int
) -> None:
    umask(mask)
    optimizer.save(tmp_path / "state")
    with (tmp_path / "opened").open("wb"):
        pass
    assert mode_of(tmp_path / "state") == mode_of(tmp_path / "opened") == 0o666 & ~mask


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o666, 0o777])
def test_an_old_file_keeps_its_mode(
    optimizer: fo.Optimizer, tmp_path: Path, umask: Callable[[int], None], mode: int
) -> None:
    umask(0o027)
    path = tmp_path / "state"
    path.touch()
    path.chmod(mode)
    optimizer.save(path)
    assert mode_of(path) == mode
    assert loads(path) == 1


@posix
def test_extended_attributes_stay(optimizer: fo.Optimizer, tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.touch()
    try:
        os.setxattr(path, "user.note", b"kept")
    except (AttributeError, OSError):
        pytest.skip("this file system has no extended attributes")
    optimizer.save(path)
    assert os.getxattr(path, "user.note") == b"kept"


@posix
def test_links_are_followed(optimizer: fo.Optimizer, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    target = tmp_path / "data" / "target"
    target.touch()
    (tmp_path / "relative").symlink_to("data/target")
    (tmp_path / "link").symlink_to(tmp_path / "relative")
    optimizer.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "relative").is_symlink()
    assert not target.is_symlink()
    assert loads(target) == loads(tmp_path / "link") == 1
    assert is_alone(target)


@posix
def test_a_dangling_link_makes_its_target(optimizer: fo.Optimizer, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "folder").symlink_to("data")
    (tmp_path / "link").symlink_to("folder/../data/target")
    optimizer.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert loads(tmp_path / "data" / "target") == 1
    (tmp_path / "nowhere").symlink_to("no/target")
    with pytest.raises(FileNotFoundError) as caught:
        optimizer.save(tmp_path / "nowhere")
    assert caught.value.filename == str(tmp_path / "nowhere")


@posix
def test_a_loop_of_links_is_the_error_of_the_system(
    optimizer: fo.Optimizer, tmp_path: Path
) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for call in (optimizer.save, optimizer.load):
        with pytest.raises(OSError, match="symbolic link") as caught:
            call(tmp_path / "a")
        assert caught.value.errno == errno.ELOOP


@posix
@pytest.mark.parametrize("kind", ["FIFO", "socket", "device", "folder"])
def test_only_regular_files_are_replaced(
    optimizer: fo.Optimizer, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        try:
            os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        except PermissionError:
            path = Path(os.devnull)
    else:
        monkeypatch.chdir(tmp_path)  # names of sockets are short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("x")
    was = path.stat()
    (tmp_path / "link").symlink_to(path)
    for call in (optimizer.save, optimizer.load):
        for name in (path, tmp_path / "link"):
            with pytest.raises(OSError, match="directory" if kind == "folder" else kind) as caught:
                call(name)
            assert isinstance(caught.value, IsADirectoryError) == (kind == "folder")
            assert caught.value.filename == str(name)
    assert path.stat().st_mode == was.st_mode
    assert path.stat().st_ino == was.st_ino


@pytest.mark.parametrize("name", ["x" * 255, "ä" * 127, "s.safetensors"])
def test_long_names(optimizer: fo.Optimizer, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    try:
        path.touch()
    except OSError:
        pytest.skip("this system does not take such a name")
    for _ in range(2):
        optimizer.save(path)
        assert loads(path) == 1
        assert is_alone(path)
        path.unlink()


@posix
def test_a_name_that_is_too_long_is_the_error_of_the_system(
    optimizer: fo.Optimizer, tmp_path: Path
) -> None:
    with pytest.raises(OSError, match="too long") as caught:
        optimizer.save(tmp_path / ("x" * 256))
    assert caught.value.errno == errno.ENAMETOOLONG
    assert list(tmp_path.iterdir()) == []


@posix
def test_paths_of_every_kind(
    optimizer: fo.Optimizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("~", "./a", b"b", b"\xff\xfe", Path("c"), os.fsencode(tmp_path / "d")):
        optimizer.save(path)
        assert loads(path) == 1
    found = sorted(os.fsencode(path.name) for path in tmp_path.iterdir())
    assert found == [b"a", b"b", b"c", b"d", b"~", b"\xff\xfe"]


@pytest.mark.parametrize("path", ["", "no/state", "no/", "no/.", "no/../state"])
def test_paths_that_open_refuses(
    optimizer: fo.Optimizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if os.name != "posix" and ".." in path:
        pytest.skip("Windows takes '..' away first")
    with pytest.raises(OSError, match="No such file"):
        optimizer.save(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", [3, None, 1.5])
def test_what_is_no_path(optimizer: fo.Optimizer, path: Any) -> None:
    for call in (optimizer.save, optimizer.load):
        with pytest.raises(TypeError, match="PathLike"):
            call(path)


AS_NOBODY = """
import os, sys
import fusedopt as fo, numpy as np
import safetensors.numpy
optimizer = fo.SGD()
optimizer.build([np.zeros(3)])
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
os.umask(0o022)
try:
    {call}
except OSError as error:
    print(type(error).__name__, error.errno, error.filename, error.strerror, sep="|")
"""


def as_nobody(call: str) -> list[str]:
    """Run a call without root's rights; what is written to is open to all, folders above it included."""
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY.format(call=call)],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout.strip().split("|")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)
        Path(name).chmod(0o777)


@posix
def test_a_folder_that_takes_no_file_is_named(open_folder: Path) -> None:
    path = open_folder / "state"
    path.touch()
    path.chmod(0o666)
    open_folder.chmod(0o555)
    name, number, filename, text = as_nobody(f"optimizer.save({str(path)!r})")
    assert (name, int(number), filename) == ("PermissionError", errno.EACCES, str(path))
    assert "expected a folder to write a new file in" in text
    assert repr(str(open_folder)) in text
    assert path.read_bytes() == b""
    assert is_alone(path)


@posix
@pytest.mark.parametrize("call", ["save", "load"])
def test_a_file_without_permission(open_folder: Path, call: str) -> None:
    path = open_folder / "state"
    path.write_bytes(b"secret")
    path.chmod(0o000)
    found = as_nobody(f"optimizer.{call}({str(path)!r})")
    assert found == ["PermissionError", str(errno.EACCES), str(path), os.strerror(errno.EACCES)]
    assert is_alone(path)
    assert path.stat().st_size == 6


@posix
def test_a_group_that_cannot_be_kept_gives_no_rights_to_another(open_folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    path = open_folder / "state"
    path.touch()
    os.chown(path, 12345, 12345)
    path.chmod(0o666 | stat.S_ISGID)
    as_nobody(f"optimizer.save({str(path)!r})")
    assert path.stat().st_size > 0
    assert path.stat().st_gid != 12345
    assert mode_of(path) == 0o606


@posix
def test_an_owner_is_kept(optimizer: fo.Optimizer, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    path = tmp_path / "state"
    path.touch()
    os.chown(path, 12345, 54321)
    path.chmod(0o640)
    optimizer.save(path)
    assert (path.stat().st_uid, path.stat().st_gid, mode_of(path)) == (12345, 54321, 0o640)


@posix
@pytest.mark.parametrize("size", [0, 100, 5000])
def test_a_limit_of_size_is_the_error_of_the_system(tmp_path: Path, size: int) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"old")
    program = f"""
import resource
import fusedopt as fo, numpy as np
optimizer = fo.Adam()
optimizer.build([np.zeros(1000)])
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
try:
    optimizer.save({str(path)!r})
except OSError as error:
    print(error.errno, error.filename, sep="|")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == f"{errno.EFBIG}|{path}"
    assert path.read_bytes() == b"old"
    assert is_alone(path)


@posix
def test_a_full_disk_is_the_error_of_the_system(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root can mount a small disk")
    try:
        path = tmp_path / "state"
        path.write_bytes(b"old")
        optimizer = fo.Adam()
        optimizer.build([np.zeros(20000)])
        with pytest.raises(OSError, match="No space left") as caught:
            optimizer.save(path)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
        assert path.read_bytes() == b"old"
        assert is_alone(path)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


KILLED = """
import sys
import fusedopt as fo, numpy as np
optimizer = fo.Adam()
optimizer.build({"w": np.zeros(300_000)})
optimizer.apply({"w": np.ones(300_000)})
while True:
    optimizer.save(sys.argv[1])
    print(end=".", flush=True)
"""


@posix
def test_a_killed_save_leaves_a_whole_file_and_nothing_for_long(tmp_path: Path) -> None:
    path = tmp_path / "state"
    rng = np.random.default_rng(0)
    leftovers = 0
    for _ in range(12):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.read(1)
            time.sleep(rng.uniform(0, 0.03))
            process.send_signal(signal.SIGKILL)
        other = fo.Adam()
        other.build({"w": np.zeros(300_000)})
        other.load(path)
        assert other.iterations == 1
        left = [name for name in tmp_path.iterdir() if name != path]
        assert all(name.name.startswith(".state.") for name in left)
        assert all(name.suffix == ".saving" for name in left)
        assert len(left) <= 1  # the save before has removed what the one before it left
        leftovers += len(left)
    assert leftovers > 0, "no kill came in the middle of a save"
    small = fo.SGD()
    small.build([np.zeros(3)])
    small.save(path)
    assert is_alone(path)


ANOTHER = """
import sys
import fusedopt as fo, numpy as np
optimizer = fo.SGD()
optimizer.build([np.zeros(3)])
optimizer.save(sys.argv[1])
"""


@posix
def test_only_what_nobody_writes_is_removed(
    optimizer: fo.Optimizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, neighbour = tmp_path / "state", tmp_path / "state2"
    begun, others_done = threading.Event(), threading.Event()
    fsync = os.fsync

    def wait(descriptor: int) -> None:
        if threading.current_thread() is slow and not begun.is_set():
            begun.set()
            others_done.wait(60)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", wait)
    slow = threading.Thread(target=optimizer.save, args=(path,))
    slow.start()
    begun.wait(60)
    (running,) = tmp_path.iterdir()
    abandoned = running.with_name(running.name.replace(".saving", "0.saving"))
    abandoned.write_bytes(b"of a killed process")
    optimizer.save(neighbour)
    assert abandoned.exists()
    optimizer.save(path)
    assert running.exists()
    assert not abandoned.exists()
    subprocess.run([sys.executable, "-c", ANOTHER, str(path)], check=True, timeout=120)
    assert running.exists()
    others_done.set()
    slow.join()
    assert loads(path) == loads(neighbour) == 1
    assert sorted(tmp_path.iterdir()) == [path, neighbour]


def test_saves_to_one_path_at_once_leave_one_of_them(tmp_path: Path) -> None:
    path = tmp_path / "state"
    optimizers = []
    for steps in range(4):
        optimizers.append(fo.Adam())
        optimizers[-1].build({"w": np.zeros(50)})
        for _ in range(steps):
            optimizers[-1].apply({"w": np.ones(50)})
    errors: list[BaseException] = []

    def save(one: fo.Optimizer) -> None:
        try:
            for _ in range(20):
                one.save(path)
                loads(path)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=save, args=(one,)) for one in optimizers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if os.name == "posix":  # Windows does not replace a file that somebody has open
        assert errors == []
    assert loads(path) in range(4)
    assert is_alone(path)


@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
@pytest.mark.parametrize("raised", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_while_writing_leaves_the_old_file(
    optimizer: fo.Optimizer,
    tmp_path: Path,
    moment: str,
    raised: BaseException,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "state"
    optimizer.save(path)
    whole = path.read_bytes()
    optimizer.apply({"w": np.ones(50)})

    def fail(*_: Any, **__: Any) -> None:
        raise raised

    if moment == "write":
        monkeypatch.setattr("fusedopt.files.tensors._write", fail)
    elif moment == "fsync":
        monkeypatch.setattr("os.fsync", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(type(raised)) as caught:
        optimizer.save(path)
    if isinstance(caught.value, OSError):
        assert (caught.value.errno, caught.value.filename) == (28, str(path))
    assert path.read_bytes() == whole
    assert is_alone(path)
