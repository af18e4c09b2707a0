"""In how few bits slots and variables are kept: options of every rule."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

from fusedopt import arguments
from fusedopt.hyperparameters import Hyperparameter, choice, flag

SlotDType = Literal["float32", "bfloat16", "float8"]

_CHOICES = ("float32", "bfloat16", "float8")
# What other libraries call them.
_MEANT = {
    **dict.fromkeys(("float", "fp32", "f32", "32bit", "32-bit", "full"), "float32"),
    **dict.fromkeys(("bf16", "16bit", "16-bit", "brain"), "bfloat16"),
    **dict.fromkeys(
        ("fp8", "f8", "8bit", "8-bit", "int8", "uint8", "float8_e4m3fn", "float8_e5m2", "e4m3"),
        "float8",
    ),
}
_checked = partial(arguments.choice, choices=_CHOICES, meant=_MEANT)


class SlotDTypes(Hyperparameter):
    """The choice for single variables, by their names."""

    def __init__(self, text: str) -> None:
        super().__init__(
            None, _checked_dtypes, "dict, optional", text, shapes_state=True, is_keyword=True
        )

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Return what was given last. What is written into it would have no effect, so nothing can be."""
        found = super().__get__(instance, owner)
        return MappingProxyType(found) if isinstance(found, dict) else found

    def configured(self, instance: Any) -> dict[str, str] | None:
        """Return it as a dictionary of its own."""
        found = self.kept(instance)
        return found and dict(found)


class Seed(Hyperparameter):
    """The seed, which is a part of the state, so that a load can replace it."""

    def __init__(self, text: str) -> None:
        super().__init__(0, arguments.integer, "int", text, is_keyword=True)

    def kept(self, instance: Any) -> int:
        """Return what was given or loaded last."""
        core = vars(instance).get("_core")
        seed: int = super().kept(instance) if core is None else core.seed
        return seed


def _checked_dtypes(name: str, value: Any) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise TypeError(
            f"{name}: expected a dict by variable name, found {value!r}; "
            "for the same in all variables give slot_dtype"
        )
    return {
        arguments.text(f"{name}: variable name", variable): _checked(f"{name}[{variable!r}]", dtype)
        for variable, dtype in value.items()
    }


def slot_dtype() -> Any:
    """Declare in what the slots are kept."""
    return choice(
        "float32",
        _CHOICES,
        """
        In what the rule's slots are kept between steps, of variables that are not float64. A step computes in float32.
        "float32" takes 4 bytes per element of a slot. "bfloat16" takes 2, the upper half of the float. "float8" takes
        1.03, a code per element and a scale per 64 elements, and leaves variables of fewer than 4096 elements in
        float32. What a step stores is rounded up or down at random between two neighbours, so that the mean is right.
        Zero stays zero, and an update stays as bounded as without rounding. Rules for which that does not hold refuse
        "float8". With ``row_updates="caught_up"`` it must be "float32". Averages, accumulators, master copies and slots
        of one number per row or column stay float32. `variables` then lists read-only copies. docs/low_bit.md has the
        format. Keras does not have this option nor the next three, so configurations hold them only if they are not the
        defaults.
        """,
        meant=_MEANT,
        shapes_state=True,
        is_keyword=True,
    )


def slot_dtypes() -> Any:
    """Declare in what the slots of single variables are kept."""
    return SlotDTypes(
        """
        The same for single variables, by their names in `build`, in place of ``slot_dtype``:
        {"embedding": "bfloat16"}. A variable that is named here has its way whatever its size. A name that no variable
        has is an error of `build`.
        """
    )


def seed() -> Any:
    """Declare the seed of what is rounded at random."""
    return Seed(
        """
        Seed of what is rounded at random, from 0 to 2**63 - 1. The bits follow from it, from the number of the call,
        from the slot and from the place of the element, and from nothing else. It can be assigned at any time. If
        anything is rounded at random, the seed is saved with the state, and a load replaces it.
        """
    )


def master() -> Any:
    """Declare whether variables of 16 bits have a copy of 32."""
    return flag(
        True,
        """
        Whether float16 and bfloat16 variables have a float32 copy, which takes the updates. If False, each step widens
        the variable itself, updates it, and rounds it at random to its 16 bits. That saves 4 bytes per element, and
        small updates are not lost, as they would be if the nearest number were taken.
        """,
        shapes_state=True,
        is_keyword=True,
    )


def require_whole_slots(optimizer: Any, reason: str) -> None:
    """Refuse an optimizer that keeps slots in fewer bits, where others share their memory."""
    if optimizer.slot_dtype != "float32":
        raise ValueError(
            f"slot_dtype: expected 'float32', because {reason}, found {optimizer.slot_dtype!r}"
        )
    for name, found in (optimizer.slot_dtypes or {}).items():
        if found != "float32":
            raise ValueError(
                f"slot_dtypes[{name!r}]: expected 'float32', because {reason}, found {found!r}"
            )
