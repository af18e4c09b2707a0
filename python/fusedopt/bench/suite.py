"""What a run measures, and how it shows that.

The package has one suite. A checkout plugs another one into the same command.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import fusedopt as fo
from fusedopt.bench.contestants import Contestant
from fusedopt.bench.measuring import Bench
from fusedopt.bench.results import Results
from fusedopt.bench.tables import Table
from fusedopt.bench.timing import Effort


class Task(NamedTuple):
    """A piece of a run."""

    section: str
    about: str
    measure: Callable[[Bench], None]


def one_and_all() -> list[int]:
    """Return the numbers of threads to compare."""
    return [1, fo.get_num_threads()]


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Tasks, and what becomes of their results."""

    program: str
    description: str
    effort: Effort
    threads: Callable[[], list[int]] = one_and_all
    """The numbers of threads, unless the command line names some."""
    peers: Sequence[Contestant]
    quick_packages: Sequence[str] = ()
    """Whose peers take part in a quick run."""
    libraries: Sequence[str]
    """Whose versions a reader must know."""
    sections: Sequence[str]
    add_options: Callable[[argparse.ArgumentParser], None] | None = None
    tasks: Callable[[argparse.Namespace], Iterator[Task]]
    tables: Callable[[Results], Iterator[tuple[str, list[Table]]]]
    """Tables for a console, under titles."""
    blocks: Mapping[str, Callable[[Results], str]]
    """Text for the marked places of Markdown files, by the name of the mark."""
    draw: Callable[[Results, Path], None] | None = None
    """The picture, if there is one."""

    @property
    def packages(self) -> list[str]:
        """Of all peers."""
        return list(dict.fromkeys(peer.package for peer in self.peers))


def count(text: str) -> int:
    """Read a number such as 1000 or 2^20 from a command line."""
    base, _, power = text.partition("^")
    number = int(base) ** int(power) if power else int(base)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, found {text}")
    return number
