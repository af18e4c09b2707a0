"""Muon with NumPy's and PyTorch's matrix products, beside those products alone and beside PyTorch's and Keras's Muon.

`KERAS_BACKEND=torch python bench/products.py 512 1024`, on square matrices of these sides.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import fusedopt as fo
import keras
import numpy as np
import torch
from fusedopt import torch_products

PRODUCTS = {
    "numpy.matmul": np.matmul,
    "torch, float32": torch_products.matmul,
    "torch, bfloat16": torch_products.bfloat16_matmul,
}


def contestants(side: int) -> dict[str, Callable[[], object]]:
    """Steps on one matrix."""
    rng = np.random.default_rng(0)
    w, g = (rng.standard_normal((side, side)).astype(np.float32) for _ in range(2))
    steps: dict[str, Callable[[], object]] = {}
    for name, product in PRODUCTS.items():
        calls: list[Any] = []

        def record(*call: Any, product: Any = product, calls: list[Any] = calls) -> None:
            calls.append(call)
            product(*call)

        recorded = fo.Muon(matrix_product=record)
        recorded.build([w.copy()])
        recorded.apply([g])
        calls[-1][0][...] = np.eye(side)  # else each turn would multiply the matrix once more
        optimizer = fo.Muon(matrix_product=product)
        optimizer.build([w.copy()])
        steps[f"fusedopt, {name}"] = lambda optimizer=optimizer: optimizer.apply([g])  # type: ignore[misc]
        steps[f"products, {name}"] = lambda product=product, calls=list(calls), _=recorded: [  # type: ignore[misc]
            product(*call) for call in calls
        ]
    parameter = torch.nn.Parameter(torch.from_numpy(w.copy()))
    parameter.grad = torch.from_numpy(g.copy())
    steps["torch.optim.Muon"] = torch.optim.Muon([parameter], lr=1e-3).step
    variable, gradient = keras.Variable(w), torch.from_numpy(g)
    of_keras = keras.optimizers.Muon()
    of_keras.build([variable])

    def step_of_keras() -> None:
        with torch.no_grad():
            of_keras.apply([gradient])

    steps["keras.optimizers.Muon"] = step_of_keras
    return steps


def main() -> None:
    """Race them, in an order that changes from round to round."""
    for side in [int(text) for text in sys.argv[1:]] or [512, 1024]:
        steps = contestants(side)
        times: dict[str, list[float]] = {name: [] for name in steps}
        names = list(steps)
        for turn in range(15):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                time.sleep(0.02)
                steps[name]()
                begin = time.perf_counter()
                steps[name]()
                times[name].append(1e3 * (time.perf_counter() - begin))
        for name, found in times.items():
            print(f"{side}  {name:26} {statistics.median(found):8.2f} ms ({min(found):.2f})")


if __name__ == "__main__":
    main()
