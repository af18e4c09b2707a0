"""What `exclude_from_weight_decay` is given: checked at once, and warned of at `build` if it has no effect."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

from fusedopt import arguments
from fusedopt.arrays import address, as_array, require_iterable

_WHO = "exclude_from_weight_decay"
Place = tuple[int, int]


class Member(NamedTuple):
    """What one of several optimizers leaves out of weight decay, and the variables that it updates."""

    listed: Sequence[Any]
    patterns: Sequence[str]
    names: Sequence[str]
    arrays: Sequence[Any]


def checked(
    var_list: Iterable[Any] | None, var_names: Iterable[str] | None
) -> tuple[list[Any], list[str]]:
    """Return variables and patterns; TypeError or ValueError for anything else."""
    patterns = arguments.patterns("var_names", var_names)
    if isinstance(var_list, str):
        var_list = [var_list]
    if var_list is None:
        return [], patterns
    require_iterable("var_list", var_list)
    variables = list(var_list)
    if texts := [each for each in variables if isinstance(each, str)]:
        raise TypeError(f"var_list: expected variables, found {texts[0]!r}; give var_names={texts}")
    return variables, patterns


def matching(
    patterns: Iterable[str], names: Sequence[str], arrays: Sequence[Any], built: Collection[Place]
) -> list[Any]:
    """Return the arrays whose names match a pattern, but for those that are built."""
    return [
        array
        for pattern in patterns
        for name, array in zip(names, arrays, strict=False)
        if re.search(pattern, name)
        and not (built and address(as_array(array, f"variable {name!r}")) in built)
    ]


def places_of(variables: Iterable[Any]) -> frozenset[Place]:
    """Return where variables lie."""
    return frozenset(address(as_array(variable, _WHO)) for variable in variables)


def warn_of_pattern(pattern: str, names: Iterable[str], others: Iterable[str] = ()) -> None:
    """Warn of a pattern that none of the names matches. The `others` are those of other optimizers."""
    search: Callable[[str], Any] = re.compile(pattern).search
    if any(map(search, names)):
        return
    theirs = [name for name in others if search(name)]
    reason = f"; {theirs[0]!r} belongs to another optimizer" if theirs else ""
    if not reason and not [*names, *others]:
        reason = "; build was given no names, so give it a dict of variables by name"
    arguments.warn(f"{_WHO}: no variable's name matches {pattern!r}{reason}")


def warn_of_misses(members: Sequence[Member]) -> None:
    """Warn of what names no variable of any optimizer that it was given to."""
    every_name = [name for member in members for name in member.names]
    for pattern in dict.fromkeys(pattern for member in members for pattern in member.patterns):
        names = [name for member in members if pattern in member.patterns for name in member.names]
        warn_of_pattern(pattern, names, every_name)
    if not any(member.listed for member in members):
        return
    places = [places_of(member.arrays) for member in members]
    lists = [places_of(member.listed) for member in members]
    for listed in dict.fromkeys(lists):
        own = [place for each, place in zip(lists, places, strict=True) if each == listed]
        is_known = listed <= frozenset().union(*places)  # the core refuses others
        if listed and is_known and listed.isdisjoint(frozenset().union(*own)):
            arguments.warn(
                f"{_WHO}: expected variables of the optimizer that it was called on, found only those of "
                "others; call it on the MultiOptimizer, or on the one that updates them"
            )
