"""Steps every rule of an installed fusedopt and compares the results with recorded bits.

It needs nothing but the package, so it runs wherever a wheel does: on every level of the processor, on one thread and
on several. A result is the CRC-32 of all weights and state after some steps. Everything is float32, whose bits do not
feel the last bit of a `pow`.

    python smoke.py                   compares; exits with 1 if a result has other bits
    python smoke.py --import torch    also imports another library, which may bring an OpenMP of its own
    python smoke.py --record          writes the results of this machine into bits.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import numpy.typing as npt
from fusedopt.rules.rule_optimizer import RuleOptimizer

RECORDED = Path(__file__).with_name("bits.json")
STEPS = 5
# Enough for a step to go to several threads.
MANY = 2**20
Array = npt.NDArray[Any]


def numbers(count: int, seed: int) -> Array:
    """Make float32 in [-0.5, 0.5) by exact operations alone."""
    words = (np.arange(count, dtype=np.uint64) + np.uint64(seed * 7919)) * np.uint64(2654435761)
    return ((words >> np.uint64(8)) % np.uint64(2**16)).astype(np.float32) / np.float32(2**16) - (
        np.float32(0.5)
    )


def product_in_order(a: Array, b: Array, out: Array) -> None:
    """Multiply matrices term by term, because the bits of a BLAS are its own."""
    out[...] = 0
    for k in range(a.shape[1]):
        out += a[:, k, None] * b[None, k]


def rules() -> Iterator[str]:
    """Name the exported rules."""
    for name in fo.__all__:
        one = getattr(fo, name)
        if isinstance(one, type) and issubclass(one, RuleOptimizer):
            yield name


def stepped(optimizer: Any, gradient_of: Callable[[Array, int], Any], *variables: Array) -> int:
    """Take some steps, and return the CRC-32 of all that they left."""
    optimizer.build({f"layer/{place}": variable for place, variable in enumerate(variables)})
    for step in range(STEPS):
        gradients = [gradient_of(variable, step) for variable in variables]
        optimizer.apply(gradients)
    code = 0
    for array in (*variables, *optimizer.variables):
        code = zlib.crc32(np.ascontiguousarray(array).tobytes(), code)
    return code


def dense(variable: Array, step: int) -> Array:
    return numbers(variable.size, 100 + step).reshape(variable.shape).astype(variable.dtype)


def scaled(variable: Array, step: int) -> Array:
    """Make float16, with an infinity in the third step."""
    gradient = (dense(variable, step) * 1024).astype(np.float16)
    if step == 2:
        gradient.flat[0] = np.inf
    return gradient


def rows(variable: Array, step: int) -> Any:
    indices = np.array([3, 11, 3, 30]) + step
    values = numbers(4 * variable.shape[1], 200 + step).reshape(4, -1)
    return fo.RowGradient(values, indices)


def results() -> Iterator[tuple[str, int]]:
    """Yield what the rules come to, and then what some options do."""

    def variables(dtype: type = np.float32) -> list[Array]:
        return [numbers(37 * 29, 1).reshape(37, 29).astype(dtype), numbers(1500, 2).astype(dtype)]

    for name in rules():
        own = {"matrix_product": product_in_order} if name == "Muon" else {}
        yield name, stepped(getattr(fo, name)(learning_rate=0.01, **own), dense, *variables())
    clipped = fo.AdamW(learning_rate=0.01, global_clipnorm=1.0, use_ema=True)
    yield (
        "float16, scaled, clipped",
        stepped(fo.LossScaleOptimizer(clipped), scaled, *variables(np.float16)),
    )
    coded = fo.Adam(learning_rate=0.01, slot_dtype="float8")
    yield "slots of 8 bits", stepped(coded, dense, numbers(2**13, 3))
    few = fo.Adagrad(learning_rate=0.01, row_updates="lazy")
    yield "rows", stepped(few, rows, numbers(64 * 16, 4).reshape(64, 16))
    yield "many elements", stepped(fo.AdamW(learning_rate=0.01), dense, numbers(MANY, 5))


def programs(peer: str | None) -> dict[str, str]:
    """Name the ways to get the results. What is imported first decides whose OpenMP runs the steps."""
    steps = f"import runpy; runpy.run_path({__file__!r}, {{}}, 'steps')"
    if peer is None:
        return {"": steps}
    return {
        f", {peer} first": f"import {peer}; {steps}",
        f", {peer} second": f"import fusedopt, {peer}; {steps}",
    }


def on_every_level(peer: str | None) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield a name and the results of every level and number of threads, each in a process of its own."""
    levels = fo.show_config()["levels_supported"]
    for threads in ("1", "2") if fo.show_config()["openmp"] else ("1",):
        for level in levels:
            for name, program in programs(peer).items():
                done = subprocess.run(
                    [sys.executable, "-c", program],
                    env={**os.environ, "FUSEDOPT_ISA": level, "FUSEDOPT_NUM_THREADS": threads},
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                yield f"{level}, threads: {threads}{name}", json.loads(done.stdout)


def compare(peer: str | None) -> int:
    """Print what differs from the recording, and return the exit status."""
    expected = json.loads(RECORDED.read_text(encoding="utf-8"))
    failed = False
    for name, found in on_every_level(peer):
        wrong = [case for case in {**expected, **found} if expected.get(case) != found.get(case)]
        failed |= bool(wrong)
        print(f"{name}: {len(found)} results,", "DIFFERENT: " + ", ".join(wrong) if wrong else "ok")
    config = fo.show_config()
    print(f"fusedopt {config['version']}, {config['compiler']}, numpy {np.__version__}")
    return int(failed)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--import", dest="peer", help="a library to import before, and then after fusedopt"
    )
    parser.add_argument("--record", action="store_true", help=f"write {RECORDED.name}")
    options = parser.parse_args()
    if options.record:
        RECORDED.write_text(json.dumps(dict(results()), indent=2) + "\n", encoding="utf-8")
        return 0
    return compare(options.peer)


if __name__ == "steps":
    print(json.dumps(dict(results())))
elif __name__ == "__main__":
    sys.exit(main())
