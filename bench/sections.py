"""The workloads of each section: the rules of the tests' table of cases, on shapes that users have.

A rule added to that table joins by itself.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import fusedopt as fo
import numpy as np
from fusedopt.bench.limit import traffic_of
from fusedopt.bench.rules import MOST_ELEMENTS_OF_PRODUCTS
from fusedopt.bench.workload import Arguments, Workload, power_of_two, squarest
from mixed import MixedWorkload

FLAGSHIP = "AdamW"
SIZES = [2**power for power in (6, 9, 12, 14, 16, 18, 20, 22, 24, 26)]
FEW_SIZES = [2**6, 2**16, 2**24, 2**26]
QUICK_SIZES = [2**6, 2**12, 2**17]
QUICK_FEW_SIZES = [2**6, 2**15]
# The side of a square.
MATRICES = {"Adafactor": 4096, "Muon": 1024}
QUICK_SIDE = 64
SMALL = 64

Shapes = tuple[tuple[int, ...], ...]


def of_tests(module: str) -> ModuleType:
    """Import one of the tests' modules: they hold the table of cases and the formulas."""
    folder = str(Path(__file__).parent.parent / "tests")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(module)


RULES: dict[str, list[Arguments]] = of_tests("cases").RULES
OPTIONS: dict[str, Arguments] = of_tests("cases").OPTIONS
MIXED: Arguments = {"global_clipnorm": 1.0, "use_ema": True}


def main_variant(rule: str) -> Arguments:
    """Find the first variant in the table that has slots, as most users' optimizers have."""
    for arguments in RULES[rule]:
        optimizer = getattr(fo, rule)(**arguments)
        optimizer.build([np.zeros(1, np.float32)])
        if any(variable.ndim for variable in optimizer.variables):
            return arguments
    return RULES[rule][0]


def one_tensor(section: str, rule: str, arguments: Arguments, elements: int) -> Workload:
    """A matrix, of fewer elements if a rule's time goes into products of matrices."""
    workload = Workload(section, power_of_two(elements), rule, arguments, (squarest(elements),))
    if traffic_of(workload).bytes is None and elements > MOST_ELEMENTS_OF_PRODUCTS:
        return one_tensor(section, rule, arguments, MOST_ELEMENTS_OF_PRODUCTS)
    return workload


def gpt2_shapes(
    width: int = 768, depth: int = 12, vocabulary: int = 50257, context: int = 1024
) -> Shapes:
    """List the tensors of GPT-2, by default of the small one: 148 of them."""
    norm = [(width,), (width,)]

    def dense(inputs: int, outputs: int) -> list[tuple[int, ...]]:
        return [(inputs, outputs), (outputs,)]

    block = [
        *norm,
        *dense(width, 3 * width),
        *dense(width, width),
        *norm,
        *dense(width, 4 * width),
        *dense(4 * width, width),
    ]
    return ((vocabulary, width), (context, width), *(block * depth), *norm)


def sizes(counts: list[int], few_counts: list[int]) -> Iterator[Workload]:
    """One tensor of each size: many for the flagship, few for every other rule."""
    for rule in sorted(RULES, key=lambda rule: (rule != FLAGSHIP, rule)):
        arguments = main_variant(rule)
        for elements in counts if rule == FLAGSHIP else few_counts:
            workload = one_tensor("sizes", rule, arguments, elements)
            if workload.elements == elements:
                yield workload


def many(small: int, is_quick: bool) -> dict[str, Shapes]:
    """Name lists of tensors as models have them: a thousand small ones, a hundred, and GPT-2's."""
    gpt2 = gpt2_shapes(48, vocabulary=512, context=64) if is_quick else gpt2_shapes()
    return {
        f"1,000 of {small:,}": ((small,),) * 1000,
        "100 of 10,486": ((10486,),) * 100,
        f"GPT-2{' with few elements' if is_quick else ' small'}, {len(gpt2)} tensors": gpt2,
    }


def tensors(is_quick: bool) -> Iterator[Workload]:
    """Many tensors at once, and the small ones with a norm over all of them."""
    found = many(SMALL, is_quick)
    for name, shapes in found.items():
        yield Workload("tensors", name, FLAGSHIP, main_variant(FLAGSHIP), shapes)
    name, shapes = next(iter(found.items()))
    yield Workload("tensors", name, FLAGSHIP, {"global_clipnorm": 1.0}, shapes)


def mixed(counts: list[int], is_quick: bool) -> Iterator[Workload]:
    """float16 gradients: overflow check, unscaling, global norm, clipping, rule and average."""
    kinds: dict[str, Shapes] = {power_of_two(elements): ((elements,),) for elements in counts}
    for name, shapes in (kinds | many(1024, is_quick)).items():
        yield MixedWorkload("mixed", name, FLAGSHIP, MIXED, shapes)


def reading(counts: list[int]) -> Iterator[Workload]:
    """Gradients of 16 and of 32 bits, to be read and checked for overflow, and no more."""
    for elements in counts:
        for dtype, kind in (("float16", MixedWorkload), ("float32", Workload)):
            name = f"{dtype}, {power_of_two(elements)}"
            yield kind("reading", name, "SGD", {}, ((elements,),))


def variants(elements: int) -> Iterator[Workload]:
    """Every variant of every rule."""
    for rule, choices in RULES.items():
        for arguments in choices:
            yield one_tensor("variants", rule, arguments, elements)


def options(elements: int) -> Iterator[Workload]:
    """Every common option but accumulation, whose calls move different numbers of bytes."""
    for choice in OPTIONS.values():
        if "gradient_accumulation_steps" not in choice:
            arguments = main_variant(FLAGSHIP) | choice
            yield one_tensor("options", FLAGSHIP, arguments, elements)


def arithmetic(elements: int) -> Iterator[Workload]:
    """Each rule, and the pipeline for mixed precision, if caches hold everything."""
    for rule in RULES:
        workload = one_tensor("arithmetic", rule, main_variant(rule), elements)
        if traffic_of(workload).bytes is not None:
            yield workload
    shapes = ((elements,),)
    yield MixedWorkload("arithmetic", power_of_two(elements), FLAGSHIP, MIXED, shapes)


def matrices(is_quick: bool) -> Iterator[Workload]:
    """The rules whose step on a matrix is more than a sweep over elements."""
    for rule, side in MATRICES.items():
        side = QUICK_SIDE if is_quick else side
        name = f"{side} x {side}"
        yield Workload("matrices", name, rule, main_variant(rule), ((side, side),))


def threads(counts: list[int]) -> Iterator[Workload]:
    """One tensor of each size, to be run on one thread and on more."""
    for elements in counts:
        yield one_tensor("threads", FLAGSHIP, main_variant(FLAGSHIP), elements)


def values(counts: list[int]) -> Iterator[Workload]:
    """Each rule, to be run on several kinds of numbers, as a sweep: products of matrices are the BLAS's."""
    for rule in RULES:
        for elements in counts:
            workload = one_tensor("values", rule, main_variant(rule), elements)
            if traffic_of(workload).bytes is None:
                name, shape = power_of_two(elements), (elements,)
                workload = replace(workload, name=name, shapes=(shape,))
            yield workload
