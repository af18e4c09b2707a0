"""Each rank saves a file of its own, beside an index. Any number of ranks loads them, and so does a single process."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
import ranks
from fusedopt.files import rank_files, rank_saving
from ranks import Threads

safetensors_numpy = pytest.importorskip("safetensors.numpy")

from test_sharded_files import OPTIMIZERS, every_optimizer, shared  # noqa: E402


def steps(optimizer: Any, numbers: range, rank: int = 0) -> None:
    for step in numbers:
        found = shared(step)
        optimizer.apply({name: g if rank == 0 else np.zeros_like(g) for name, g in found.items()})


def stage(
    size: int, new: Callable[[], Any], path: Path, numbers: range, variables: bool = True
) -> list[Any]:
    """Ranks load what is there, take some steps, and save."""

    def of_rank(threads: Threads) -> Any:
        optimizer = fo.Sharded(new(), threads)
        arrays = ranks.variables()
        optimizer.build(arrays)
        if numbers.start:
            optimizer.load(path)
        steps(optimizer, numbers, threads.rank)
        optimizer.save(path, variables, per_rank=True)
        return ranks.digest(arrays.values()), optimizer.iterations

    return ranks.finished(ranks.run(size, of_rank))


def single(new: Callable[[], Any], numbers: range, path: Path | None = None) -> Any:
    optimizer = new()
    variables = ranks.variables()
    optimizer.build(variables)
    if path:
        optimizer.load(path)
    steps(optimizer, numbers)
    return optimizer, ranks.digest(variables.values())


@every_optimizer
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_single_process_loads_them(new: Callable[[], Any], size: int, tmp_path: Path) -> None:
    stage(size, new, tmp_path / "ranks", range(3))
    loaded, digest = single(new, range(0), tmp_path / "ranks")
    loaded.save(tmp_path / "loaded", variables=True)
    expected, expected_digest = single(new, range(3))
    expected.save(tmp_path / "single", variables=True)
    assert (tmp_path / "loaded").read_bytes() == (tmp_path / "single").read_bytes()
    assert digest == expected_digest


@every_optimizer
def test_from_4_ranks_to_3_to_1_process_to_4_ranks(new: Callable[[], Any], tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    stage(4, new, path, range(2))
    stage(3, new, path, range(2, 3))
    alone, _ = single(new, range(3, 5), path)
    alone.save(path, variables=True)
    found = stage(4, new, path, range(5, 7))
    expected, digest = single(new, range(7))
    assert found == [(digest, expected.iterations)] * 4
    loaded, _ = single(new, range(0), path)
    for a, b in zip(loaded._core.state(), expected._core.state(), strict=True):
        assert a[0] == b[0]
        assert a[1].tobytes() == b[1].tobytes()


def test_each_element_is_in_one_file_and_the_files_are_ordinary_ones(tmp_path: Path) -> None:
    stage(3, OPTIMIZERS["nadam"], tmp_path / "state.safetensors", range(1))
    expected, _ = single(OPTIMIZERS["nadam"], range(1))
    index, *files = sorted(tmp_path.iterdir(), key=lambda path: len(path.name))
    assert index.name == "state.safetensors"
    assert len(files) == 3
    found = [safetensors_numpy.load_file(path) for path in sorted(files)]
    for name, array in expected._saved(True):
        if array.ndim or name.startswith(("variable/", "momentum/", "velocity/", "average/")):
            parts = [tensors[name] for tensors in found if name in tensors]
            assert sum(part.size for part in parts) == array.size
            assert b"".join(part.tobytes() for part in parts) == array.tobytes()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_save_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    other = tmp_path / "state-0123456789abcde-00000-of-00002.safetensors"  # one digit less
    other.touch()
    left = tmp_path / "state-0123456789abcdef-00000-of-00002.safetensors"  # of a killed one
    left.touch()
    stage(4, fo.Adam, path, range(1))
    first = names(tmp_path)
    assert len(first) == 6
    assert other.name in first
    assert left.name not in first
    stage(2, fo.Adam, path, range(1, 2))
    second = names(tmp_path)
    assert len(second) == 4
    assert {*first} & {*second} == {other.name, path.name}

    def gathers(threads: Threads) -> None:
        optimizer = fo.Sharded(fo.Adam(), threads)
        optimizer.build(ranks.variables())
        optimizer.load(path)
        optimizer.save(path)

    ranks.finished(ranks.run(3, gathers))
    assert names(tmp_path) == [other.name, path.name]


def test_new_files_have_no_more_rights_than_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "state"
    stage(1, fo.Adam, path, range(1))
    path.chmod(0o600)
    stage(1, fo.Adam, path, range(1, 2))
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "there" / "state")
    stage(2, fo.Adam, link, range(1))
    assert names(tmp_path) == ["link", "there"]
    assert len(names(tmp_path / "there")) == 3
    assert single(fo.Adam, range(0), link)[0].iterations == 1


@pytest.mark.parametrize(
    ("cls", "method"), [(rank_saving.RankSave, "write"), (rank_saving.RankSave, "commit")]
)
def test_a_save_that_fails_leaves_the_one_before(
    cls: Any, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    stage(3, fo.Adam, path, range(2))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def of_rank(threads: Threads) -> None:
        optimizer = fo.Sharded(fo.Adam(), threads)
        optimizer.build(ranks.variables())
        optimizer.load(path)
        with pytest.raises((OSError, ValueError), match="disk is full") as raised:
            optimizer.save(path, per_rank=True)
        failed = 0 if method == "commit" else 1
        assert isinstance(raised.value, OSError) == (threads.rank == failed)
        optimizer.apply(ranks.gradients(threads.rank, 2))

    real = getattr(cls, method)

    def failing(self: Any, *arguments: Any) -> None:
        if method == "commit" or arguments[0] == 1:
            raise OSError(28, "disk is full")
        real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(cls, method, failing)
        ranks.finished(ranks.run(3, of_rank))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    stage(2, fo.Adam, path, range(2, 3))


def test_ranks_that_share_no_folder(tmp_path: Path) -> None:
    def of_rank(threads: Threads) -> None:
        optimizer = fo.Sharded(fo.Adam(), threads)
        optimizer.build(ranks.variables())
        folder = tmp_path / str(threads.rank)
        folder.mkdir()
        with pytest.raises(ValueError, match="found no file of rank 1 in that of rank 0"):
            optimizer.save(folder / "state", per_rank=True)

    ranks.finished(ranks.run(2, of_rank))
    assert names(tmp_path / "0") == []


def test_other_arguments_on_one_rank(tmp_path: Path) -> None:
    def of_rank(threads: Threads) -> None:
        optimizer = fo.Sharded(fo.Adam(), threads)
        optimizer.build(ranks.variables())
        with pytest.raises(ValueError, match="'per_rank=False' on rank 0 and 'per_rank=True' on"):
            optimizer.save(tmp_path / "state", per_rank=threads.rank == 1)
        optimizer.save(tmp_path / "state")
        with pytest.raises(ValueError, match="'strict=True' on rank 0 and 'strict=False' on"):
            optimizer.load(tmp_path / "state", strict=threads.rank == 0)

    ranks.finished(ranks.run(2, of_rank))


# What is wrong with files of three ranks


def refused(path: Path, message: str) -> None:
    """All ranks refuse, and so does a single process, and nothing changes."""

    def of_rank(threads: Threads) -> None:
        optimizer = fo.Sharded(fo.Adam(), threads)
        refuses(optimizer, path, message, threads.rank)
        optimizer.apply(ranks.gradients(threads.rank, 1))

    ranks.finished(ranks.run(2, of_rank))
    refuses(fo.Adam(), path, message, 0)


def refuses(optimizer: Any, path: Path, message: str, rank: int) -> None:
    variables = ranks.variables()
    optimizer.build(variables)
    optimizer.apply(ranks.gradients(rank, 0))
    before = [array.tobytes() for array in [*variables.values(), *optimizer.variables]]
    with pytest.raises(ValueError, match=message):
        optimizer.load(path)
    assert before == [array.tobytes() for array in [*variables.values(), *optimizer.variables]]


@pytest.fixture
def saved(tmp_path: Path) -> list[Path]:
    """An index, and the files of three ranks."""
    path = tmp_path / "state"
    stage(3, fo.Adam, path, range(1))
    return [path, *sorted(tmp_path.glob("state-*"))]


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_missing_file(rank: int, saved: list[Path]) -> None:
    saved[1 + rank].unlink()
    refused(
        saved[0],
        f"state: expected the files of all 3 ranks beside it, found no '{saved[1 + rank].name}'",
    )


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_damaged_file(rank: int, saved: list[Path]) -> None:
    data = bytearray(saved[1 + rank].read_bytes())
    data[-20] ^= 1
    saved[1 + rank].write_bytes(data)
    refused(saved[0], f"{saved[1 + rank].name}: .*the file is damaged")


def test_a_file_that_is_cut(saved: list[Path]) -> None:
    saved[2].write_bytes(saved[2].read_bytes()[:-9])
    refused(saved[0], f"{saved[2].name}: expected a whole safetensors file")


def test_files_of_two_saves(saved: list[Path], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    stage(3, fo.Adam, tmp_path / "other" / "state", range(1))
    (other,) = (tmp_path / "other").glob("state-*-00001-of-00003")
    saved[2].write_bytes(other.read_bytes())
    refused(saved[0], f"{saved[2].name}: expected a file of the same save as .*state, ")


def test_a_file_of_a_rank_is_no_index(saved: list[Path]) -> None:
    refused(saved[1], "found 'fusedopt-rank-1'")


def edit(path: Path, change: Callable[[Any], None]) -> None:
    """Change the list in an index."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    table = json.loads(header["__metadata__"]["ranks"])
    change(table)
    header["__metadata__"]["ranks"] = json.dumps(table)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def first_of(table: Any) -> Any:
    """Return the parts of an array of which several files have some."""
    return next(array["parts"] for array in table["arrays"].values() if len(array["parts"]) > 1)


