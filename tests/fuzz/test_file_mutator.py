"""The mutator meets files that fuzzers have damaged before, and must end the fuzzer for none of them."""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
import targets
from file_mutator import mutated
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("safetensors")
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
ANY_HEADER = ANY_JSON | st.dictionaries(
    st.text(),
    st.fixed_dictionaries(
        {}, optional={"dtype": ANY_JSON, "shape": ANY_JSON, "data_offsets": ANY_JSON}
    ),
    min_size=1,
    max_size=3,
).flatmap(lambda header: ANY_JSON.map(lambda metadata: {**header, "__metadata__": metadata}))


def a_file(header: Any, tensors: bytes) -> bytes:
    text = json.dumps(header).encode()
    return bytes(2) + len(text).to_bytes(8, "little") + text + tensors


@given(st.binary() | st.builds(a_file, ANY_HEADER, st.binary()), st.integers(0, 2**32))
def test_any_input_is_changed_or_left_to_another_mutator(data: bytes, seed: int) -> None:
    found = mutated(data, random.Random(seed))
    assert found is None or len(found) >= 10


def test_offsets_that_are_not_two() -> None:
    data = a_file({"x": {"data_offsets": [0]}, "__metadata__": {}}, b"1234")
    assert any(mutated(data, random.Random(seed)) is None for seed in range(10))


def test_changes_upon_changes() -> None:
    """Many changes of one file are changed in turn, as a fuzzer does that keeps what reached new code."""
    for kind in range(len(targets.KINDS)):
        data = targets.valid_file(kind)
        for seed in range(300):
            data = mutated(data, random.Random(seed)) or targets.valid_file(kind)


@pytest.mark.filterwarnings("ignore")
def test_many_changed_files_are_taken(tmp_path: Path) -> None:
    """Without the right checksums, every change would be refused at one and the same place."""
    optimizer, _ = targets.built(0)
    data = targets.valid_file(0)
    taken = 0
    for seed in range(50):
        found = mutated(data, random.Random(seed))
        assert found is not None
        path = tmp_path / "state"
        path.write_bytes(found[2:])
        with contextlib.suppress(ValueError):
            optimizer.load(path)
            taken += 1
    assert 10 <= taken <= 40
