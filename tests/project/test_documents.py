"""What the documents promise: short lines, links that lead somewhere, commands that work before a release."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
LINKS = re.findall(
    r"""\]\(\s*<?([^)\s>]+)|^\s*\[[^\]]+\]:\s*(\S+)|(?:href|src)\s*=\s*["']?([^"'\s>]+)""",
    README,
    re.MULTILINE,
)
TEXTS = sorted(
    path
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "bench/**/*.md",
        "cpp/**/*.md",
        "packaging/**/*.md",
        "tests/**/*.md",
        "python/**/*.py",
        "bench/**/*.py",
    )
    for path in ROOT.glob(pattern)
)
DOCUMENTS = [path for path in TEXTS if path.suffix == ".md" and path.parent.name != "results"]
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(path: Path) -> str:
    return CODE.sub("", path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """Name the headings as GitHub does."""
    headings = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_lines_are_short(path: Path) -> None:
    """A line may be longer only if it is a row of a table or has no place to break."""
    long = [line for line in prose(path).splitlines() if len(line) > 120]
    assert [line for line in long if not line.startswith(("|", "!["))] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_relative_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", prose(path)):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def links() -> list[str]:
    return [next(filter(None, forms)) for forms in LINKS]


def repository() -> str:
    (address,) = re.findall(
        r'^Repository = "(https://github\.com/[^/"]+/[^/"]+)"$', PYPROJECT, re.MULTILINE
    )
    return str(address)


def test_readme_holds_on_a_package_index() -> None:
    """A relative link or picture leads nowhere there."""
    assert links()
    assert [link for link in links() if not link.startswith("https://")] == []


def test_readme_links_to_files_that_exist() -> None:
    own = repository()
    raw = own.replace("https://github.com/", "https://raw.githubusercontent.com/")
    ours = [link for link in links() if link.startswith((own, raw))]
    assert ours
    for link in ours:
        found = re.fullmatch(
            rf"(?:{re.escape(own)}/blob|{re.escape(raw)})/main/([^#]+)(#.*)?", link
        )
        assert found, f"{link}: expected a file on the branch main"
        assert (ROOT / found[1]).is_file(), f"{link}: no such file"


def test_pictures_are_shown_as_such() -> None:
    pictures = [link for link in links() if link.endswith(".png")]
    assert any(link.endswith("python/examples/digits.png") for link in pictures)
    for link in pictures:
        assert link.startswith("https://raw.githubusercontent.com/"), (
            f"{link}: a page, not a picture"
        )
        assert f"]({link})" in README
        assert "![" in README.partition(link)[0].rpartition("\n")[2]


# `fusedopt` and `"fusedopt[bench]"`, but no path and no package that is only called alike.
FROM_AN_INDEX = re.compile(
    r"""(?:pip|pipx|uv|poetry) (?:install|add)[^\n]*[\s"']fusedopt\b(?![-_/]|\.\w)"""
)


@pytest.mark.parametrize(
    ("command", "promises"),
    [
        ("pip install fusedopt", True),
        ('pip install "fusedopt[bench]"', True),
        ("pip install 'fusedopt[files]' torch", True),
        ("pip install numpy fusedopt scikit-learn", True),
        ("uv pip install -U fusedopt==0.1", True),
        ('pip install ".[bench]" && python -m fusedopt.bench', False),
        ("pip install safetensors", False),
    ],
)
def test_promise_of_a_release_is_recognised(command: str, promises: bool) -> None:
    assert bool(FROM_AN_INDEX.search(command)) == promises


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_nobody_is_sent_to_a_release_that_does_not_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.name == "CONTRIBUTING.md":
        text = text.partition("\n## Release")[0]
    assert FROM_AN_INDEX.findall(text) == [], 'from a clone it is: pip install ".[extra]"'


def test_contributing_has_every_folder_of_tests_in_its_map() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    folders = {path.parent for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders
    assert [folder.name for folder in sorted(folders) if f"`{folder.name}/`" not in text] == []


@pytest.mark.parametrize(
    ("mark", "program"), [("hosted step", "hosted.cpp"), ("row gradient", "row_example.cpp")]
)
def test_an_example_of_the_cpp_readme_is_one_that_runs(mark: str, program: str) -> None:
    readme = (ROOT / "cpp" / "README.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(rf"<!-- {mark} -->\n```cpp\n(.*?)```", readme, re.DOTALL)
    tested = (ROOT / "tests" / "cpp" / program).read_text(encoding="utf-8")
    assert snippet
    assert [line for line in snippet.splitlines() if line not in tested] == []
