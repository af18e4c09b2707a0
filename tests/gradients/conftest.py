"""The fixture `subject`, which the tests of several folders ask for."""

from __future__ import annotations

from subject import subject

__all__ = ["subject"]
