"""State in one file, in the safetensors format: written whole or not at all, and read in pieces."""

from __future__ import annotations

import contextlib
import io
import json
import os
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fusedopt.arrays import Array, is_bfloat16
from fusedopt.files.library import check, library, until_exit
from fusedopt.files.names import VARIABLE, difference
from fusedopt.files.replacement import naming, open_regular, replacement
from fusedopt.runtime import __version__

FORMAT = "fusedopt-2"  # has the CRC-32 of every tensor
OLD_FORMAT = "fusedopt-1"
_PIECE = (
    1 << 20
)  # bytes read or written at once: they stay in the caches while they are summed and copied
_DTYPES = {
    "bfloat16": "BF16",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "int64": "I64",
    "uint8": "U8",
    "uint16": "U16",
}
_OF_DTYPES = {code: np.dtype(name) for name, code in _DTYPES.items() if name != "bfloat16"} | {
    "BF16": np.dtype(np.uint16)
}


def type_of(array: Array) -> str:
    """Return what the format calls the type of an array's elements."""
    return "BF16" if is_bfloat16(array) else _DTYPES[array.dtype.name]


def write(
    path: str | bytes | os.PathLike[Any],
    tensors: Sequence[tuple[str, Array]],
    description: Mapping[str, Any],
) -> None:
    """Write C-contiguous tensors and a description to a new file, then put it in the place of the old one."""
    safetensors = library()
    target = os.fsdecode(path)
    try:
        configuration = json.dumps(description, default=lambda value: None)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{target}: expected a configuration without cycles that JSON can hold, found another ({error})"
        ) from None
    ordered = sorted(tensors, key=lambda tensor: (-tensor[1].dtype.itemsize, tensor[0]))
    sums = dict.fromkeys((name for name, _ in ordered), 0)
    with until_exit.use(), replacement(target) as file:
        file.seek(len(_header(ordered, configuration, sums)))
        for name, array in ordered:
            data = _bytes_of(array)
            for begin in range(0, len(data), _PIECE):
                piece = data[begin : begin + _PIECE]
                sums[name] = zlib.crc32(piece, sums[name])
                _write(file, piece)
        file.seek(0)
        _write(file, memoryview(_header(ordered, configuration, sums)))
        try:
            check(safetensors, os.fspath(file.name))
        except (safetensors.SafetensorError, ValueError) as error:
            raise ValueError(
                f"{target}: expected names that the safetensors format can hold, found others ({error})"
            ) from None


def _header(
    ordered: Sequence[tuple[str, Array]], configuration: str, sums: Mapping[str, int]
) -> bytes:
    header: dict[str, Any] = {
        "__metadata__": {
            "format": FORMAT,
            "version": __version__,
            "optimizer": configuration,
            "crc32": json.dumps({name: f"{value:08x}" for name, value in sums.items()}),
        }
    }
    end = 0
    for name, array in ordered:
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": type_of(array), "shape": array.shape, "data_offsets": (begin, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes_of(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _write(file: io.FileIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]


