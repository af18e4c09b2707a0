"""The picture for the first page: everyone against the memory limit, and AdamW over sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from fusedopt.bench import picture
from fusedopt.bench.picture import STYLE, save
from fusedopt.bench.results import FUSEDOPT, LIMIT, Measurement, Results
from fusedopt.bench.tables import thread_count
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from sections import FLAGSHIP

COLOURS = picture.COLOURS | {
    "PyTorch compiled": "#56B4E9",
    "optax": "#F0E442",
    "naive NumPy": "#009E73",
}
MARKERS = picture.MARKERS | {"PyTorch compiled": "P", "optax": "X", "naive NumPy": "^"}
OTHER_COLOUR = "#999999"
BAR, GAP = 0.8, 0.25
FEWEST_ROWS = 6
PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 1}
BARS_AT, BARS_AT_TEXT = 2**24, "2^{24}"
NANO = 1e9
SHOWN_AS_WHOLE = 10


def draw(results: Results, path: Path) -> None:
    """Write the picture, for the largest number of threads."""
    if not results.of("sizes"):
        raise SystemExit("--plot: expected a run of the section sizes, found none of it")
    threads = results.threads[-1]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 4.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        _bars(left, _groups(results), threads)
        _curves(right, [one for one in results.of("sizes") if one.label == FLAGSHIP], threads)
        save(figure, path)


def _groups(results: Results) -> list[tuple[str, Measurement]]:
    """Choose a rule that others fuse too, one that nobody fuses, and everything at once."""
    groups = []
    for rule in (FLAGSHIP, "RMSprop"):
        groups += [
            (f"{rule}, float32", one)
            for one in results.of("sizes")
            if (one.label, one.elements) == (rule, BARS_AT)
        ]
    for one in results.of("mixed"):
        if one.elements == BARS_AT:
            groups.append((f"{FLAGSHIP}, float16 gradients, check, clip, average", one))
    return groups


def _bars(axes: Any, groups: list[tuple[str, Measurement]], threads: int) -> None:
    position, ticks, labels, longest = 0.0, [], [], 1.0
    for title, one in groups:
        axes.text(0, position, f" {title}", fontweight="bold", va="center", bbox=PAPER)
        position += 1
        ratios = {name: one.ratio(name, threads) for name in one.names if name != LIMIT}
        known = {name: ratio for name, ratio in ratios.items() if ratio is not None}
        for name, ratio in sorted(known.items(), key=lambda pair: pair[1]):
            axes.barh(position, ratio, height=BAR, color=COLOURS.get(name, OTHER_COLOUR))
            axes.text(ratio, position, f" {_number(ratio)}", va="center")
            ticks.append(position)
            labels.append(name)
            longest = max(longest, ratio)
            position += 1
        position += GAP
    axes.axvline(1, color=COLOURS[LIMIT], linestyle="--", linewidth=1, zorder=0)
    axes.set_xlim(0, longest * 1.1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines.left.set_visible(False)
    axes.set_yticks(ticks, labels)
    axes.tick_params(axis="y", length=0)
    # The automatic margin grows with few bars, and knows nothing of their titles.
    axes.set_ylim(max(position - GAP, FEWEST_ROWS) - BAR / 2, -BAR)
    axes.set_xlabel("time of a step / time of moving its bytes")
    axes.set_title(f"${BARS_AT_TEXT}$ elements, {thread_count(threads)}", fontsize=10, loc="left")


def _curves(axes: Any, measurements: list[Measurement], threads: int) -> None:
    names = list(dict.fromkeys(name for one in measurements for name in one.names))
    for name in names:
        if name not in MARKERS and name != LIMIT:
            continue
        found = [(one.elements, one.find(name, threads)) for one in measurements]
        points = [(elements, entry.median * NANO / elements) for elements, entry in found if entry]
        is_limit = name == LIMIT
        axes.plot(
            *zip(*points, strict=True),
            color=COLOURS[name],
            marker=None if is_limit else MARKERS[name],
            linestyle="--" if is_limit else "-",
            linewidth=1 if is_limit else 1.6,
            markersize=4,
            label="moving its bytes" if is_limit else name,
            zorder=4 if name == FUSEDOPT else 3,
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2**4, subs=(2**2,), numticks=99))
    axes.set_yscale("log")
    axes.set_xlabel("elements of one tensor")
    axes.set_ylabel("nanoseconds per element")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)
    axes.set_title(f"{FLAGSHIP} over sizes", fontsize=10, loc="left")


def _number(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= SHOWN_AS_WHOLE else f"{ratio:.2f}"
