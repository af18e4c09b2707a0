"""A file of tensors, open for reading: checked once as a whole, then copied in pieces."""

from __future__ import annotations

import contextlib
import io
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fusedopt.arrays import Array
from fusedopt.files.library import check, library
from fusedopt.files.replacement import naming, open_regular
from fusedopt.files.tensors import OLD_FORMAT, PIECE, bytes_of


class TensorFile:
    """A file of the safetensors format with the CRC-32 of its tensors.

    ValueError, naming the file, for everything that is wrong with what is in it.

    Parameters
    ----------
    path : str, bytes or path
        A regular file.
    formats : sequence of str
        What its metadata may say under ``format``.

    Attributes
    ----------
    metadata : dict of str
        Text by name.
    types : dict
        The type and the shape of each tensor, by name.
    sums : dict
        The CRC-32 of each tensor that has been checked, up to the end of each piece of it.
    """

    def __init__(self, path: str | bytes | os.PathLike[Any], formats: Sequence[str]) -> None:
        safetensors = library()
        self.path = os.fsdecode(path)
        self._file: io.FileIO | io.BytesIO = self._opened(safetensors)
        try:
            self._read_header(formats)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _opened(self, safetensors: Any) -> io.FileIO | io.BytesIO:
        while True:
            file = open_regular(self.path)
            with contextlib.ExitStack() as stack:
                stack.callback(file.close)
                found = os.fstat(file.fileno())
                try:
                    check(safetensors, self.path)
                except FileNotFoundError:
                    raise
                except (safetensors.SafetensorError, OSError, ValueError) as error:
                    raise self.error(
                        f"expected a whole safetensors file, found one that cannot be read ({error})"
                    ) from error
                if not os.path.samestat(found, os.stat(self.path)):  # noqa: PTH116
                    continue  # a save has replaced it meanwhile
                if found.st_size <= PIECE:
                    with naming(self.path):
                        return io.BytesIO(file.read())
                stack.pop_all()
                return file

    def _read_header(self, formats: Sequence[str]) -> None:
        try:
            with naming(self.path):
                length = int.from_bytes(self._file.read(8), "little")
                text = self._file.read(length)
            header = json.loads(text)
            self.metadata: dict[str, str] = header.pop("__metadata__", {})
            self.format = self.metadata.get("format")
            self.types: dict[str, tuple[str, tuple[int, ...]]] = {
                name: (tensor["dtype"], tuple(tensor["shape"])) for name, tensor in header.items()
            }
            self._spans: dict[str, tuple[int, int]] = {
                name: tuple(8 + length + offset for offset in tensor["data_offsets"])
                for name, tensor in header.items()
            }
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise self.error(f"expected a safetensors header, found another ({error})") from None
        if self.format not in formats:
            raise self.error(
                f"expected a file that save wrote ({' or '.join(formats)}), found {self.format!r}"
            )
        self._header_sum = zlib.crc32(text)
        self._expected_sums = {} if self.format == OLD_FORMAT else self._checksums(self.metadata)
        self.sums: dict[str, list[int]] = {}

    def _checksums(self, metadata: Mapping[str, str]) -> dict[str, int]:
        try:
            sums = json.loads(metadata["crc32"])
            numbers = {name: int(value, 16) for name, value in sums.items()}
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise self.error(
                f"expected the CRC-32 of each tensor, found none ({error!r})"
            ) from None
        if numbers.keys() != self.types.keys():
            raise self.error("expected the CRC-32 of each tensor, found those of others")
        return numbers

    @property
    def checksum(self) -> int:
        """A number that differs if anything does that is in the file, once all of it has been checked."""
        return zlib.crc32(repr(sorted(self.sums.items())).encode(), self._header_sum)

    def check_tensor(self, name: str) -> None:
        """Read a tensor once, and refuse the file if it is not what was written."""
        total = 0
        sums = self.sums[name] = []
        for piece in self._pieces(name):
            total = zlib.crc32(piece, total)
            sums.append(total)
        if total != self._expected_sums.get(name, total):
            raise self.error(
                f"{name}: expected the bytes that save wrote, of CRC-32 "
                f"{self._expected_sums[name]:08x}, found {total:08x}; the file is damaged"
            )

    def copy_tensor(self, name: str, array: Array, begin: int = 0) -> None:
        """Fill an array with the elements of a tensor from `begin` on, of what is still as `check_tensor` has read it.

        Parameters
        ----------
        name : str
            Of the tensor.
        array : numpy.ndarray
            C-contiguous, of the tensor's type; it may have fewer elements.
        begin : int
            In elements.
        """
        data = bytes_of(array)
        if not data:
            return
        first, end = begin * array.itemsize, begin * array.itemsize + len(data)
        sums, number = self.sums[name], first // PIECE
        total = sums[number - 1] if number else 0
        for piece in self._pieces(name, number, -(-end // PIECE)):
            total = zlib.crc32(piece, total)
            if total != sums[number]:
                raise self.error(
                    f"{name}: expected bytes that stay, found them changed while loading"
                )
            skipped = max(first - number * PIECE, 0)
            wanted = piece[skipped : end - number * PIECE]
            place = number * PIECE + skipped - first
            data[place : place + len(wanted)] = wanted
            number += 1

    def _pieces(self, name: str, first: int = 0, last: int | None = None) -> Iterator[memoryview]:
        begin, end = self._spans[name]
        if last is not None:
            end = min(end, begin + last * PIECE)
        begin += first * PIECE
        buffer = memoryview(bytearray(min(PIECE, end - begin)))
        with naming(self.path):
            self._file.seek(begin)
            for start in range(begin, end, PIECE):
                piece = buffer[: end - start]
                rest = piece
                while rest:
                    count = self._file.readinto(rest)
                    if not count:
                        raise self.error("expected a whole file, found it cut while loading")
                    rest = rest[count:]
                yield piece

    def error(self, text: str) -> ValueError:
        """Make an error that names the file."""
        return ValueError(f"{self.path}: {text}")
