"""Which values of a parameter a plain `pytest` tries; the others are left to maintainers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def first(count: int, values: Iterable[Any]) -> list[Any]:
    """Mark all values but the first ones `maintainer`."""
    marked = []
    for position, value in enumerate(values):
        if position < count:
            marked.append(value)
        else:
            parts = value if isinstance(value, tuple) else (value,)
            marked.append(pytest.param(*parts, marks=pytest.mark.maintainer))
    return marked
