"""What fuzzers have found worth keeping, and valid inputs: every one is run once more, without a fuzzer."""

from __future__ import annotations

from pathlib import Path

import pytest
import targets

pytest.importorskip("safetensors")
FOLDER = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("target", targets.TARGETS)
def test_corpus(target: str) -> None:
    inputs = sorted((FOLDER / target).iterdir())
    assert len(inputs) >= 10
    for path in inputs:
        try:
            targets.TARGETS[target](path.read_bytes())
        except Exception as error:
            raise AssertionError(f"{path}: {error!r}") from error


@pytest.mark.parametrize("kind", range(len(targets.KINDS)))
def test_a_valid_file_is_taken(kind: int) -> None:
    """A corpus of refusals alone would say little."""
    data = targets.valid_file(kind)
    optimizer, arrays = targets.built(kind)
    expected = targets.everything(optimizer, arrays)
    targets.step(optimizer, arrays)
    assert targets.everything(optimizer, arrays) != expected
    targets.load(data)


def test_the_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 200_000
