"""Muon with NumPy's and PyTorch's matrix products, against those products alone and against PyTorch's and Keras's Muon.

`KERAS_BACKEND=torch python bench/products.py 512 1024`, on square matrices of these sides. Everybody runs once per
round, in an order that changes from round to round. Printed are the median and the minimum of the times, and the median
of the ratios to the time of torch.optim.Muon in the same round. For a step of fusedopt the last column is the median of
the time that its products take alone, by its own time in the same round.
"""

from __future__ import annotations

import argparse
import statistics
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

BITS_OF_ONE = 0x3F80  # in bfloat16


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

        record.dtype = getattr(product, "dtype", "float32")  # type: ignore[attr-defined]
        recorded = fo.Muon(matrix_product=record)
        recorded.build([w.copy()])
        recorded.apply([g])
        polynomial = calls[-1][0]
        one = BITS_OF_ONE if polynomial.dtype == np.uint16 else 1
        polynomial[...] = one * np.eye(side)  # else each turn would multiply the matrix once more
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


def ratio(times: list[float], others: list[float]) -> float:
    """Median of the ratios within a round."""
    return statistics.median(x / y for x, y in zip(times, others, strict=True))


def main() -> None:
    """Race them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sides", nargs="*", type=int, default=[512, 1024], help="rows and columns")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    for side in arguments.sides:
        steps = contestants(side)
        times: dict[str, list[float]] = {name: [] for name in steps}
        names = list(steps)
        for turn in range(arguments.rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                time.sleep(0.02)
                steps[name]()
                begin = time.perf_counter()
                steps[name]()
                times[name].append(1e3 * (time.perf_counter() - begin))
        for name, found in times.items():
            line = f"{side:5}  {name:26} {statistics.median(found):8.2f} ms ({min(found):.2f})"
            line += f"{ratio(found, times['torch.optim.Muon']):8.2f} x torch"
            alone = times.get(name.replace("fusedopt", "products"), found)
            if alone is not found:
                line += f"   products {ratio(alone, found):.0%}"
            print(line)


if __name__ == "__main__":
    main()
