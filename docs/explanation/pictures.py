"""Draw the pictures of this folder: a step's sweep, the levels of memory, and which bytes move.

Run it in a clone of the repository: ``python docs/explanation/pictures.py``. The bytes are counted, not written down.
Each picture is an SVG that follows the reader's choice of light or dark.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import fusedopt as fo
import matplotlib as mpl
import ml_dtypes
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

# What is drawn in one of these colours gets the other one in the dark.
PAPER, INK, FAINT, GREY = "#ffffff", "#1b1f24", "#eef0f3", "#8a929c"
READ, WRITTEN = "#2f6db3", "#d9822b"
DARK = {
    PAPER: "#131416",
    INK: "#dfe3e8",
    FAINT: "#23272d",
    GREY: "#8f98a3",
    READ: "#5b9be0",
    WRITTEN: "#eb9c4d",
}
STYLE = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "figure.facecolor": PAPER,
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "fusedopt",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def save(figure: Figure, path: Path) -> None:
    """Write a picture whose colours are variables of a style sheet."""
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    text = path.read_text(encoding="utf-8")
    for colour in DARK:
        text = text.replace(colour, f"var(--c{colour[1:]})")
    light, dark = (
        "".join(f"--c{colour[1:]}: {shown}; " for colour, shown in each)
        for each in (zip(DARK, DARK, strict=True), DARK.items())
    )
    style = (
        f"<style>:root {{ {light}}} @media (prefers-color-scheme: dark) {{ :root {{ {dark}}} }} "
        "text { font-family: system-ui, sans-serif !important; }</style>"
    )
    text = re.sub(r"(<svg[^>]*>)", rf"\1\n {style}", text, count=1)
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")


def empty(width: float, height: float) -> tuple[Figure, Axes]:
    """Make a picture without axes, whose unit is a tenth of an inch."""
    figure = Figure(figsize=(width / 10, height / 10))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    return figure, axes


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    """Point from one place to another."""
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=12, color=colour, linewidth=1.6
        )
    )


def box(
    axes: Axes, place: tuple[float, float], size: tuple[float, float], text: str, **look: Any
) -> None:
    """Draw a box with a text in it."""
    style = {"facecolor": FAINT, "edgecolor": GREY, "linewidth": 1, **look}
    axes.add_patch(FancyBboxPatch(place, *size, boxstyle="round,pad=0,rounding_size=0.8", **style))
    middle = (place[0] + size[0] / 2, place[1] + size[1] / 2)
    axes.text(*middle, text, ha="center", va="center", linespacing=1.5)


def draw_sweep(path: Path) -> None:
    """Show what a step reads and writes, one cache line of every array at a time."""
    figure, axes = empty(78, 44)
    lines, now, ahead, left, size = 16, 6, 6, 14.0, 3.6
    rows = {"gradient": 36.0, "weights": 31.0, "m": 26.0, "v": 21.0}
    for name, y in rows.items():
        axes.text(left - 1.5, y + 1.5, name, ha="right", va="center")
        for i in range(lines):
            done = WRITTEN if name != "gradient" else READ
            if i < now:
                colour, alpha = done, 0.45
            elif i == now:
                colour, alpha = READ, 1.0
            else:
                colour, alpha = FAINT, 1.0
            axes.add_patch(
                Rectangle(
                    (left + i * size, y),
                    size - 0.4,
                    3,
                    facecolor=colour,
                    alpha=alpha,
                    edgecolor=READ if now < i <= now + ahead else GREY,
                    linestyle=":" if now < i <= now + ahead else "-",
                    linewidth=1.2 if now < i <= now + ahead else 0.6,
                )
            )
    x = left + now * size + size / 2 - 0.2
    axes.text(left + now * size / 2, 41, "done", ha="center", va="center", color=GREY)
    axes.text(x, 41, "now", ha="center", va="center", color=READ)
    axes.text(
        left + (now + 1 + ahead / 2) * size,
        41,
        "on their way",
        ha="center",
        va="center",
        color=READ,
    )
    axes.text(
        left + (now + ahead + 1 + (lines - now - ahead - 1) / 2) * size,
        41,
        "not yet",
        ha="center",
        va="center",
        color=GREY,
    )
    box(
        axes,
        (15, 3),
        (42, 9),
        "in registers\nunscale, average, clip, decay, rule, moving average, cast",
        edgecolor=INK,
    )
    arrow(axes, (x - 1, 20.5), (x - 1, 12.3), READ)
    arrow(axes, (x + 1, 12.3), (x + 1, 20.5), WRITTEN)
    axes.text(x - 2, 16.5, "4 lines are read", ha="right", va="center", color=READ)
    axes.text(x + 2, 16.5, "3 lines are written", ha="left", va="center", color=WRITTEN)
    axes.text(60, 7.5, "a cell is a cache line:\n16 elements of float32", va="center", color=GREY)
    save(figure, path)


LEVELS = (
    ("registers", "some hundred bytes", "a cache line of every array, and the rule's scalars"),
    ("first cache", "some ten KB", "the lines on their way; a tile, if types are converted"),
    ("larger caches", "some MB", "of a small model all, of a large one nothing"),
    ("memory", "GB", "gradients, weights and state: each is read once"),
)


def draw_levels(path: Path) -> None:
    """Show the levels of memory, and what of a step is where."""
    figure, axes = empty(78, 32)
    for i, (name, size, content) in enumerate(LEVELS):
        y, width = 25 - 7.5 * i, 12 + 6 * i
        box(axes, (17 - width / 2, y), (width, 5.5), name, edgecolor=INK if i in (0, 3) else GREY)
        axes.text(33.5, y + 3.9, content, va="center")
        axes.text(33.5, y + 1.6, size, va="center", color=GREY)
        if i:
            arrow(axes, (15.5, y + 5.6), (15.5, y + 7.4), READ)
            arrow(axes, (18.5, y + 7.4), (18.5, y + 5.6), WRITTEN)
    save(figure, path)


class Counted(np.ndarray):
    """An array whose operations count the bytes that they read and write."""

    moved: ClassVar[Counter[str]] = Counter()

    def __array_ufunc__(
        self, ufunc: Any, method: str, *inputs: Any, out: Any = (), **how: Any
    ) -> Any:
        """Compute, and count."""
        plain = [np.asarray(x) if isinstance(x, np.ndarray) else x for x in inputs]
        targets = tuple(np.asarray(x) for x in out)
        result = np.asarray(getattr(ufunc, method)(*plain, out=targets or None, **how))
        read = sum(x.nbytes for x in plain if isinstance(x, np.ndarray) and x.ndim)
        self.moved.update({"read": read, "written": result.nbytes})
        return out[0] if out else result.view(Counted)


def array_operations(elements: int) -> Counter[str]:
    """Count the bytes of AdamW's step as one would write it in NumPy, in place where that is easy."""
    w, m, v, g = (np.ones(elements, np.float32).view(Counted) for _ in range(4))
    Counted.moved = Counter()
    w *= np.float32(1 - 1e-3 * 0.01)
    m += (g - m) * np.float32(0.1)
    v += (g * g - v) * np.float32(0.001)
    w -= np.float32(1e-3) * m / (np.sqrt(v) + np.float32(1e-7))
    return Counter({what: count / elements for what, count in Counted.moved.items()})