def overlapping(table: Any) -> None:
    first_of(table)[1][1] -= 1024


def without_one(table: Any) -> None:
    del first_of(table)[0]


def without_last(table: Any) -> None:
    del first_of(table)[-1]


def with_a_gap(table: Any) -> None:
    first_of(table)[1][1] += 1


def of_a_fourth_file(table: Any) -> None:
    first_of(table)[0][0] = 3


def elsewhere(table: Any) -> None:
    table["files"][0] = f"..{os.sep}{table['files'][0]}"


def of_another_file(table: Any) -> None:
    first, second, *_ = first_of(table)
    first[0], second[0] = second[0], first[0]


def without_files(table: Any) -> None:
    del table["files"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (overlapping, "expected parts without overlap, found another one of elements "),
        (without_one, "expected parts that are the whole of it, found none of elements 0 to "),
        (without_last, r"expected \d+ elements, found \d+"),
        (with_a_gap, "expected parts that are the whole of it, found none of elements "),
        (of_a_fourth_file, "expected a list of the files of ranks, found names of none"),
        (elsewhere, "expected a list of the files of ranks, found names of none"),
        (without_files, "expected a list of the files of ranks, found another"),
        (of_another_file, r"-of-00003: .*: expected .*, as .*state says, found "),
    ],
)
def test_an_index_that_is_wrong(change: Any, message: str, saved: list[Path]) -> None:
    edit(saved[0], change)
    refused(saved[0], message)


