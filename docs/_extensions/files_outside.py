"""Links of a page to files of the repository that are no pages: on the site they lead to GitHub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

LINK = re.compile(r"(?<!!)(\[(?:[^\[\]]|!\[[^\]]*\])*\]\()((?:\.\./)+[^)#\s]*)((?:#[^)\s]*)?\))")


def lead_to_github(app: Sphinx, page: str, source: list[str]) -> None:
    """Rewrite the relative links of a page that leave the folder of the pages."""
    root = Path(app.srcdir).parent
    here = Path(app.env.doc2path(page)).parent

    def rewritten(link: re.Match[str]) -> str:
        target = (here / link[2]).resolve()
        if target.is_relative_to(app.srcdir) or not target.is_relative_to(root):
            return link[0]
        kind = "tree" if target.is_dir() else "blob"
        place = target.relative_to(root).as_posix()
        return f"{link[1]}{app.config.repository}/{kind}/main/{place}{link[3]}"

    source[0] = LINK.sub(rewritten, source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Join Sphinx."""
    app.add_config_value("repository", "", "env")
    app.connect("source-read", lead_to_github)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
