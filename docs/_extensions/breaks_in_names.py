"""Long names in tables may break where they have a dot, an underscore or a bracket, so that narrow windows hold them.

A break is an element and no character, so names are copied as they are.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

CELL = re.compile(r"<td.*?</td>", re.DOTALL)
WORD = re.compile(r'(?<=<span class="pre">)[^<]+')
PLACE = re.compile(r"(?<=\w)(?=[.(])|(?<=\w_)(?=\w)")


def allow_breaks(_app: Sphinx, _page: str, _template: str, context: dict[str, Any], _: Any) -> None:
    """Mark the places in the cells of a finished page."""

    def marked(cell: re.Match[str]) -> str:
        return WORD.sub(lambda word: PLACE.sub("<wbr>", word[0]), cell[0])

    if "body" in context:
        context["body"] = CELL.sub(marked, context["body"])


def setup(app: Sphinx) -> dict[str, bool]:
    """Join Sphinx."""
    app.connect("html-page-context", allow_breaks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