# Memory


@pytest.mark.parametrize("per_rank", [False, True])
def test_no_rank_needs_the_whole_state(per_rank: bool, tmp_path: Path) -> None:
    count, size = 4, 2**22
    whole = 2 * 4 * size  # bytes of Adam's two slots

    def of_rank(threads: Threads) -> Any:
        w = np.zeros(size, np.float32)
        optimizer = fo.Sharded(fo.Adam(), threads)
        optimizer.build({"w": w})
        optimizer.apply({"w": np.full(size, 1, np.float32)})
        threads.wait()
        if threads.rank == 0:
            tracemalloc.start()
        threads.wait()
        if per_rank:
            optimizer.save(tmp_path / "state", per_rank=True)
            threads.wait()
            assert tracemalloc.get_traced_memory()[1] < whole / 8  # of all ranks together
        else:
            optimizer.save(tmp_path / "state")
        threads.wait()
        tracemalloc.reset_peak()
        threads.wait()
        optimizer.load(tmp_path / "state")
        threads.wait()
        assert tracemalloc.get_traced_memory()[1] < whole / 4
        return w.sum()

    try:
        ranks.finished(ranks.run(count, of_rank))
    finally:
        tracemalloc.stop()


def test_only_some_files_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage(5, fo.Adam, tmp_path / "state", range(1))
    monkeypatch.setattr(rank_files, "_MOST_OPEN", 1)
    assert single(fo.Adam, range(0), tmp_path / "state")[1] == single(fo.Adam, range(1))[1]


