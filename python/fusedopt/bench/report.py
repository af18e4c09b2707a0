"""A run's results on a console, and in the marked blocks of Markdown files."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import rich.console

from fusedopt.bench.results import Results
from fusedopt.bench.tables import ABOUT_RATIOS, Table, legend

Blocks = Mapping[str, Callable[[Results], str]]
WIDTH = 120


def show(
    results: Results, titled: Iterable[tuple[str, list[Table]]], console: rich.console.Console
) -> None:
    """Print tables under their titles."""
    say_doubts(results, console)
    for name, value in results.environment.items():
        console.print(f"{name}: {value}", highlight=False)
    console.print(f"threads: {', '.join(map(str, results.threads))}\n", highlight=False)
    shown = []
    for title, tables in titled:
        console.rule(title)
        for table in tables:
            console.print(table.rich())
        shown += tables
    for note in notes(shown):
        console.print(note, highlight=False, style="dim")
    for who, why in results.absent.items():
        console.print(f"not measured, {who}: {why}", highlight=False, style="dim")


def say_doubts(results: Results, console: rich.console.Console) -> None:
    """Say first what takes the meaning from the figures."""
    for doubt in results.doubts:
        console.print(doubt, highlight=False, style="bold red")


def notes(tables: Iterable[Table]) -> list[str]:
    """Explain ratios and marks."""
    return [ABOUT_RATIOS, *legend(tables)]


def paragraph(text: str) -> str:
    """Break prose into lines."""
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False) + "\n"


def absences(results: Results) -> str:
    """List what was not measured, and why."""
    return "".join(f"- not measured, {who}: {why}\n" for who, why in results.absent.items())


def write(results: Results, path: Path, blocks: Blocks) -> None:
    """Replace the marked blocks of a Markdown file; a new file gets all of them.

    Raises
    ------
    ValueError
        If the file has no such block.
    """
    empty = "\n".join(_marked(name, "") for name in blocks)
    text = path.read_text(encoding="utf-8") if path.exists() else empty
    written = with_blocks(results, text, str(path), blocks)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(written, encoding="utf-8", newline="\n")


def with_blocks(results: Results, text: str, where: str, blocks: Blocks) -> str:
    """Replace what stands between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``."""
    replaced = 0
    for name, block in blocks.items():
        pattern = re.escape(_marked(name, "\0")).replace("\0", "(?:.*\n)*?")
        new = _marked(name, block(results))
        text, times = re.subn(pattern, partial(_constant, new), text)
        replaced += times
    if not replaced:
        first = _marked(next(iter(blocks)), "").splitlines()[0]
        raise ValueError(f"{where}: expected a line {first}")
    return text


def _marked(name: str, block: str) -> str:
    return f"<!-- {name}: begin -->\n{block}<!-- {name}: end -->\n"


def _constant(new: str, _: re.Match[str]) -> str:
    """Take the new text as it is: re.sub would read its backslashes."""
    return new
