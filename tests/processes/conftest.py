"""Every test of this folder leaves the number of threads as it was."""

from __future__ import annotations

from collections.abc import Iterator

import fusedopt as fo
import pytest


@pytest.fixture(autouse=True)
def same_number_of_threads_afterwards() -> Iterator[None]:
    before = fo.get_num_threads()
    yield
    fo.set_num_threads(before)
