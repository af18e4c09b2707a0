"""The reference of docs/ has every public name, and its formulas are those of the docstrings."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType

import fusedopt as fo
import pytest
from cases import RULES
from fusedopt.hyperparameters import Hyperparameter

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "python" / "fusedopt"
PAGES = {
    path.relative_to(ROOT / "docs" / "reference").as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "docs" / "reference").rglob("*.md")
}
HOMES = {"__init__.py": "", "schedules": "schedules.md", "torch": "torch.md", "keras": "keras.md"}
HOMES |= {"thinc": "thinc.md", "torch_products.py": "torch.md"}


def module(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / "docs" / path)
    assert spec
    assert spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def public_names(module: str) -> list[str]:
    path = PACKAGE / module if module.endswith(".py") else PACKAGE / module / "__init__.py"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    raise AssertionError(path)


@pytest.mark.parametrize("module", HOMES)
def test_every_public_name_has_its_place(module: str) -> None:
    page = PAGES.get(HOMES[module]) or "\n".join(PAGES.values())
    if module == "torch_products.py":
        assert ".. automodule:: fusedopt.torch_products\n   :members:\n" in page
        return
    names = set(public_names(module)) - {"schedules"}
    named = {
        name.rpartition(".")[2]
        for name in re.findall(r"^ *(?:\.\. auto\w+:: )?([\w.]+)$", page, re.MULTILINE)
    }
    assert sorted(names - named) == []


def test_every_method_of_an_optimizer_has_its_place() -> None:
    named = re.findall(
        r"^\.\. auto(?:method|attribute):: Optimizer\.(\w+)$", PAGES["optimizer.md"], re.MULTILINE
    )
    public = [
        name
        for name in dir(fo.Optimizer)
        if not name.startswith("_")
        and not isinstance(inspect.getattr_static(fo.Optimizer, name), Hyperparameter)
    ]
    assert sorted(named) == sorted(public)


def test_every_name_of_the_cpp_headers_has_its_place() -> None:
    headers = module("_extensions/cpp_headers.py")
    pages = "\n".join(text for name, text in PAGES.items() if name.startswith("cpp/"))
    shown = set(re.findall(r"^\.\. doxygen\w+:: fusedopt::(\w+)", pages, re.MULTILINE))
    found = set()
    for path in sorted((ROOT / "cpp" / "include" / "fusedopt").glob("*.hpp")):
        text = headers.filtered(path)
        found |= set(re.findall(r"^(?:struct|class|enum class) (\w+)[^;]*\{$", text, re.MULTILINE))
        found |= set(
            re.findall(r"^(?!inline|using|template)[\w:<>]+ (\w+)\([^;]*\);$", text, re.MULTILINE)
        )
    assert len(found) > 40
    assert sorted(found - shown - {"ArgumentsChecked"}) == []


FORMULAS = module("_extensions/formulas.py")


def shown(docstring: str) -> str:
    lines = docstring.splitlines()
    FORMULAS.show_formulas(None, "class", "", None, None, lines)
    return "\n".join(lines)


@pytest.mark.parametrize("rule", RULES)
def test_formulas_of_a_rule_become_mathematics(rule: str) -> None:
    text = inspect.getdoc(getattr(fo, rule)) or ""
    assert re.search("::$", text, re.MULTILINE)
    assert ".. math::" in shown(text)
    assert [line for line in shown(text).splitlines() if line.endswith("::")] == [
        ".. math::"
    ] * shown(text).count(".. math::")


@pytest.mark.parametrize(
    ("plain", "latex"),
    [
        (
            "w <- w - alpha m / (sqrt(v) + epsilon)",
            r"w &\leftarrow w - \frac{\alpha \, m}{\sqrt{v} + \varepsilon}",
        ),
        (
            "v <- beta_2 v + (1 - beta_2) g^2",
            r"v &\leftarrow \beta_{2} \, v + \left(1 - \beta_{2}\right) \, {g}^{2}",
        ),
        ("d = a / b c / e", r"d &= \frac{a}{b} \, \frac{c}{e}"),
        ("d = a / b / c", r"d &= \frac{a}{b \, c}"),
        ("u = |g| + ||w||", r"u &= \left\lvert g \right\rvert + \left\lVert w \right\rVert"),
        ("z' = n^(p + 1) learning_rate", r"z' &= {n}^{p + 1} \, \mathrm{learning\_rate}"),
        ("m_hat = 1e-7 X", r"\hat{m} &= 10^{-7} \, X"),
    ],
)
def test_formula(plain: str, latex: str) -> None:
    assert latex in shown(f"Formula::\n\n    {plain}\n")


def test_remarks_stand_behind_their_formulas() -> None:
    text = shown(
        "Update::\n\n    w <- w + m      or, with nesterov, w = m\n    m <- g,  v <- g^2\n"
    )
    assert r"w &\leftarrow w + m \quad \text{or, with nesterov, } w = m \\" in text
    assert "m &\\leftarrow g \\\\\n    v &\\leftarrow {g}^{2}\n" in text.replace("     ", "    ")


def test_what_is_no_formula_stays_as_it_is() -> None:
    text = "Call it::\n\n    optimizer.apply([g])  # once\n    w <- w - g\n"
    assert shown(text) == text.rstrip("\n")
    assert shown("Say::\n\n    the sum = a (b\n") == "Say::\n\n    the sum = a (b"


def test_pictures_are_drawn(tmp_path: Path) -> None:
    pictures = module("explanation/pictures.py")
    committed = {path.name for path in (ROOT / "docs" / "explanation").glob("*.svg")}
    assert set(pictures.PICTURES) == committed
    pictures.draw_all(tmp_path)
    for name in committed:
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "prefers-color-scheme: dark" in text
        assert not [
            colour for colour in pictures.DARK if f": {colour}" in text.partition("</style>")[2]
        ]
