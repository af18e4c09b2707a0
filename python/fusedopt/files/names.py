"""The names of tensors in a file: what each says, and how lists of them differ."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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


# The options that decide whether there is state of a kind.
_OPTIONS = {
    "average": "use_ema",
    "average_gradient": "centered",
    "gradient_accumulator": "gradient_accumulation_steps",
    "master": "master",
    "momentum": "momentum",
    "seed": "slot_dtype and master",
    "skipped_steps": "skip_nonfinite",
    "velocity_hat": "amsgrad",
}
# Rules whose slots mean the same.
ALIKE = {"Adam", "AdamW", "Nadam"}
WHAT_FITS = "; load(path, strict=False) takes what fits"


def another_rule(expected: str, found: str) -> str:
    """Tell that a file is another rule's, and what can be done with it."""
    fits = ", such as the counters and the averages, without the slots"
    fits = ", the slots too" if {expected, found} <= ALIKE else fits
    return f"expected the state of {expected}, found that of {found}{WHAT_FITS}{fits}"


def options_of(here: Collection[str], there: Collection[str]) -> list[str]:
    """Return the options by which one of two lists of names has kinds of state that the other has not."""
    kinds = [{(each.prefix, each.kind) for each in map(Name.of, names)} for names in (here, there)]
    return sorted({_OPTIONS[kind] for _, kind in kinds[0] ^ kinds[1] if kind in _OPTIONS})


def difference(missing: Sequence[str], unknown: Sequence[str], options: Sequence[str] = ()) -> str:
    """Tell what a file lacks, and what it has besides. The options are those that may explain it."""
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
        + (f"; make the optimizer with the same {', '.join(options)}" if options else "")
        + WHAT_FITS
    )
