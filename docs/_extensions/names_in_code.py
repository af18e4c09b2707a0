"""Names of fusedopt in a page's inline code, such as ``fo.AdamW``, lead to the reference by themselves.

In the first column of a table, the name of a rule does so, too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import fusedopt
from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

if TYPE_CHECKING:
    from sphinx.application import Sphinx

NAME = re.compile(r"(?:fo|fusedopt)\.(\w[\w.]*\w)(?:\(.*\))?")
RULE = re.compile(r"(\w+)(?:\(.*\)|, .*)?")


class NamesInCode(SphinxTransform):
    """Look for the names while a page is read."""

    default_priority = 200

    def apply(self, **_: Any) -> None:
        """Put a reference around each name, which stays code if there is nothing to lead to."""
        for code in list(self.document.findall(nodes.literal)):
            target = target_of(code)
            if not target or isinstance(code.parent, (addnodes.pending_xref, nodes.reference)):
                continue
            reference = addnodes.pending_xref(
                "", refdomain="py", reftype="obj", reftarget=target, refexplicit=True, optional=True
            )
            reference["refdoc"] = self.env.docname
            code.replace_self(reference)
            reference += code


def target_of(code: nodes.literal) -> str | None:
    """Return the full name of what inline code shows."""
    if isinstance(code.parent, nodes.title):
        return None
    text = code.astext()
    if named := NAME.fullmatch(text):
        return f"fusedopt.{named[1]}"
    cell = code.parent.parent
    is_first = isinstance(cell, nodes.entry) and cell.parent.index(cell) == 0
    rule = RULE.fullmatch(text) if is_first else None
    return f"fusedopt.{rule[1]}" if rule and rule[1] in fusedopt.__all__ else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Join Sphinx."""
    app.add_transform(NamesInCode)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
