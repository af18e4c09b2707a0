"""Steps of a rule that keeps its state in fewer bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import ml_dtypes
import numpy.typing as npt

from fusedopt.bench.workload import Array, Workload, noise_of, power_of_two, squarest

RULE = "AdamW"
SLOT_DTYPES = ("bfloat16", "float8")


class LowBitWorkload(Workload):
    """Slots in fewer bits."""

    @property
    def label(self) -> str:
        """The rule, and what is kept."""
        return f"{self.whole().label}, {self.arguments['slot_dtype']} slots"

    def whole(self) -> Workload:
        """Make the same step on float32 variables and slots."""
        arguments = {
            name: value
            for name, value in self.arguments.items()
            if name not in ("slot_dtype", "master")
        }
        return Workload(self.section, self.name, self.rule, arguments, self.shapes)


class SixteenBitWorkload(LowBitWorkload):
    """Variables, too, of which no float32 copy is kept, and gradients."""

    dtype: ClassVar[npt.DTypeLike] = ml_dtypes.bfloat16
    gradient_bytes = 2

    @property
    def label(self) -> str:
        """The rule, and what is kept."""
        return f"{super().label}, bfloat16 weights"

    def gradients(self) -> list[Array]:
        """Make fresh arrays with the same values each time."""
        return self.gradients_of(noise_of(seed=2).astype(self.dtype))


def workloads(section: str, elements: int) -> Iterator[Workload]:
    """The rule with slots of every kind, and with as few bytes as can be."""
    name, shapes = power_of_two(elements), (squarest(elements),)
    for dtype in SLOT_DTYPES:
        yield LowBitWorkload(section, name, RULE, {"slot_dtype": dtype}, shapes)
    arguments = {"slot_dtype": "float8", "master": False}
    yield SixteenBitWorkload(section, name, RULE, arguments, shapes)
