"""The documents of the bench: short lines, links that lead somewhere, and places for what a run writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bench_runs import CHECKOUT, ROOT

WRAPPED = [CHECKOUT / "README.md", ROOT / "docs" / "performance.md"]
LINKING = [*WRAPPED, ROOT / "cpp" / "README.md"]
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(path: Path) -> str:
    return CODE.sub("", path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """Name the headings as GitHub does."""
    headings = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", WRAPPED, ids=name_of)
def test_prose_is_wrapped(path: Path) -> None:
    lines = prose(path).splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


def test_the_manual_is_short() -> None:
    assert len((CHECKOUT / "README.md").read_text(encoding="utf-8").splitlines()) <= 100


@pytest.mark.parametrize("path", LINKING, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    found = re.findall(r"\]\(([^)]+)\)", prose(path))
    relative = [link for link in found if not link.startswith("https://")]
    assert relative
    for link in relative:
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("README.md", ["rules"]),
        ("docs/performance.md", ["measurements"]),
        ("bench/results/results.md", ["results"]),
    ],
)
def test_a_run_finds_its_place(name: str, blocks: list[str]) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert re.findall(r"^<!-- (\w+): begin -->$", text, re.MULTILINE) == blocks
    assert re.findall(r"^<!-- (\w+): end -->$", text, re.MULTILINE) == blocks