def one_sweep(elements: int, dtype: Any, **options: Any) -> Counter[str]:
    """Count the bytes of a built optimizer: all state is read and written, and the gradient is read."""
    weights = np.ones((elements // 64, 64), dtype)
    optimizer = fo.AdamW(**options)
    optimizer.build({"weights": weights})
    held = weights.nbytes + sum(
        array.nbytes for name, array in optimizer._core.state() if name.startswith(("m", "v"))
    )
    gradient = weights.nbytes
    return Counter({"read": (held + gradient) / elements, "written": held / elements})


STEPS: dict[str, Callable[[int], Counter[str]]] = {
    "operation by operation, in NumPy": array_operations,
    "one sweep": lambda n: one_sweep(n, np.float32),
    "one sweep, slots of bfloat16": lambda n: one_sweep(n, np.float32, slot_dtype="bfloat16"),
    "one sweep, slots of float8": lambda n: one_sweep(n, np.float32, slot_dtype="float8"),
    "one sweep, slots of float8,\nweights of bfloat16": lambda n: one_sweep(
        n, ml_dtypes.bfloat16, slot_dtype="float8", master=False
    ),
}


def draw_bytes(path: Path) -> None:
    """Show which bytes AdamW moves per element, in several ways."""
    figure = Figure(figsize=(7.8, 3.0), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor(PAPER)
    for i, count in enumerate(STEPS.values()):
        moved = count(2**16)
        begin = 0.0
        for what, colour in (("read", READ), ("written", WRITTEN)):
            label = what if not i else None
            axes.barh(i, moved[what], left=begin, color=colour, label=label, height=0.65)
            begin += moved[what]
        axes.text(begin + 1.5, i, f"{begin:.3g}", va="center")
    axes.set_yticks(range(len(STEPS)), list(STEPS))
    axes.invert_yaxis()
    axes.set_xlabel("bytes per element that a step of AdamW moves")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    save(figure, path)


PICTURES = {"sweep.svg": draw_sweep, "levels.svg": draw_levels, "bytes.svg": draw_bytes}


def draw_all(folder: Path) -> None:
    """Write the pictures into a folder."""
    with mpl.rc_context(STYLE):
        for name, draw in PICTURES.items():
            draw(folder / name)


if __name__ == "__main__":
    draw_all(Path(__file__).parent)
