"""Checks of argument types; ranges are the core's to check. Every message names the argument."""

from __future__ import annotations

import numbers
import re
from collections.abc import Iterable, Mapping
from typing import Any


def real(name: str, value: Any) -> float:
    """Any real number as a float; TypeError for everything else."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a real number, found {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name}: expected a number of double's range, found {value!r}") from None


def optional_real(name: str, value: Any) -> float | None:
    """Like `real`, where None is allowed."""
    return None if value is None else real(name, value)


def integer(name: str, value: Any) -> int:
    """Any integer as an int; ValueError for a number that is none, as in Keras, else TypeError."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        kind = ValueError if isinstance(value, numbers.Real) else TypeError
        raise kind(f"{name}: expected an integer, found {value!r}")
    number = int(value)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{name}: expected an integer of 64 bits, found {value!r}")
    return number


def optional_integer(name: str, value: Any) -> int | None:
    """Like `integer`, where None is allowed."""
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


def none_left(kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments that no optimizer has."""
    if kwargs:
        raise ValueError(f"unknown argument(s): {', '.join(sorted(kwargs))}")
