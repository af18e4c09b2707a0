"""Look for bytes that break a promise, guided by which lines of the package they reach: `python fuzz.py TARGET`.

It needs atheris. Arguments behind the target are libFuzzer's. Found bytes are written to the working directory, and run
again by `python fuzz.py TARGET FILE`.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import atheris
from file_mutator import mutated

# An editable installation has a loader of its own, which atheris does not see through. README.md says what to do.
sys.meta_path[:] = [each for each in sys.meta_path if "editable" not in type(each).__module__]
with atheris.instrument_imports(include=["fusedopt"]):
    import targets

CORPUS = Path(__file__).parent / "corpus"


def mutate_file(data: bytes, most: int, seed: int) -> bytes:
    """Change a valid file's header or numbers in seven cases of eight, and else any bytes."""
    rng = random.Random(seed)
    found = mutated(data, rng) if rng.randrange(8) else None
    return atheris.Mutate(data, most) if found is None else found[:most]


def main() -> None:
    name, *rest = sys.argv[1:] or [""]
    if name not in targets.TARGETS:
        raise SystemExit(f"expected one of {', '.join(targets.TARGETS)}, found {name!r}")
    mutator = {"custom_mutator": mutate_file} if name == "load" else {}
    words = [sys.argv[0], *rest]
    if not any(not word.startswith("-") for word in rest):
        words.append(str(CORPUS / name))
    atheris.Setup(words, targets.TARGETS[name], **mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
