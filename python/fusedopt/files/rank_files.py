"""Arrays whose parts lie in several files, one of each rank. An index says which elements are in which file.

The index has the numbers of the whole optimizer as tensors. Its metadata has, under "ranks", the name of this save, the
names of the files, which lie beside it, and for each array its type, its shape, and its parts in the order of elements.
A part is the number of a file and the elements, in C order, where it begins and ends. The file has it as a tensor of
the same name. Its metadata has the name of the save and, under "begins", where each of its tensors begins.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from fusedopt.arrays import Array
from fusedopt.files.tensor_file import TensorFile

INDEX_FORMAT = "fusedopt-index-1"
RANK_FORMAT = "fusedopt-rank-1"
_MOST_OPEN = 64


class Part(NamedTuple):
    """Elements of an array, and the number of the file where they are."""

    file: int
    begin: int
    end: int


class Spread(NamedTuple):
    """An array whose parts are in several files."""

    dtype: str
    shape: tuple[int, ...]
    parts: list[Part]

    def fault(self) -> str | None:
        """Return what is wrong if the parts are not the whole array, each element once."""
        there = 0
        for part in self.parts:
            if part.begin > there:
                return f"expected parts that are the whole of it, found none of elements {there} to {part.begin}"
            if part.begin < there or part.end <= part.begin:
                return f"expected parts without overlap, found another one of elements {part.begin} to {part.end}"
            there = part.end
        if there != prod(self.shape):
            return f"expected {prod(self.shape)} elements, found {there}"
        return None


class RankFiles:
    """The files that an index names.

    ValueError, naming one of the files, for everything that is wrong with what is in them.

    Attributes
    ----------
    types : dict
        The type and the shape of each array, by name.
    """

    def __init__(self, index: TensorFile) -> None:
        self._index = index
        self._folder = Path(os.path.realpath(index.path)).parent
        self._sums: dict[int, dict[str, list[int]]] = {}
        self._open: dict[int, TensorFile] = {}
        try:
            table = json.loads(index.metadata["ranks"])
            self._save, self._files = str(table["save"]), [str(name) for name in table["files"]]
            self._arrays = {name: _spread(array) for name, array in table["arrays"].items()}
            is_valid = all(
                0 <= part.file < len(self._files)
                for array in self._arrays.values()
                for part in array.parts
            )
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise index.error(
                f"expected a list of the files of ranks, found another ({error!r})"
            ) from None
        if not is_valid or any(Path(name).name != name for name in self._files):
            raise index.error("expected a list of the files of ranks, found names of none")
        for name, array in self._arrays.items():
            if fault := array.fault():
                raise index.error(f"{name}: {fault}")
        self.types = {name: (array.dtype, array.shape) for name, array in self._arrays.items()}

    def close(self) -> None:
        """Close all files."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def verify(self, wanted: Mapping[str, tuple[int, int]]) -> None:
        """Read once what has a part of what is wanted, and refuse it if it is not what was written."""
        parts: dict[int, list[str]] = {}
        for name, array in self._arrays.items():
            begin, end = wanted.get(name, (0, prod(array.shape)))
            for part in _overlapping(array, begin, end):
                parts.setdefault(part.file, []).append(name)
        for number, names in parts.items():
            file = self._file(number)
            for name in names:
                file.check_tensor(name)

    def copy_to(self, name: str, array: Array, begin: int) -> None:
        """Fill an array with elements of what `verify` has read, from `begin` on, if they are still the same."""
        flat = array.reshape(-1)
        for part in _overlapping(self._arrays[name], begin, begin + flat.size):
            first, last = max(part.begin, begin), min(part.end, begin + flat.size)
            self._file(part.file).copy_tensor(
                name, flat[first - begin : last - begin], first - part.begin
            )

    def _file(self, number: int) -> TensorFile:
        """Return the file of a rank, open. Only so many are at once."""
        if number not in self._open:
            if len(self._open) == _MOST_OPEN:
                self._open.pop(next(iter(self._open))).close()
            self._open[number] = self._opened(number)
        return self._open[number]

    def _opened(self, number: int) -> TensorFile:
        path = self._folder / self._files[number]
        try:
            file = TensorFile(path, (RANK_FORMAT,))
        except FileNotFoundError:
            raise self._index.error(
                f"expected the files of all {len(self._files)} ranks beside it, found no {self._files[number]!r}"
            ) from None
        try:
            self._check(file, number)
        except BaseException:
            file.close()
            raise
        file.sums = self._sums.setdefault(number, {})
        return file

    def _check(self, file: TensorFile, number: int) -> None:
        found = file.metadata.get("save")
        if found != self._save:
            raise file.error(
                f"expected a file of the same save as {self._index.path}, {self._save}, found one of {found}"
            )
        expected = {
            name: (array.dtype, part.begin, part.end)
            for name, array in self._arrays.items()
            for part in array.parts
            if part.file == number
        }
        there = {name: (file.types[name][0], *span) for name, span in spans_of(file).items()}
        if there != expected:
            name = min(n for n in expected.keys() | there.keys() if expected.get(n) != there.get(n))
            raise file.error(
                f"{name}: expected {expected.get(name, 'nothing')}, as {self._index.path} says, "
                f"found {there.get(name, 'nothing')}"
            )


def spans_of(file: TensorFile) -> dict[str, tuple[int, int]]:
    """Return which elements of which arrays are in the file of a rank."""
    try:
        begins = json.loads(file.metadata["begins"])
        return {
            name: (int(begins[name]), int(begins[name]) + prod(shape))
            for name, (_, shape) in file.types.items()
        }
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise file.error(f"expected where its elements begin, found nothing ({error!r})") from None


def _spread(table: Any) -> Spread:
    parts = [Part(*map(int, part)) for part in table["parts"]]
    return Spread(str(table["dtype"]), tuple(map(int, table["shape"])), parts)


def _overlapping(array: Spread, begin: int, end: int) -> Iterator[Part]:
    return (part for part in array.parts if part.begin < end and begin < part.end)