class SavedFile:
    """A file that `write` wrote, open for reading.

    ValueError, naming the file, for everything that is wrong with what is in it. The class name is that of the
    optimizer it must be of; None is any.

    Attributes
    ----------
    description : dict
        The class and the configuration of the optimizer.
    types : dict
        The type and the shape of each tensor, by name.
    """

    def __init__(self, path: str | bytes | os.PathLike[Any], class_name: str | None) -> None:
        safetensors = library()
        self._path = os.fsdecode(path)
        self._file: io.FileIO | io.BytesIO = self._opened(safetensors)
        try:
            self._read_header(class_name)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def has_variables(self) -> bool:
        """Whether variables are in the file, too."""
        return any(name.startswith(VARIABLE) for name in self._spans)

    def fits(self, name: str, array: Array) -> bool:
        """Whether there is a tensor of this name, type and shape."""
        return self.types.get(name) == (type_of(array), array.shape)

    def _opened(self, safetensors: Any) -> io.FileIO | io.BytesIO:
        while True:
            file = open_regular(self._path)
            with contextlib.ExitStack() as stack:
                stack.callback(file.close)
                found = os.fstat(file.fileno())
                try:
                    check(safetensors, self._path)
                except FileNotFoundError:
                    raise
                except (safetensors.SafetensorError, OSError, ValueError) as error:
                    raise self.error(
                        f"expected a whole safetensors file, found one that cannot be read ({error})"
                    ) from error
                if not os.path.samestat(found, os.stat(self._path)):  # noqa: PTH116
                    continue  # a save has replaced it meanwhile
                if found.st_size <= _PIECE:
                    with naming(self._path):
                        return io.BytesIO(file.read())
                stack.pop_all()
                return file

    def _read_header(self, class_name: str | None) -> None:
        try:
            with naming(self._path):
                length = int.from_bytes(self._file.read(8), "little")
                header = json.loads(self._file.read(length))
            metadata = header.pop("__metadata__", {})
            self._format = metadata.get("format")
            self.types = {
                name: (tensor["dtype"], tuple(tensor["shape"])) for name, tensor in header.items()
            }
            self._spans = {
                name: tuple(8 + length + offset for offset in tensor["data_offsets"])
                for name, tensor in header.items()
            }
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise self.error(f"expected a safetensors header, found another ({error})") from None
        if self._format not in {FORMAT, OLD_FORMAT}:
            raise self.error(
                f"expected a file that save wrote ({FORMAT} or {OLD_FORMAT}), found {self._format!r}"
            )
        try:
            self.description = json.loads(metadata["optimizer"])
            stored = self.description["class_name"]
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise self.error(
                f"expected a description of the optimizer, found another ({error!r})"
            ) from None
        if class_name is not None and stored != class_name:
            raise self.error(f"expected the state of {class_name}, found that of {stored}")
        self._expected_sums = self._checksums(metadata) if self._format == FORMAT else {}
        self._sums: dict[str, list[int]] = {}

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

    def require(self, state: Sequence[tuple[str, Array]], besides: Collection[str] = ()) -> None:
        """Refuse the file if it does not hold exactly these tensors; variables and others may be there besides."""
        expected = {name for name, _ in state}
        missing = sorted(
            name
            for name, array in state
            if name not in self.types and not self._is_later(name, array)
        )
        unknown = sorted(
            name
            for name in self.types.keys() - expected - set(besides)
            if not name.startswith(VARIABLE)
        )
        if missing or unknown:
            raise self.error(difference(missing, unknown))
        for name, array in state:
            wanted = (type_of(array), array.shape)
            found = self.types.get(name, wanted)
            if found != wanted:
                raise self.error(
                    f"{name}: expected {wanted[0]} of shape {wanted[1]}, "
                    f"found {found[0]} of shape {found[1]}"
                )

    def _is_later(self, name: str, array: Array) -> bool:
        """Whether this is a counter that files of the old format may not have; it begins at 0."""
        is_counter = array.ndim == 0 and array.dtype.kind == "i" and name.startswith("loss_scale/")
        return self._format == OLD_FORMAT and is_counter

    def verify(self) -> None:
        """Read everything once, and refuse the file if it is not what was written."""
        for name in self._spans:
            total = 0
            sums = self._sums[name] = []
            for piece in self._pieces(name):
                total = zlib.crc32(piece, total)
                sums.append(total)
            if total != self._expected_sums.get(name, total):
                raise self.error(
                    f"{name}: expected the bytes that save wrote, of CRC-32 "
                    f"{self._expected_sums[name]:08x}, found {total:08x}; the file is damaged"
                )

    def number(self, name: str, like: Array) -> Array:
        """Return a tensor without dimensions; 0 if the file is too old to have it."""
        value = np.zeros_like(like)
        if name in self._spans:
            self.copy_to(name, value)
        return value

    def array(self, name: str) -> Array:
        """Return a tensor; of bfloat16 the bits."""
        dtype, shape = self.types[name]
        value = np.empty(shape, _OF_DTYPES[dtype])
        self.copy_to(name, value)
        return value

    def copy_to(self, name: str, array: Array) -> None:
        """Copy what `verify` has read into an array, each piece only if it is still the same."""
        data = _bytes_of(array)
        total, begin = 0, 0
        for piece, verified in zip(self._pieces(name), self._sums[name], strict=True):
            total = zlib.crc32(piece, total)
            if total != verified:
                raise self.error(
                    f"{name}: expected bytes that stay, found them changed while loading"
                )
            data[begin : begin + len(piece)] = piece
            begin += len(piece)

    def _pieces(self, name: str) -> Iterator[memoryview]:
        begin, end = self._spans[name]
        buffer = memoryview(bytearray(min(_PIECE, end - begin)))
        with naming(self._path):
            self._file.seek(begin)
            for start in range(begin, end, _PIECE):
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
        return ValueError(f"{self._path}: {text}")
