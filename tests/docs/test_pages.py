"""The code of every page runs as it is printed, and prints what stands behind it. `tests/pages.py` has the rules."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import mpi
import pages
import pytest

RUN = [page for page in pages.PAGES if pages.programs_of(page.read_text(encoding="utf-8"))]
UNDER_MPI = [pages.ROOT / "docs" / "tutorials" / "mpi.md"]


def refuse_missing(page: Path) -> None:
    if missing := pages.missing_packages(page):
        pytest.skip(f"the page needs {', '.join(missing)}")


@pytest.mark.parametrize("page", RUN, ids=pages.name_of)
def test_page(page: Path, tmp_path: Path) -> None:
    refuse_missing(page)
    done = subprocess.run(
        [sys.executable, "-W", "error:::__main__", pages.__file__, str(page)],
        cwd=tmp_path,
        # The processes of pytest share the processors already.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", UNDER_MPI, ids=pages.name_of)
@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.maintainer)])
@pytest.mark.skipif(not mpi.MPIEXEC, reason="there is no mpiexec (extra mpi)")
def test_page_under_mpi(page: Path, size: int, tmp_path: Path) -> None:
    """With the output that a single process has."""
    refuse_missing(page)
    done = mpi.run(size, sys.executable, "-m", "mpi4py", pages.__file__, page, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_tutorials_run_whole() -> None:
    """A page that teaches by doing has nothing that only looks like a program."""
    tutorials = [page for page in pages.PAGES if page.parent.name == "tutorials"]
    assert len(tutorials) > 5
    for page in tutorials:
        blocks = pages.blocks_of(page.read_text(encoding="utf-8"))
        assert [block.code for block in blocks if block.mark == "not run"] == [], page


@pytest.mark.parametrize("folder", ["tutorials", "how_to"])
def test_an_index_has_every_page(folder: str) -> None:
    index = pages.ROOT / "docs" / folder / "index.md"
    text = index.read_text(encoding="utf-8")
    names = [page.stem for page in pages.PAGES if page.parent == index.parent and page != index]
    assert names
    for name in names:
        assert f"]({name}.md)" in text, "in the table"
        assert f"\n{name}\n" in text, "in the toctree"


def test_extras_that_are_to_be_installed_are_there() -> None:
    project = (pages.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (section,) = re.findall(
        r"^\[project.optional-dependencies\]\n(.*?)^\[", project, re.MULTILINE | re.DOTALL
    )
    known = set(re.findall(r"^(\w+) = \[", section, re.MULTILINE))
    named = set()
    for page in pages.PAGES:
        for extras in re.findall(r'"\.\[([\w,]+)\]"', page.read_text(encoding="utf-8")):
            named |= set(extras.split(","))
    assert named - known == set()
    assert named >= {"files", "torch"}


# The rules themselves


def ran(text: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "page.md").write_text(text, encoding="utf-8")
    return subprocess.run(
        [sys.executable, pages.__file__, "page.md", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


PAGE = """# Title

```python
x = 1
print(x)
```

```text
{}
```

Words.

```python
print(x + 1)
```

Words in between.

```{{directive}} of Sphinx
x
```

```text
no output of a block
```

<!-- not run: it would fail -->
```python
print(y)
```

```python
print(x / 3)
```

<!-- output varies: for a test -->
```text
about a third
```
"""


def test_output_is_compared(tmp_path: Path) -> None:
    assert ran(PAGE.format(1), tmp_path).returncode == 0
    wrong = ran(PAGE.format(2), tmp_path)
    assert wrong.returncode == 1
    assert "page.md:4: expected\n2\nfound\n1\n" in wrong.stderr


def test_error_names_the_line_of_the_page(tmp_path: Path) -> None:
    failed = ran(PAGE.format(1).replace("not run", "is run"), tmp_path)
    assert failed.returncode == 1
    assert 'page.md", line 30' in failed.stderr
    assert "NameError" in failed.stderr


def test_output_is_written(tmp_path: Path) -> None:
    assert ran(PAGE.format(2), tmp_path, "--write").returncode == 0
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert text == PAGE.format(1).replace("about a third", "0.3333333333333333")
