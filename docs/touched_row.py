"""Draw docs/touched_row.png: a weight whose row has gradients at steps 1 and 9, and the two meanings of the others.

Run it in a clone of the repository: ``python docs/touched_row.py``. The numbers are those of fusedopt itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
from matplotlib.figure import Figure

STEPS, TOUCHED = 12, (1, 9)
STYLES: dict[str, dict[str, Any]] = {
    "dense": {"color": "#c9ced6", "linewidth": 6, "label": "dense gradients"},
    "caught_up": {"color": "#2f6db3", "marker": "o", "label": 'row_updates="caught_up"'},
    "lazy": {"color": "#d9822b", "marker": "s", "label": 'row_updates="lazy"'},
}


def weights(kind: str) -> list[tuple[float, float]]:
    """Follow a weight through the steps: where it lies before and after each of them."""
    table = np.ones((2, 1))
    row_updates: Any = "lazy" if kind == "dense" else kind
    optimizer = fo.SGD(0.05, momentum=0.7, weight_decay=0.3, row_updates=row_updates)
    optimizer.build([table])
    found = [(0.0, 1.0)]
    for step in range(1, STEPS + 1):
        row = 0 if step in TOUCHED else 1
        if kind == "dense":
            gradient: Any = np.zeros((2, 1))
            gradient[row] = 1.0
        else:
            gradient = fo.RowGradient(np.ones((1, 1)), np.array([row]))
            if row == 0:
                optimizer.catch_up(table, np.array([0]))
                found.append((step - 1, table[0, 0]))
        optimizer.apply([gradient])
        found.append((step, table[0, 0]))
    return found


def main() -> None:
    """Write the picture next to this file."""
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    axes = figure.subplots()
    for step in TOUCHED:
        axes.axvspan(step - 1, step, color="#f0f0f0")
        axes.text(step - 0.5, 1.03, "touched", ha="center", va="bottom", color="#777777")
    for kind, style in STYLES.items():
        axes.plot(*zip(*weights(kind), strict=True), markersize=4, **style)
    axes.set(xlabel="step", ylabel="a weight of the row", xlim=(0, STEPS))
    axes.set_xticks(range(STEPS + 1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
