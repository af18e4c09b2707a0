"""The picture of slots in fewer bits: how v follows, how large an update becomes, and what a training makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from fusedopt.bench.picture import STYLE, save
from fusedopt.bench.results import Results
from low_bit_goals import BOUND, NAMES, Record, differences
from low_bit_trainers import FLOAT32, OURS
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

# Okabe and Ito's colours, apart for every kind of colour vision.
COLOURS = dict(
    zip(
        NAMES,
        ("#444444", "#56B4E9", "#0072B2", "#E69F00", "#D55E00", "#CC79A7", "#009E73"),
        strict=True,
    )
)
MARKERS = dict(zip(NAMES, "osoDv^X", strict=True))
NEEDED = ("averages", "largest", "characters")


def draw(results: Results, path: Path) -> None:
    """Write the picture."""
    missing = [section for section in NEEDED if section not in results.more]
    if missing:
        raise SystemExit(f"--plot: expected a run of the section {missing[0]}, found none of it")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 3.9), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        _averages(left, results.more["averages"])
        _largest(middle, results.more["largest"])
        _characters(right, results.more["characters"])
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(NAMES), frameon=False)
        save(figure, path)


def _averages(axes: Any, found: Record) -> None:
    for name in NAMES:
        curve = found[name]["curve"]
        steps = [one["step"] for one in curve]
        low, median, high = zip(*(one["quantiles"] for one in curve), strict=True)
        marks = {"marker": MARKERS[name], "markevery": [-1], "markersize": 5}
        axes.plot(steps, median, color=COLOURS[name], label=name, linewidth=1.6, **marks)
        if name in OURS:
            axes.fill_between(steps, low, high, color=COLOURS[name], alpha=0.2, linewidth=0)
    drop = found[FLOAT32]["steady"]["step"]
    axes.axvline(drop, color="#999999", linestyle=":")
    axes.annotate(
        "gradients become\na hundredth ",
        (drop, 0.97),
        xycoords=("data", "axes fraction"),
        ha="right",
        va="top",
    )
    axes.set_yscale("log")
    axes.set_yticks([0.5, 1, 2, 5], ["0.5", "1", "2", "5"])
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("steps")
    _title(axes, "root of v over float32's: median, 1 % to 99 %")


def _largest(axes: Any, found: Record) -> None:
    kinds = list(found)
    for place, name in enumerate(NAMES):
        sizes = [found[kind][name] for kind in kinds]
        rows = [row + 0.1 * (place - len(NAMES) // 2) for row in range(len(kinds))]
        axes.plot(sizes, rows, MARKERS[name], color=COLOURS[name], markersize=4)
    axes.axvline(BOUND, color="#999999", linestyle=":")
    axes.annotate(f" {BOUND}", (BOUND, 0.99), xycoords=("data", "axes fraction"), va="top")
    axes.set_xscale("log")
    axes.set_yticks(range(len(kinds)), [kind.replace("10^6", "10$^6$") for kind in kinds])
    axes.invert_yaxis()
    axes.set_xlabel("learning rates")
    _title(axes, "largest update for hostile gradients")


def _characters(axes: Any, seeds: list[Record]) -> None:
    gaps = differences(seeds, "bits", relative=True)
    names = NAMES[1:]
    for place, name in enumerate(names):
        values = gaps[name]
        axes.plot(values, [place] * len(values), MARKERS[name], color=COLOURS[name], markersize=4)
        mean = sum(values) / len(values)
        axes.vlines(mean, place - 0.3, place + 0.3, color=COLOURS[name], linewidth=2.5)
    axes.axvline(0, color=COLOURS[FLOAT32], linewidth=1)
    for bound in (-0.5, 0.5):
        axes.axvline(bound, color="#999999", linestyle=":")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("% from float32; a point for each seed")
    _title(axes, "bits per character, validation")


def _title(axes: Any, text: str) -> None:
    axes.set_title(text, fontsize=10, loc="left")
