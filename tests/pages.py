"""Runs the code of a page of the documentation, as it is printed, and compares what it prints.

The ``python`` blocks of a page are one program, which runs from top to bottom in an empty folder. A ``text`` block
right behind one of them holds exactly what that block prints. Two comments make exceptions, each in a line of its own
before a block:

- ``<!-- not run: reason -->`` before a ``python`` block that is only to be read
- ``<!-- output varies: reason -->`` before a ``text`` block that is not compared

``python tests/pages.py docs/start.md`` runs a page, and with ``--write`` the page gets what was printed.
"""

from __future__ import annotations

import argparse
import ast
import io
import os
import re
import sys
import types
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>not run|output varies): (?P<reason>[^\n]+) -->\n)?"
    r"^(?P<fence>```+)(?P<language>[^`\n]*)\n(?P<code>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block, where its code lies in the page, and whether at most a mark parts it from the last one."""

    language: str
    code: str
    mark: str
    begin: int
    end: int
    follows: bool


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_of(text: str) -> list[Block]:
    found: list[Block] = []
    last_end = 0
    for match in BLOCK.finditer(text):
        begin, end = match.span("code")
        follows = bool(found) and not text[last_end : match.start()].strip()
        found.append(
            Block(match["language"], match["code"], match["mark"] or "", begin, end, follows)
        )
        last_end = match.end()
    return found


def programs_of(text: str, language: str = "python") -> list[tuple[Block, Block | None]]:
    """The blocks that run, each with what it is said to print."""
    blocks = blocks_of(text)
    pairs = []
    for block, following in zip(blocks, [*blocks[1:], None], strict=False):
        if block.language == language and block.mark != "not run":
            is_output = following and following.language == "text" and following.follows
            pairs.append((block, following if is_output else None))
    return pairs


def missing_packages(page: Path) -> list[str]:
    """What a page imports and this Python does not have."""
    names = set()
    for block, _ in programs_of(page.read_text(encoding="utf-8")):
        for node in ast.walk(ast.parse(block.code)):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(str(node.module).partition(".")[0])
    return sorted(name for name in names if find_spec(name) is None)


def run(page: Path, text: str) -> list[tuple[Block, Block | None, str]]:
    """Run a page's program, and return what each block has printed."""
    scope = types.ModuleType("__main__")
    sys.modules["__main__"] = scope
    printed = []
    for block, expected in programs_of(text):
        lines = text.count("\n", 0, block.begin)  # so that a traceback shows lines of the page
        code = compile("\n" * lines + block.code, str(page), "exec")
        with redirect_stdout(io.StringIO()) as output:
            exec(code, vars(scope))
        printed.append((block, expected, output.getvalue()))
    return printed


def is_first_rank() -> bool:
    """Whether this process prints: of several ranks only the first one does."""
    return all(os.environ.get(name, "0") == "0" for name in ("PMI_RANK", "OMPI_COMM_WORLD_RANK"))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--write", action="store_true", help="put what was printed into the page")
    arguments = parser.parse_args()
    page = arguments.page.resolve()
    sys.path[0] = ""  # not the folder of the tests, whose modules a page must not find
    text = page.read_text(encoding="utf-8")
    printed = run(page, text)
    if arguments.write:
        for _, expected, output in reversed(printed):
            if expected:
                text = text[: expected.begin] + output + text[expected.end :]
        page.write_text(text, encoding="utf-8")
        return 0
    wrong = 0
    for block, expected, output in printed if is_first_rank() else []:
        if expected and expected.mark != "output varies" and expected.code != output:
            wrong += 1
            line = text.count("\n", 0, block.begin) + 1
            print(f"{page}:{line}: expected\n{expected.code}found\n{output}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
