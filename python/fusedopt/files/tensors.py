"""Tensors on their way into a file of the safetensors format, which is written whole or not at all."""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from fusedopt.arrays import Array, is_bfloat16
from fusedopt.files.library import check, library, until_exit
from fusedopt.files.replacement import replacement
from fusedopt.runtime import __version__

FORMAT = "fusedopt-2"  # has the CRC-32 of every tensor
OLD_FORMAT = "fusedopt-1"
# Bytes read or written at once: they stay in the caches while they are summed and copied.
PIECE = 1 << 20
_DTYPES = {
    "bfloat16": "BF16",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "int64": "I64",
    "uint8": "U8",
    "uint16": "U16",
}
OF_DTYPES = {code: np.dtype(name) for name, code in _DTYPES.items() if name != "bfloat16"} | {
    "BF16": np.dtype(np.uint16)
}


def type_of(array: Array) -> str:
    """Return what the format calls the type of an array's elements."""
    return "BF16" if is_bfloat16(array) else _DTYPES[array.dtype.name]


def write(
    path: str | bytes | os.PathLike[Any],
    tensors: Sequence[tuple[str, Array]],
    description: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write C-contiguous tensors and a description to a new file, then put it in the place of the old one."""
    target = os.fsdecode(path)
    try:
        configuration = json.dumps(description, default=lambda value: None)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{target}: expected a configuration without cycles that JSON can hold, found another ({error})"
        ) from None
    given = {"format": FORMAT, "optimizer": configuration} | dict(metadata or {})
    write_into(replacement(target), target, tensors, given)


def write_into(
    place: AbstractContextManager[io.FileIO],
    target: str,
    tensors: Sequence[tuple[str, Array]],
    metadata: Mapping[str, str],
) -> None:
    """Write C-contiguous tensors into a new file, which is to be kept if nothing is raised."""
    safetensors = library()
    ordered = sorted(tensors, key=lambda tensor: (-tensor[1].dtype.itemsize, tensor[0]))
    sums = dict.fromkeys((name for name, _ in ordered), 0)
    with until_exit.use(), place as file:
        file.seek(len(_header(ordered, metadata, sums)))
        for name, array in ordered:
            data = bytes_of(array)
            for begin in range(0, len(data), PIECE):
                piece = data[begin : begin + PIECE]
                sums[name] = zlib.crc32(piece, sums[name])
                _write(file, piece)
        file.seek(0)
        _write(file, memoryview(_header(ordered, metadata, sums)))
        try:
            check(safetensors, os.fspath(file.name))
        except (safetensors.SafetensorError, ValueError) as error:
            raise ValueError(
                f"{target}: expected names that the safetensors format can hold, found others ({error})"
            ) from None


def _header(
    ordered: Sequence[tuple[str, Array]], metadata: Mapping[str, str], sums: Mapping[str, int]
) -> bytes:
    header: dict[str, Any] = {
        "__metadata__": {
            "format": metadata["format"],
            "version": __version__,
            **metadata,
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


def bytes_of(array: Array) -> memoryview:
    """Return the memory of a C-contiguous array."""
    return array.reshape(-1).view(np.uint8).data


def _write(file: io.FileIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]
