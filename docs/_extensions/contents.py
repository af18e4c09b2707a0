"""The contents of a folder, in the site's navigation: the pages to which its index leads, in their order.

So an index is a list of links, on GitHub as on the site, and says nothing twice.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

LINK = re.compile(r"\]\(([\w/]+)\.md\)")


def list_pages(_app: Sphinx, page: str, source: list[str]) -> None:
    """Put a hidden list of contents at the end of an index that has none."""
    if PurePosixPath(page).name == "index" and "{toctree}" not in source[0]:
        pages = "\n".join(dict.fromkeys(LINK.findall(source[0])))
        source[0] += f"\n```{{toctree}}\n:hidden:\n\n{pages}\n```\n"


def setup(app: Sphinx) -> dict[str, bool]:
    """Join Sphinx."""
    app.connect("source-read", list_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
