"""The picture of row gradients: a step's time over the rows that it touches, and over the rows of the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from fusedopt.bench.picture import COLOURS, STYLE, save
from fusedopt.bench.results import FUSEDOPT, LIMIT, Measurement, Results
from fusedopt.bench.tables import thread_count
from matplotlib.figure import Figure
from row_steps import DENSE, rows_of, touched_of

STYLES: dict[str, dict[str, Any]] = {
    LIMIT: {"color": COLOURS[LIMIT], "linestyle": "--", "linewidth": 1},
    FUSEDOPT: {"color": COLOURS[FUSEDOPT], "marker": "o", "zorder": 4},
    "SparseAdam": {"color": "#D55E00", "marker": "D"},
    "lazy NumPy": {"color": "#009E73", "marker": "^"},
}
NAMES = {LIMIT: "moving its bytes", "SparseAdam": "PyTorch SparseAdam"}
MILLI = 1e3


def draw(results: Results, path: Path) -> None:
    """Write the picture, for the largest number of threads."""
    missing = [section for section in ("touched", "tables") if not results.of(section)]
    if missing:
        raise SystemExit(f"--plot: expected a run of the section {missing[0]}, found none of it")
    threads = results.threads[-1]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        _curves(left, results.of("touched"), touched_of, threads)
        _dense(left, results.of("nearly all"), threads)
        left.set_xlabel("gradients of rows in a step")
        left.set_ylabel("milliseconds per step")
        table = rows_of(results.of("touched")[-1])
        left.set_title(f"AdamW on a table of {table:,} rows", fontsize=10, loc="left")
        _curves(right, results.of("tables"), rows_of, threads)
        right.set_xlabel("rows of the table")
        touched = touched_of(results.of("tables")[-1])
        title = f"{touched:,} rows in a step, {thread_count(threads)}"
        right.set_title(title, fontsize=10, loc="left")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
        save(figure, path)


def _curves(axes: Any, measurements: list[Measurement], place_of: Any, threads: int) -> None:
    for name, style in STYLES.items():
        found = [(place_of(one), one.find(name, threads)) for one in measurements]
        points = [(place, entry.median * MILLI) for place, entry in found if entry]
        if points:
            axes.plot(*zip(*points, strict=True), label=NAMES.get(name, name), **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _dense(axes: Any, measurements: list[Measurement], threads: int) -> None:
    for one in measurements[:1]:
        entry = one.find(DENSE, threads)
        if entry:
            axes.axhline(
                entry.median * MILLI, color="#999999", linestyle=":", label="fusedopt, dense step"
            )
