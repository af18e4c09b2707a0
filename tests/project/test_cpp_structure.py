"""The structure of the C++ sources: what each file opens with, and that the step knows no rule by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.maintainer

CPP = Path(__file__).resolve().parents[2] / "cpp"
SOURCES = sorted(path.relative_to(CPP) for path in CPP.rglob("*.[ch]pp"))
BINDING = sorted((CPP.parent / "python/src").glob("*.[ch]pp"))
TESTS = sorted((CPP.parent / "tests/cpp").glob("*.[ch]pp"))
(VARIANT,) = re.findall(
    r"using Rule\s*=\s*std::variant<([^>]*)>", (CPP / "include/fusedopt/rules.hpp").read_text()
)
RULES = re.findall(r"\w+", VARIANT)
STEP = [
    *(source for source in SOURCES if source.parent.name == "engine"),
    Path("src/rules/procedure.hpp"),
    Path("src/rules/rule.hpp"),
]


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_a_file_opens_with_what_it_holds(source: Path) -> None:
    assert (CPP / source).read_text().startswith("// ")


@pytest.mark.parametrize("source", [*SOURCES, *BINDING], ids=str)
def test_a_file_is_short_or_says_why_it_is_not(source: Path) -> None:
    text = (CPP / source).read_text()
    if len(text.splitlines()) > 300:
        assert "though long" in text.partition("\n#")[0]


@pytest.mark.parametrize("source", TESTS, ids=lambda source: source.name)
def test_a_test_file_opens_with_what_it_tests_and_is_short(source: Path) -> None:
    text = source.read_text()
    assert text.startswith("// ")
    assert len(text.splitlines()) <= 500


@pytest.mark.parametrize("source", STEP, ids=str)
def test_the_step_knows_no_rule_by_name(source: Path) -> None:
    code = re.sub(r"//.*", "", (CPP / source).read_text())
    assert len(RULES) > 10
    assert not set(RULES) & set(re.findall(r"\w+", code))


def test_each_rule_is_defined_in_one_file() -> None:
    defined = [
        rule
        for path in (CPP / "src/rules").glob("*.cpp")
        for rule in re.findall(
            r"^template struct Definition<(\w+)>;", path.read_text(), re.MULTILINE
        )
    ]
    assert sorted(defined) == sorted(RULES)
