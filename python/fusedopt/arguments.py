"""Checks of argument types; ranges are the core's to check. Every message names the argument."""

from __future__ import annotations

import difflib
import inspect
import math
import numbers
import re
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from fusedopt.elsewhere import INSTEAD, MEANT, MEANT_IN_SCHEDULES


def real(name: str, value: Any, expected: str = "a real number") -> float:
    """Any real number as a float; TypeError for everything else."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        way_out = "; leave the argument out if it has a default" if value is None else ""
        raise TypeError(f"{name}: expected {expected}, found {value!r}{way_out}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name}: expected a number of double's range, found {value!r}") from None


def optional_real(name: str, value: Any) -> float | None:
    """Like `real`, but None is allowed."""
    return None if value is None else real(name, value)


def single(value: Any) -> Any:
    """Return the number in an array or tensor of one element; anything else as it is."""
    if isinstance(value, numbers.Number) or getattr(value, "shape", None) is None:
        return value
    if isinstance(value, type) or math.prod(value.shape) != 1:
        return value
    array = value if hasattr(value, "item") else np.asarray(value)
    return array.item()


def number_or_function(name: str, value: Any, others: str = "") -> Any:
    """Check a real number, or a callable without arguments; TypeError for everything else.

    `others` are what may be given besides.
    """
    if not callable(value):
        return real(name, value, f"a real number{others} or callable")
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # of some built-in functions it is not known
        return value
    try:
        signature.bind()
    except TypeError:
        raise TypeError(
            f"{name}: expected a callable without arguments, found {value!r}, which takes {signature}; "
            "for a function of the step derive a class from fusedopt.schedules.LearningRateSchedule, "
            "or read the step yourself, as in lambda: function(optimizer.iterations)"
        ) from None
    return value


def integer(name: str, value: Any) -> int:
    """Any integer as an int; ValueError for a number that is none, as in Keras, else TypeError."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        is_whole = is_number and math.isfinite(value) and value == int(value)
        way_out = f"; give {int(value)}" if is_whole else ""
        kind = ValueError if isinstance(value, numbers.Real) else TypeError
        raise kind(f"{name}: expected an integer, found {value!r}{way_out}")
    number = int(value)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{name}: expected an integer of 64 bits, found {value!r}")
    return number


def optional_integer(name: str, value: Any) -> int | None:
    """Like `integer`, but None is allowed."""
    return None if value is None else integer(name, value)


def flag(name: str, value: Any) -> bool:
    """A bool (or numpy.bool); TypeError for everything else."""
    if type(value).__name__ not in ("bool", "bool_"):
        raise TypeError(f"{name}: expected True or False, found {value!r}")
    return bool(value)


def text(name: str, value: Any) -> str:
    """A string; TypeError for everything else."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a string, found {value!r}")
    return value


def choice(
    name: str,
    value: Any,
    choices: Sequence[str],
    meant: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """One of some strings; ValueError for another string, TypeError for everything else.

    `meant` has the choices by other names for them.
    """
    known = f"{', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}"
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected {known}, found {value!r}")
    if value not in choices:
        alike = re.sub(r"[^a-z0-9]+", "_", value.lower())
        near = [meant[value.lower()]] if value.lower() in meant else []
        near = near or difflib.get_close_matches(alike, choices, n=1)
        way_out = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name}: expected {known}, found {value!r}{way_out}")
    return str(value)


def patterns(name: str, value: Any) -> list[str]:
    """Regular expressions as a list, empty for None; TypeError or ValueError for everything else."""
    if value is None:
        return []
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{name}: expected a list of strings, found {value!r}")
    checked = [text(name, pattern) for pattern in value]
    for pattern in checked:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"{name}: expected a regular expression, found {pattern!r} ({error})"
            ) from None
    return checked


def configuration(config: Any) -> dict[str, Any]:
    """Copy a configuration; TypeError for what is not a dict by argument name."""
    if not isinstance(config, Mapping) or not all(isinstance(name, str) for name in config):
        raise TypeError(f"config: expected a dict by argument name, found {config!r}")
    return dict(config)


def none_left(
    kwargs: Mapping[str, Any],
    known: Iterable[str],
    inside: Iterable[str] = (),
    place: str = "",
    owner: str = "",
) -> None:
    """Refuse arguments that no optimizer has; warn of Keras 2's decay, which Keras 3 ignores.

    The arguments `inside` belong to another place than the owner.
    """
    unknown = dict(kwargs)
    for name in unknown.keys() & set(inside):
        raise ValueError(f"{name}: expected on {place}, found {unknown[name]!r} on {owner}")
    if not place and unknown.pop("decay", None):
        warn(
            "decay: no longer supported, as in Keras 3, and ignored; for the same effect give "
            "schedules.InverseTimeDecay(learning_rate, decay_steps=1, decay_rate=decay) as learning_rate"
        )
    if unknown:
        raise unknown_arguments(unknown, known, inside, place)


def warn(message: str) -> None:
    """Warn with the line outside this package that led here, from however deep inside."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] == "fusedopt":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def unknown_arguments(
    names: Iterable[str], known: Iterable[str], inside: Iterable[str] = (), place: str = ""
) -> ValueError:
    """Return the error that names arguments, with those that were meant.

    `inside` are the arguments of what stands at another place.
    """
    ordered = sorted(names)
    found = [_way_out(name, list(known), list(inside), place) for name in ordered]
    ways_out = "".join(f"; {way_out}" for way_out in found if way_out)
    return ValueError(f"unknown argument(s): {', '.join(ordered)}{ways_out}")


def _way_out(name: str, known: Sequence[str], inside: Sequence[str], place: str) -> str:
    meant = _meant(name, known)
    if not meant and (there := _meant(name, inside)):
        return f"{name}: did you mean {' and '.join(there)} on {place}?"
    return f"{name}: did you mean {' and '.join(meant)}?" if meant else INSTEAD.get(name, "")


def hint(name: str, known: Iterable[str]) -> str:
    """Ask for the name that was meant; empty if none comes near."""
    meant = _meant(name, list(known))
    return f"did you mean {' and '.join(meant)}?" if meant else ""


def _meant(name: str, known: Sequence[str]) -> list[str]:
    table = (
        MEANT_IN_SCHEDULES if "initial_learning_rate" in known or "boundaries" in known else MEANT
    )
    listed = [each for each in table.get(name, ()) if each in known]
    if listed or (name in INSTEAD and table is MEANT):
        return listed
    return difflib.get_close_matches(name, known, n=1, cutoff=0.75)


def is_slip(name: str) -> bool:
    """Whether this is what another library calls a hyperparameter."""
    return name in MEANT


def make_one(value: Any, base: type) -> str:
    """Say what to do with a class in the place of an object."""
    is_class = isinstance(value, type) and issubclass(value, base)
    return f"; make one, {value.__name__}(...)" if is_class else ""
