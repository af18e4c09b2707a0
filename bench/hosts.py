"""The optimizers in their hosts, next to the hosts' own: goals, and whether they are met.

    pip install ".[bench,torch,thinc]"
    python bench/hosts.py --markdown bench/results/hosts.md docs/hosts.md

All take turns in one process, on one thread and on two, in an order that changes from round to round. What counts is
the shortest time of each, which a busy machine disturbs least.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault(
    "TORCHINDUCTOR_COMPILE_THREADS", "1"
)  # no processes that work during a measurement

import fusedopt as fo
import fusedopt.thinc
import fusedopt.torch
import numpy as np
import thinc.api
import torch
from fusedopt.bench import environment
from fusedopt.bench.timing import BRIEF, QUICK, Effort, Participant, Step, race
from host_report import Report

OURS = "fusedopt"
# A step with the same sweep without what is asked about.
BASE = "base"
MOST_COMPILED_TENSORS = 200  # PyTorch's compiler needs minutes for more
THREADS = (1, 2)

Shapes = list[tuple[int, ...]]


@dataclass(frozen=True)
class Case:
    """Steps that take turns, and what is promised about them."""

    name: str
    steps: Callable[[], dict[str, Step]]
    goal: float
    pieces: int = 0
    """Of what the cost is asked, or 0 if the ratio to the best of the others is."""
    unit: str = "times"

    def measured(self, seconds: dict[str, float]) -> float:
        """Return how many times faster ours is, or what one more of the pieces costs."""
        base = seconds.get(BASE, 0.0)
        ours = seconds[OURS] - base
        if self.pieces:
            return ours / self.pieces * {"us": 1e6, "ns": 1e9}[self.unit]
        return (min(t for name, t in seconds.items() if name not in (OURS, BASE)) - base) / ours

    def is_met(self, value: float) -> bool:
        return value <= self.goal if self.pieces else value >= self.goal

    def said_goal(self) -> str:
        return f"{'at most' if self.pieces else 'at least'} {self.goal:g} {self.unit}"


def parameters(shapes: Shapes) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for shape in shapes:
        parameter = torch.nn.Parameter(0.1 * torch.randn(shape, generator=generator))
        parameter.grad = torch.randn(shape, generator=generator)
        made.append(parameter)
    return made


def adamw(shapes: Shapes) -> dict[str, Step]:
    """AdamW with clipping by the norm of all gradients."""
    own = parameters(shapes)

    def clipped(optimizer: torch.optim.Optimizer) -> None:
        torch.nn.utils.clip_grad_norm_(own, 1.0)
        optimizer.step()

    steps: dict[str, Step] = {OURS: fusedopt.torch.AdamW(own, max_norm=1.0).step}
    for form in ("fused", "foreach"):
        steps[form] = partial(clipped, torch.optim.AdamW(own, **{form: True}))  # type: ignore[arg-type]
    if len(own) <= MOST_COMPILED_TENSORS:
        torch.compiler.reset()
        steps["compiled"] = partial(torch.compile(clipped), torch.optim.AdamW(own, foreach=True))
    return steps


def against_foreach(rule: str, elements: int) -> dict[str, Step]:
    own = parameters([(elements,)])
    ours = getattr(fusedopt.torch, rule)(own)
    return {OURS: ours.step, "foreach": getattr(torch.optim, rule)(own, foreach=True).step}


def groups(number: int, tensors: int) -> dict[str, Step]:
    """The same tensors in one group and in several."""
    own = parameters([(16,)] * tensors)
    each = tensors // number
    cut = [{"params": own[i : i + each]} for i in range(0, tensors, each)]
    return {OURS: fusedopt.torch.AdamW(cut).step, BASE: fusedopt.torch.AdamW(own).step}


def thinc_adam(elements: int) -> dict[str, Step]:
    """Adam with averages, which thinc calls with a gradient that it gets back zeroed."""
    rng = np.random.default_rng(0)
    source = rng.standard_normal(elements, np.float32)
    weights, gradient = rng.standard_normal(elements, np.float32), source.copy()

    def fill() -> None:
        gradient[...] = source

    def step(optimizer: Any) -> None:
        fill()
        optimizer((1, "W"), weights, gradient)

    return {
        OURS: partial(step, fusedopt.thinc.Adam(1e-3)),
        "thinc": partial(step, thinc.api.Adam(1e-3)),
        BASE: fill,
    }


def torch_gradients(tensors: int, elements: int) -> dict[str, Step]:
    """The same step with gradients of PyTorch's and of NumPy's."""
    variables, gradients = np.ones((2, tensors, elements), np.float32)
    optimizer = fo.AdamW()
    optimizer.build(list(variables))
    arrays = list(gradients)
    tensors_of_torch = [torch.from_numpy(g) for g in arrays]
    return {
        OURS: lambda: optimizer.apply(tensors_of_torch),
        BASE: lambda: optimizer.apply(arrays),
    }


def transformer(layers: int, width: int, letters: int, places: int) -> Shapes:
    """Name the shapes of a GPT whose embedding is its head."""
    block: Shapes = [(width,), (width,), (3 * width, width), (3 * width,), (width, width), (width,)]
    block += [(width,), (width,), (4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    return [(letters, width), (places, width), *block * layers, (width,), (width,)]


def cases(*, quick: bool) -> Iterator[Case]:
    small, gpt_2 = transformer(4, 128, 192, 128), transformer(12, 768, 50257, 1024)
    many, large, medium, grouped = 1000, 24, 20, 110
    if quick:
        small, gpt_2 = transformer(1, 8, 8, 8), transformer(1, 16, 16, 16)
        many, large, medium, grouped = 20, 12, 10, 11
    elements = sum(int(np.prod(shape)) for shape in small)
    clipped = "AdamW, max_norm"
    yield Case(
        f"{clipped}, {len(small)} tensors of {elements / 1000:.0f} k elements",
        partial(adamw, small),
        3.0,
    )
    yield Case(f"{clipped}, GPT-2 small, {len(gpt_2)} tensors", partial(adamw, gpt_2), 1.2)
    yield Case(f"{clipped}, {many:,} tensors of 1,024", partial(adamw, [(1024,)] * many), 15.0)
    for rule in ("RMSprop", "NAdam", "Adamax", "Adadelta"):
        yield Case(f"{rule}, 2^{large}", partial(against_foreach, rule, 2**large), 3.0)
    yield Case("AdamW, one more group", partial(groups, 11, grouped), 2.0, 10, "us")
    yield Case(f"thinc's Adam with averages, 2^{medium}", partial(thinc_adam, 2**medium), 5.0)
    yield Case(
        "a PyTorch gradient of 64 more than NumPy's",
        partial(torch_gradients, 256, 64),
        100.0,
        256,
        "ns",
    )


def microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:,.3g} us" if seconds < 1e-3 else f"{seconds * 1e3:,.3g} ms"


def run(case: Case, effort: Effort) -> Iterator[list[str]]:
    """Let all of a case take turns, and return a row per number of threads."""
    steps = case.steps()
    racing = [
        Participant(name, threads, step) for threads in THREADS for name, step in steps.items()
    ]
    race(racing, effort, environment.set_threads)
    for threads in THREADS:
        best = {one.name: np.nanmin(one.seconds) for one in racing if one.threads == threads}
        value = case.measured(best)
        others = ", ".join(
            f"{'without' if name == BASE else name} {microseconds(t)}"
            for name, t in best.items()
            if name != OURS
        )
        met = "yes" if case.is_met(value) else "NO"
        said = f"{value:.3g} {case.unit}"
        yield [
            case.name,
            str(threads),
            microseconds(best[OURS]),
            others,
            said,
            case.said_goal(),
            met,
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="small sizes; the figures mean nothing"
    )
    parser.add_argument(
        "--only",
        nargs="*",
        default=[""],
        metavar="TEXT",
        help="only steps whose name has one of these",
    )
    parser.add_argument("--markdown", nargs="*", default=[], type=Path, metavar="FILE")
    arguments = parser.parse_args()

    environment.prepare()
    torch.set_grad_enabled(False)
    made = Report(
        name="hosts",
        title="Optimizers in their hosts",
        columns=["step", "threads", OURS, "others", "measured", "goal", "met"],
        reading="Times are the shortest of all rounds.",
        packages=["numpy", "torch", "thinc"],
    )
    for case in cases(quick=arguments.quick):
        if any(text in case.name for text in arguments.only):
            print(case.name, flush=True)
            made.rows += run(case, QUICK if arguments.quick else BRIEF)
    made.show(arguments.markdown)


if __name__ == "__main__":
    main()
