"""State on its way into files of ranks, and the index that makes them a save.

Each save has new files. What is there before it stays until the new index has taken the place of the old one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusedopt.arrays import Array
from fusedopt.files.rank_files import INDEX_FORMAT, RANK_FORMAT, Part, Spread, spans_of
from fusedopt.files.replacement import creation
from fusedopt.files.tensor_file import TensorFile
from fusedopt.files.tensors import FORMAT, OLD_FORMAT, type_of, write, write_into


class RankSave:
    """One save by ranks, as one of them sees it.

    Parameters
    ----------
    path : str, bytes or path
        Of the index.
    save : str
        The name of this save, of 16 hexadecimal digits.
    size : int
        How many ranks there are.
    """

    def __init__(self, path: str | bytes | os.PathLike[Any], save: str, size: int) -> None:
        self._path = os.fsdecode(path)
        self._index = Path(os.path.realpath(self._path))
        self._save, self._size = save, size

    def _name(self, rank: int) -> str:
        end = f"{self._save}-{rank:05}-of-{self._size:05}"
        return f"{self._index.stem}-{end}{self._index.suffix}"

    def write(self, rank: int, pieces: Sequence[tuple[str, Array, int]]) -> None:
        """Write the file of a rank: pieces, and with which element of the whole array each begins."""
        path = str(self._index.parent / self._name(rank))
        mode = 0o666
        with contextlib.suppress(OSError):
            mode &= stat.S_IMODE(self._index.stat().st_mode)
        metadata = {
            "format": RANK_FORMAT,
            "save": self._save,
            "begins": json.dumps({name: begin for name, _, begin in pieces}),
        }
        tensors = [(name, piece) for name, piece, _ in pieces]
        write_into(creation(path, mode), path, tensors, metadata)

    def commit(
        self,
        numbers: Sequence[tuple[str, Array]],
        wholes: Sequence[tuple[str, Array]],
        description: Mapping[str, Any],
    ) -> None:
        """Write the index of what all ranks have written. Now this save is there, and the one before is not.

        `wholes` have the types and shapes of the arrays, `numbers` are not in the files of ranks.
        """
        parts: dict[str, list[Part]] = {name: [] for name, _ in wholes}
        for rank in range(self._size):
            for name, part in self._parts(rank).items():
                parts[name].append(part)
        arrays = {}
        for name, whole in wholes:
            in_order = sorted(parts[name], key=lambda part: part.begin)
            array = Spread(type_of(whole), whole.shape, in_order)
            if fault := array.fault():
                raise ValueError(f"{self._path}: {name}: {fault}")
            arrays[name] = array._asdict()
        files = [self._name(rank) for rank in range(self._size)]
        ranks = {"save": self._save, "files": files, "arrays": arrays}
        metadata = {"format": INDEX_FORMAT, "ranks": json.dumps(ranks)}
        write(self._path, numbers, description, metadata)

    def _parts(self, rank: int) -> dict[str, Part]:
        try:
            file = TensorFile(self._index.parent / self._name(rank), (RANK_FORMAT,))
        except FileNotFoundError:
            raise ValueError(
                f"{self._path}: expected a folder that all ranks share, found no file of rank {rank} in that of "
                "rank 0; save without per_rank, which brings the state to rank 0"
            ) from None
        file.close()
        return {name: Part(rank, *span) for name, span in spans_of(file).items()}


def remove_others(path: str | bytes | os.PathLike[Any]) -> None:
    """Remove the files of ranks that no index names: those of the save before, and of saves that have failed."""
    index = Path(os.path.realpath(os.fsdecode(path)))
    try:
        kept = _save_of(index)
    except (OSError, ValueError):
        return
    ours = re.compile(
        f"{re.escape(index.stem)}-([0-9a-f]{{16}})-[0-9]{{5,}}-of-[0-9]{{5,}}{re.escape(index.suffix)}"
    )
    with contextlib.suppress(OSError):
        for file in list(index.parent.iterdir()):
            found = ours.fullmatch(file.name)
            if found and found[1] != kept:
                with contextlib.suppress(OSError):
                    file.unlink()


def _save_of(index: Path) -> str | None:
    """Return the name of the save at a path; None if there is none by ranks."""
    try:
        file = TensorFile(index, (FORMAT, OLD_FORMAT, INDEX_FORMAT))
    except FileNotFoundError:
        return None
    file.close()
    if file.format != INDEX_FORMAT:
        return None
    save: str = json.loads(file.metadata["ranks"])["save"]
    return save
