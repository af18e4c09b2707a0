"""What each rule costs: bytes and time per element, and the time that the memory needs for them."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fusedopt.bench import rules
from fusedopt.bench.results import FUSEDOPT, LIMIT, Measurement, Results
from fusedopt.bench.tables import thread_count

# Okabe and Ito's colours, apart for every kind of colour vision; labels and markers say it again.
COLOURS = {
    FUSEDOPT: "#0072B2",
    "PyTorch fused": "#E69F00",
    "PyTorch foreach": "#D55E00",
    "Keras": "#CC79A7",
    LIMIT: "#444444",
}
MARKERS = {
    FUSEDOPT: "o",
    "PyTorch fused": "s",
    "PyTorch foreach": "D",
    "Keras": "v",
}
STYLE: dict[Any, Any] = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
BYTES_COLOUR = "#bbbbbb"
BAR = 0.7
LONGEST_LABEL = 24
NANO = 1e9
# Bars stay readable next to a peer that takes a hundred times as long.
MOST_SHOWN, MARGIN = 2.5, 1.05


def save(figure: Figure, path: Path) -> None:
    """Write a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160, facecolor="white")


def draw(results: Results, path: Path) -> None:
    """Write the picture, for the largest number of threads."""
    threads = results.threads[-1]
    found = [one for one in results.of(rules.SECTION) if one.find(FUSEDOPT, threads)]
    found.sort(key=lambda one: (one.bytes is None, one.bytes or 0, one.label.lower()))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 1.3 + 0.27 * len(found)), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 2.2), sharey=True)
        _bytes(left, found)
        _times(right, found, threads)
        largest = max(found, key=lambda one: one.elements)
        title = f"{_typeset(largest.name)} elements, {thread_count(threads)}"
        right.set_title(title, fontsize=10, loc="left")
        rows = [
            one.label if one.name == largest.name else f"{one.label}, {_typeset(one.name)}"
            for one in found
        ]
        left.set_yticks(range(len(found)), [textwrap.fill(row, LONGEST_LABEL) for row in rows])
        handles, labels = right.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
        save(figure, path)


def _bytes(axes: Any, found: list[Measurement]) -> None:
    for position, one in enumerate(found):
        if one.bytes is None:
            axes.text(0, position, " products of matrices", va="center", color=COLOURS[LIMIT])
            continue
        axes.barh(position, one.bytes, height=BAR, color=BYTES_COLOUR)
        axes.text(one.bytes, position, f" {one.bytes:.3g}", va="center")
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.set_xlabel("bytes moved per element")
    axes.set_title("float32", fontsize=10, loc="left")


def _times(axes: Any, found: list[Measurement], threads: int) -> None:
    ours = [_nanoseconds(one, FUSEDOPT, threads) for one in found]
    limits = [_nanoseconds(one, LIMIT, threads) for one in found]
    # A rule without a limit does arithmetic for hundreds of nanoseconds.
    compared = [one for one, limit in zip(ours, limits, strict=True) if limit] or ours
    longest = max(time for time in (*compared, *limits) if time)
    others = [
        _nanoseconds(one, name, threads) or 0.0
        for one in found
        for name in MARKERS.keys() - {FUSEDOPT}
    ]
    end = MARGIN * min(MOST_SHOWN * longest, max(longest, *others))
    places = range(len(found))
    shown = [min(time or 0.0, end) for time in ours]
    axes.barh(places, shown, height=BAR, color=COLOURS[FUSEDOPT], label=FUSEDOPT)
    marks = [(place, limit) for place, limit in enumerate(limits) if limit]
    if marks:
        y, x = zip(*marks, strict=True)
        low, high = [place - BAR / 2 for place in y], [place + BAR / 2 for place in y]
        axes.vlines(x, low, high, color=COLOURS[LIMIT], linewidth=2.5, label="the memory's limit")
    is_cut = False
    for name, marker in MARKERS.items():
        times = [None if name == FUSEDOPT else _nanoseconds(one, name, threads) for one in found]
        points = [(time, place) for place, time in enumerate(times) if time and time <= end]
        is_cut = is_cut or any(time and time > end for time in times)
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, marker, color=COLOURS[name], markersize=5, label=name)
    _numbers(axes, found, threads)
    axes.set_xlim(0, end)
    axes.tick_params(axis="y", length=0)
    note = " (slower ones are not shown)" if is_cut else ""
    axes.set_xlabel(f"nanoseconds per element{note}")


def _numbers(axes: Any, found: list[Measurement], threads: int) -> None:
    """Put fusedopt's time and its ratio to the limit at the right, where nothing is drawn."""
    at_the_right = axes.get_yaxis_transform()
    for text, x in (("ns", 1.09), ("/ limit", 1.21)):
        axes.annotate(text, (x, 1), xycoords="axes fraction", ha="right", va="bottom")
    for place, one in enumerate(found):
        time, ratio = _nanoseconds(one, FUSEDOPT, threads), one.ratio(FUSEDOPT, threads)
        cells = (
            "" if time is None else f"{time:.2f}" if time < 10 else f"{time:.0f}",
            "-" if ratio is None else f"{ratio:.2f}",
        )
        for text, x in zip(cells, (1.09, 1.21), strict=True):
            axes.text(x, place, text, transform=at_the_right, ha="right", va="center")


def _typeset(elements: str) -> str:
    return re.sub(r"\^(\d+)", r"$^{\1}$", elements)


def _nanoseconds(one: Measurement, name: str, threads: int) -> float | None:
    entry = one.find(name, threads)
    return entry.median * NANO / one.elements if entry else None
