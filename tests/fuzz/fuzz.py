"""Look for bytes that break a promise, guided by which lines of the package they reach: `python fuzz.py TARGET`.

It needs atheris. Arguments behind the target are libFuzzer's. Found bytes are written to the working directory, and run
again by `python fuzz.py TARGET FILE`.
"""

from __future__ import annotations

import json
import random
import sys
import zlib
from pathlib import Path
from typing import Any

import atheris

# An editable installation has a loader of its own, which atheris does not see through. README.md says what to do.
sys.meta_path[:] = [each for each in sys.meta_path if "editable" not in type(each).__module__]
with atheris.instrument_imports(include=["fusedopt"]):
    import targets

CORPUS = Path(__file__).parent / "corpus"
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


def mutated(data: bytes, most: int, seed: int) -> bytes:
    """Change a file's header or its numbers, most often with the right checksums, so that more is reached."""
    rng = random.Random(seed)
    try:
        length = int.from_bytes(data[2:10], "little")
        header = json.loads(data[10 : 10 + length])
        tensors = bytearray(data[10 + length :])
        if not isinstance(header, dict) or rng.randrange(8) == 0:
            return atheris.Mutate(data, most)
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
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return atheris.Mutate(data, most)
    start = bytes([rng.randrange(256), rng.randrange(256)]) if rng.randrange(4) == 0 else data[:2]
    return (start + len(text).to_bytes(8, "little") + text + tensors)[:most]


def _set_checksums(header: dict[str, Any], tensors: bytearray) -> None:
    sums = {
        name: f"{zlib.crc32(tensors[tensor['data_offsets'][0] : tensor['data_offsets'][1]]):08x}"
        for name, tensor in header.items()
        if name != "__metadata__"
    }
    header["__metadata__"]["crc32"] = json.dumps(sums)


def main() -> None:
    name, *rest = sys.argv[1:] or [""]
    if name not in targets.TARGETS:
        raise SystemExit(f"expected one of {', '.join(targets.TARGETS)}, found {name!r}")
    mutator = {"custom_mutator": mutated} if name == "load" else {}
    words = [sys.argv[0], *rest]
    if not any(not word.startswith("-") for word in rest):
        words.append(str(CORPUS / name))
    atheris.Setup(words, targets.TARGETS[name], **mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
