"""The names of tensors in a file: what each says, and how lists of them differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

VARIABLE = "variable/"  # begins the names of variables, as "momentum/" begins those of momenta
_SCALE = "_scale"


class Name(NamedTuple):
    """A name, taken apart."""

    prefix: str  # "0/" for the first optimizer of several, "" for one alone
    kind: str  # of state, such as "momentum"
    variable: str  # "" for a number of the whole optimizer

    @classmethod
    def of(cls, name: str) -> Name:
        """Take a name apart."""
        first, slash, rest = name.partition("/")
        if not first.isdigit():
            return cls("", first, rest)
        kind, _, variable = rest.partition("/")
        return cls(first + slash, kind, variable)


def scales_of(slot: str) -> str:
    """Return the name of a slot's scales, such as "momentum_scale/w" for "momentum/w"."""
    prefix, kind, variable = Name.of(slot)
    return f"{prefix}{kind}{_SCALE}/{variable}"


def without_scale(kind: str) -> str:
    """Return the slot of which this kind of state is a part."""
    return kind.removesuffix(_SCALE)


def difference(missing: Sequence[str], unknown: Sequence[str]) -> str:
    """Tell what a file lacks, and what it has besides."""
    rates = [name for name in (*missing, *unknown) if name.rsplit("/", 1)[-1] == "learning_rate"]
    if len(rates) == len(missing) + len(unknown):
        here, there = "a number", "a schedule or callable"
        if unknown:
            here, there = there, here
        return (
            f"{rates[0]}: expected the state of an optimizer whose learning rate is {here}, "
            f"found one with {there}; load it into an optimizer made like that"
        )
    if all(name.startswith(VARIABLE) for name in missing) and not unknown:
        return (
            "expected the variables, too, as save(path, variables=True) writes them, "
            f"found none of {list(missing[:8])}"
        )
    return (
        "expected state of the same variables and options; "
        f"missing: {list(missing[:8])}, unknown: {list(unknown[:8])}"
    )
