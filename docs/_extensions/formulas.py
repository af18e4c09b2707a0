"""Formulas of the docstrings, which read as plain text in `help`, as formulas on the site.

A block of lines such as ``w <- w - alpha m / (sqrt(v) + epsilon)`` becomes a ``math`` directive. A product is written
by a space, and goes as far left as it can. What stands three spaces behind a formula is a remark about it. A block in
which a line is no formula stays as it is.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

BLOCK = re.compile(r"^(?P<before>.*\S) *::$")
TOKEN = re.compile(
    r"\s*(?P<text>(?:mean|sum) of \w+ over each \w+|<-|>=|\.\.\.|\|\||"
    r"\d+(?:\.\d+)?(?:e-?\d+)?|[A-Za-z]\w*'?|[-+/^()|,=])"
)
GREEK = {
    "alpha": r"\alpha",
    "beta": r"\beta",
    "epsilon": r"\varepsilon",
    "mu": r"\mu",
    "rho": r"\rho",
}
LETTER = re.compile(
    rf"(?P<stem>{'|'.join(GREEK)}|[A-Za-z]|lr(?=_t))(?:(?=\d|_)_?(?P<index>\d|[a-z]{{1,2}}|hat|max))?(?P<prime>'?)"
)
BARS = {"|": "vert", "||": "Vert"}
FUNCTIONS = {"max", "min", "mean", "rms", "sign", "clip"}
RELATIONS = {"<-": r"\leftarrow", "=": "=", ">=": r"\ge"}


class NoFormula(ValueError):
    """The text is not a formula."""


def name(word: str) -> str:
    """Return a name in LaTeX: a letter with its index, or the word as it is."""
    found = LETTER.fullmatch(word)
    if not found:
        escaped = word.replace("_", r"\_")
        return rf"\mathrm{{{escaped}}}"
    stem, index, prime = found["stem"], found["index"] or "", found["prime"]
    if stem in GREEK:
        stem = GREEK[stem]
    elif len(stem) > 1:
        stem = rf"\mathrm{{{stem}}}"
    if index == "hat":
        return rf"\hat{{{stem}}}"
    if index == "max":
        index = r"\mathrm{max}"
    return f"{stem}{prime}" + (f"_{{{index}}}" if index else "")


class Reader:
    """The tokens of a formula, read from the left."""

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        place = 0
        while place < len(text):
            found = TOKEN.match(text, place)
            if not found:
                raise NoFormula(text)
            self.tokens.append(found["text"])
            place = found.end()
        self.place = 0
        self.bar = ""  # that would end the expression

    @property
    def next(self) -> str:
        """The next token; empty at the end."""
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        """Go past the next token."""
        token = self.next
        if not token or (expected and token != expected):
            raise NoFormula(" ".join(self.tokens))
        self.place += 1
        return token

    def statement(self) -> str:
        """Read a name, a relation and an expression."""
        left, relation, right = self.factor(), RELATIONS.get(self.take()), self.expression()
        if relation is None or self.next:
            raise NoFormula(" ".join(self.tokens))
        return f"{left} &{relation} {right}"

    def expression(self) -> str:
        """Read a sum."""
        parts = [self.take()] if self.next == "-" else []
        parts.append(self.term())
        while self.next in ("+", "-"):
            parts += [self.take(), self.term()]
        return " ".join(parts)

    def term(self) -> str:
        """Read a product. A division divides what stands between it and the one before."""
        parts: list[str] = []
        above, below = [self.factor()], list[str]()
        while self.next == "/" or self.starts_factor():
            if self.next == "/":
                self.take("/")
                below.append(self.factor())
            elif below:
                parts.append(fraction(above, below))
                above, below = [self.factor()], []
            else:
                above.append(self.factor())
        return product([*parts, fraction(above, below)] if below else [*parts, *above])

    def starts_factor(self) -> bool:
        """Whether the next token can be multiplied with what is before it."""
        return self.next != self.bar and bool(re.match(r"[\w(|.]", self.next))

    def factor(self) -> str:
        """Read what is multiplied, with its exponent."""
        base = self.atom()
        if self.next != "^":
            return base
        self.take("^")
        return f"{{{base}}}^{{{bare(self.atom())}}}"

    def atom(self) -> str:
        """Read a number, a name, a call, or what is in brackets or bars."""
        word = self.take()
        if word == "(":
            return Bracketed(rf"\left({self.inner(')')}\right)")
        if word in BARS:
            self.bar = word
            return rf"\left\l{BARS[word]} {self.inner(word)} \right\r{BARS[word]}"
        if word == "...":
            return r"\cdots"
        if " " in word:
            return rf"\text{{{word}}}"
        return self.number(word) if word[0].isdigit() else self.named(word)

    def named(self, word: str) -> str:
        """Read what begins with a name."""
        if not word[0].isalpha():
            raise NoFormula(" ".join(self.tokens))
        if self.next == "(" and word in {"sqrt", "norm", *FUNCTIONS}:
            return self.call(word)
        if self.next == "(" and word.endswith("_"):
            return f"{name(word[:-1])}_{{{bare(self.atom())}}}"
        return name(word)

    @staticmethod
    def number(word: str) -> str:
        """Return a number, such as 10 to the power of -7 for 1e-7."""
        mantissa, _, exponent = word.partition("e")
        if not exponent:
            return mantissa
        factor = "" if mantissa == "1" else rf"{mantissa} \cdot "
        return f"{factor}10^{{{exponent}}}"

    def inner(self, end: str) -> str:
        """Read an expression up to its end."""
        found = self.expression()
        self.bar = ""
        self.take(end)
        return found

    def call(self, function: str) -> str:
        """Read the arguments of a function."""
        self.take("(")
        arguments = [self.expression()]
        while self.next == ",":
            self.take(",")
            arguments.append(self.expression())
        self.take(")")
        inner = ", ".join(arguments)
        if function == "sqrt":
            return rf"\sqrt{{{inner}}}"
        if function == "norm":
            return rf"\left\lVert {inner} \right\rVert"
        return rf"\operatorname{{{function}}}\left({inner}\right)"


class Bracketed(str):
    """LaTeX for an expression in brackets."""

    __slots__ = ()


def bare(latex: str) -> str:
    """Return LaTeX without the brackets around it."""
    return latex[len(r"\left(") : -len(r"\right)")] if isinstance(latex, Bracketed) else latex


def product(factors: list[str]) -> str:
    """Write factors next to each other."""
    return r" \, ".join(factors)


def fraction(above: list[str], below: list[str]) -> str:
    """Write factors above others."""
    numerator, denominator = (
        bare(each[0]) if len(each) == 1 else product(each) for each in (above, below)
    )
    return rf"\frac{{{numerator}}}{{{denominator}}}"


def display(block: list[str]) -> list[str]:
    """Return the lines of a display for those of a block, or none if one is no formula."""
    rows: list[str] = []
    for line in block:
        first, *more = re.split(r",? {2,}", line.strip())
        try:
            rows.append(Reader(first).statement())
        except NoFormula:
            return []
        for piece in more:
            try:
                rows.append(Reader(piece).statement())
            except NoFormula:
                rows[-1] += rf" \quad {text_of(piece)}"
    ended = [f"    {row}" + (r" \\" if i < len(rows) else "") for i, row in enumerate(rows, 1)]
    return [r"    \begin{aligned}", *ended, r"    \end{aligned}"]


def text_of(remark: str) -> str:
    """Return a remark, which may end with a formula."""
    words = remark.split(" ")
    for i in range(len(words) - 2):
        try:
            formula = Reader(" ".join(words[i:])).statement().replace("&", "")
        except NoFormula:
            continue
        return rf"\text{{{' '.join(words[:i])} }} {formula}"
    return rf"\text{{{remark}}}"


def show_formulas(
    _app: Sphinx, _what: str, _name: str, _value: Any, _options: Any, lines: list[str]
) -> None:
    """Replace the blocks of formulas in a docstring."""
    result: list[str] = []
    place = 0
    while place < len(lines):
        opening = BLOCK.match(lines[place])
        end = place + 1
        while opening and end < len(lines) and re.match(" {4}|$", lines[end]):
            end += 1
        shown = display([line for line in lines[place + 1 : end] if line.strip()])
        if opening is None or not shown:
            result.append(lines[place])
            place += 1
        else:
            result += [f"{opening['before']}:", "", ".. math::", "", *shown, ""]
            place = end
    lines[:] = result


def setup(app: Sphinx) -> dict[str, bool]:
    """Join Sphinx, before numpydoc rewrites the docstrings."""
    app.connect("autodoc-process-docstring", show_formulas, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