def test_another_shape_is_refused(saved: list[Path]) -> None:
    def of_rank(threads: Threads) -> None:
        optimizer = fo.Sharded(fo.Adam(), threads)
        variables = ranks.variables()
        variables["kernel"] = variables["kernel"].reshape(100, 40)
        optimizer.build(variables)
        with pytest.raises(ValueError, match=r"momentum/kernel: expected F32 of shape \(100, 40\)"):
            optimizer.load(saved[0])

    ranks.finished(ranks.run(3, of_rank))


def test_bfloat16(tmp_path: Path) -> None:
    dtypes = pytest.importorskip("ml_dtypes")

    def of_rank(threads: Threads) -> Any:
        w = np.linspace(1, 2, 5000).astype(dtypes.bfloat16)
        optimizer = fo.Sharded(fo.SGD(0.1), threads)
        optimizer.build({"w": w})
        optimizer.apply({"w": np.linspace(0, 1, 5000, dtype=np.float32)})
        optimizer.save(tmp_path / "state", variables=True, per_rank=True)
        kept = w.tobytes()
        optimizer.apply({"w": np.ones(5000, np.float32)})
        optimizer.load(tmp_path / "state")
        return kept == w.tobytes()

    assert ranks.finished(ranks.run(3, of_rank)) == [True] * 3


class Refusing:
    """A core that takes no state."""

    def __init__(self, core: Any) -> None:
        self._core = core

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def set_state(self, values: Any) -> None:
        raise ValueError("what only the core can know")


def test_what_the_core_of_one_rank_refuses(saved: list[Path]) -> None:
    def of_rank(threads: Threads) -> None:
        optimizer = fo.Sharded(fo.Adam(), threads)
        variables = ranks.variables()
        optimizer.build(variables)
        optimizer.apply(ranks.gradients(threads.rank, 0))
        before = [array.tobytes() for array in [*variables.values(), *optimizer.variables]]
        core = optimizer._core
        if threads.rank == 1:
            optimizer._core = Refusing(core)  # type: ignore[assignment]
        with pytest.raises(ValueError, match="state: what only the core can know"):
            optimizer.load(saved[0])
        optimizer._core = core
        assert before == [array.tobytes() for array in [*variables.values(), *optimizer.variables]]
        optimizer.apply(ranks.gradients(threads.rank, 1))
        optimizer.load(saved[0])

    ranks.finished(ranks.run(3, of_rank))
