"""What autodoc needs to know of this package: its signatures, and where the source of a name stands on GitHub."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sphinx.util.nodes import make_refnode

if TYPE_CHECKING:
    from docutils.nodes import Element
    from sphinx.application import Sphinx
    from sphinx.config import Config
    from sphinx.environment import BuildEnvironment


def signature(_app: Sphinx, what: str, _name: str, value: Any, *_: Any) -> tuple[str, str] | None:
    """Show the arguments of a class's constructor, whatever its `__new__` takes."""
    if what not in ("class", "exception"):
        return None
    try:
        found = inspect.signature(value.__init__)
    except (TypeError, ValueError):
        return None
    parameters = [
        each.replace(annotation=inspect.Parameter.empty)
        for name, each in found.parameters.items()
        if name != "self"
    ]
    return str(inspect.Signature(parameters)), ""


def show_sources(_app: Sphinx, config: Config) -> None:
    """Let the pages lead to the sources on GitHub."""

    def resolve(domain: str, info: dict[str, str]) -> str | None:
        return source_of(config.repository, domain, info)

    config.linkcode_resolve = resolve


def source_of(repository: str, domain: str, info: dict[str, str]) -> str | None:
    """Return the address of a name's source."""
    if domain != "py" or not info["module"]:
        return None
    value = _value(info["module"], info["fullname"])
    if isinstance(value, property):
        value = value.fget
    try:
        value = inspect.unwrap(value)
        path = inspect.getsourcefile(value)
        lines, first = inspect.getsourcelines(value)
    except (OSError, TypeError):
        return None
    place = Path(path or "").resolve()
    parts = place.parts
    if "fusedopt" not in parts:
        return None
    inside = Path(*parts[len(parts) - 1 - parts[::-1].index("fusedopt") :]).as_posix()
    return f"{repository}/blob/main/python/{inside}#L{first}-L{first + len(lines) - 1}"


HOSTS = ("keras.", "numpy.", "thinc.", "torch.")


def found_elsewhere(
    app: Sphinx, environment: BuildEnvironment, node: Element, shown: Element
) -> Element | None:
    """Lead a name in a docstring to the base that has it, and leave names of hosts without a link.

    A name that is neither is a mistake, of which Sphinx warns.
    """
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    if target.startswith(HOSTS):
        return shown
    objects = environment.domains["py"].objects
    context = _value(node.get("py:module"), node.get("py:class"))
    homes = [_public(base) for base in inspect.getmro(context)] if inspect.isclass(context) else []
    for home in (*homes, "fusedopt.Optimizer", "fusedopt"):
        name = f"{home}.{target}"
        if name in objects:
            page = objects[name].docname
            return make_refnode(app.builder, node["refdoc"], page, name, shown)
    return shown if node.get("optional") else None


def _value(module: str | None, name: str | None) -> Any:
    value: Any = sys.modules.get(module or "")
    for part in (name or "").split("."):
        value = inspect.getattr_static(value, part, None)
    return value


def _public(cls: type) -> str:
    """Return the name under which a class is documented."""
    name = f"{cls.__module__}.{cls.__qualname__}"
    return "fusedopt.Optimizer" if name == "fusedopt.optimizer.Optimizer" else name


def without_sections(
    _app: Sphinx, what: str, _name: str, _value: Any, _options: Any, lines: list[str]
) -> None:
    """Show the headings in a module's docstring as such, but not as sections of the page."""
    if what == "module":
        text = re.sub(r"^(\w+)\n-+$", r".. rubric:: \1\n", "\n".join(lines), flags=re.MULTILINE)
        lines[:] = text.split("\n")


def without_docstring_of_type(
    _app: Sphinx, what: str, _name: str, value: Any, _options: Any, lines: list[str]
) -> None:
    """Leave out what Python says of a constant that has no docstring: that of its type."""
    if what == "data" and inspect.getdoc(value) == inspect.getdoc(type(value)):
        lines.clear()


def setup(app: Sphinx) -> dict[str, bool]:
    """Join Sphinx."""
    app.connect("config-inited", show_sources)
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-process-docstring", without_sections)
    app.connect("autodoc-process-docstring", without_docstring_of_type)
    app.connect("missing-reference", found_elsewhere)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
