"""One subject of `history.py`: times the steps of one build of fusedopt, turn by turn, as it is told.

It runs as a process of its own, on the public names of the package alone, so that builds of many ages can answer. Each
line of standard input asks for something, and one line of standard output answers:

    ["cases"]          the names of all cases
    ["begin", name]    makes a case ready; an error text if this build cannot run it, else null
    ["turn", seconds]  steps for about so long; the seconds per step

    history_worker.py [FOLDER...]    folders where Python looks for packages first
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

sys.path[:0] = sys.argv[1:]

import fusedopt as fo  # noqa: E402
import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

Array = npt.NDArray[Any]
Step = Callable[[], object]
# In the first caches, and in no cache.
SMALL, LARGE = (128, 128), (1024, 1024)
PIECES = 5
WRAPPERS = {"LossScaleOptimizer", "MultiOptimizer", "Optimizer", "OptimizerMap", "Sharded"}
PRODUCTS = {"Muon"}


def steps(optimizer: Any, gradient: Any, *variables: Array) -> Step:
    optimizer.build(list(variables))
    gradients = [gradient] * len(variables)
    return lambda: optimizer.apply(gradients)


def noise(shape: int | tuple[int, int], dtype: type = np.float32) -> Array:
    return (np.random.default_rng(1).standard_normal(shape) * 0.1).astype(dtype)


def of_rule(name: str, shape: tuple[int, int]) -> Step:
    return steps(getattr(fo, name)(), noise(shape), noise(shape))


def clipped() -> Step:
    return steps(fo.AdamW(global_clipnorm=1.0, use_ema=True), noise(LARGE), noise(LARGE))


def mixed() -> Step:
    optimizer = fo.LossScaleOptimizer(fo.AdamW(global_clipnorm=1.0), initial_scale=1024.0)
    return steps(optimizer, noise(LARGE, np.float16), noise(LARGE, np.float16))


def coded() -> Step:
    return steps(fo.AdamW(slot_dtype="float8"), noise(LARGE), noise(LARGE))


def rows() -> Step:
    table = noise((2**16, 32))
    indices = np.random.default_rng(2).permutation(len(table))[:1000]
    gradient = fo.RowGradient(noise((len(indices), 32)), indices)
    return steps(fo.Adam(row_updates="lazy"), gradient, table)


def cases() -> Iterator[tuple[str, Callable[[], Step]]]:
    for name in fo.__all__:
        if isinstance(getattr(fo, name), type) and name[0].isupper() and name not in WRAPPERS:
            if not issubclass(getattr(fo, name), fo.Optimizer):
                continue
            for shape in (SMALL,) if name in PRODUCTS else (SMALL, LARGE):
                elements = f"2^{(shape[0] * shape[1]).bit_length() - 1}"
                yield f"{name}, {elements}", functools.partial(of_rule, name, shape)
    yield "AdamW, 64 elements", lambda: steps(fo.AdamW(), noise(64), noise(64))
    many = [noise(64) for _ in range(500)]
    yield "AdamW, 500 times 64 elements", lambda: steps(fo.AdamW(), noise(64), *many)
    yield "AdamW, clipped and averaged", clipped
    yield "AdamW, float16", mixed
    yield "AdamW, slots of 8 bits", coded
    yield "Adam, 1000 rows", rows


def timed(step: Step, repetitions: int) -> float:
    begin = time.perf_counter()
    for _ in range(repetitions):
        step()
    return (time.perf_counter() - begin) / repetitions


def turn(step: Step, seconds: float) -> float:
    """Return the median of some pieces, after steps that fill the caches."""
    single = min(timed(step, 1) for _ in range(3))
    repetitions = max(1, round(seconds / PIECES / single))
    return statistics.median(timed(step, repetitions) for _ in range(PIECES))


def answer(known: dict[str, Callable[[], Step]], ready: list[Step], request: list) -> object:
    match request:
        case ["cases"]:
            return list(known)
        case ["begin", name]:
            ready.clear()
            try:
                ready.append(known[name]())
                ready[0]()
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                return f"{type(error).__name__}: {error}"
            return None
        case ["turn", seconds]:
            return turn(ready[0], seconds)
    raise ValueError(f"unknown request: {request}")


def main() -> None:
    known, ready = dict(cases()), []
    for line in sys.stdin:
        print(json.dumps(answer(known, ready, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
