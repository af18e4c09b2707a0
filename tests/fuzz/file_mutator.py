"""Changes of a file of state that keep most of it valid, so that a fuzzer comes past its checksums."""

from __future__ import annotations

import json
import random
import zlib
from typing import Any

WORDS = [
    "",
    "0/",
    "kernel",
    "momentum/kernel",
    "variable/half",
    "iteration",
    "x",
    "__metadata__",
    "a/b",
    "\0",
    "ä",
]
NUMBERS = [0, 1, -1, 2, 3, 8, 64, 2**31, 2**63, 2**64, 2**70, 0.5, 1e400]
DTYPES = ["F32", "F64", "F16", "BF16", "I64", "U8", "U16", "F8_E4M3", "f32", 4]


def _changed(header: dict[str, Any], rng: random.Random) -> None:
    """Change one thing of a file's header."""
    names = [name for name in header if name != "__metadata__"]
    metadata = header.get("__metadata__", {})
    choice = rng.randrange(7)
    if choice == 0 and metadata:
        key = rng.choice(sorted(metadata))
        metadata[key] = rng.choice([*WORDS, "fusedopt-1", "fusedopt-2", "{}", "[" * 3000, 3, None])
    elif choice == 1 and metadata.get("optimizer"):
        text = metadata["optimizer"]
        at = rng.randrange(len(text))
        metadata["optimizer"] = text[:at] + rng.choice(["", "0", "{", '"', "null"]) + text[at + 1 :]
    elif not names:
        header[rng.choice(WORDS)] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    else:
        name = rng.choice(names)
        tensor = header[name]
        if choice == 2:
            header[rng.choice(WORDS)] = header.pop(name)
        elif choice == 3:
            tensor["dtype"] = rng.choice(DTYPES)
        elif choice == 4:
            tensor["shape"] = rng.choice(
                [[], [1], [6], [3, 2], [0], [rng.choice(NUMBERS)], "3", None]
            )
        elif choice == 5:
            tensor["data_offsets"] = [rng.choice(NUMBERS), rng.choice(NUMBERS)]
        else:
            del header[name]


def mutated(data: bytes, rng: random.Random) -> bytes | None:
    """The input with one change to its header or its numbers, or None if it holds no header that can be changed."""
    try:
        length = int.from_bytes(data[2:10], "little")
        header = json.loads(data[10 : 10 + length])
        tensors = bytearray(data[10 + length :])
        if tensors and rng.randrange(2):
            at = rng.randrange(len(tensors))
            number = rng.choice(
                [
                    b"\0" * 8,
                    b"\xff" * 8,
                    bytes(6) + b"\xf8\x7f",
                    bytes(7) + b"\x80",
                    rng.randbytes(8),
                ]
            )
            tensors[at : at + 8] = number[: len(tensors) - at]
        else:
            _changed(header, rng)
        if rng.randrange(8):
            _set_checksums(header, tensors)
        text = json.dumps(header).encode()
    # A fuzzer has damaged the header before.
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError):
        return None
    start = bytes([rng.randrange(256), rng.randrange(256)]) if rng.randrange(4) == 0 else data[:2]
    return start + len(text).to_bytes(8, "little") + text + tensors


def _set_checksums(header: dict[str, Any], tensors: bytearray) -> None:
    sums = {
        name: f"{zlib.crc32(tensors[tensor['data_offsets'][0] : tensor['data_offsets'][1]]):08x}"
        for name, tensor in header.items()
        if name != "__metadata__"
    }
    header["__metadata__"]["crc32"] = json.dumps(sums)
