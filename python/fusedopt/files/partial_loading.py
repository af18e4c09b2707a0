"""Which tensors of a file fit an optimizer that is not quite the one that wrote it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fusedopt.arrays import Array, widened
from fusedopt.files.names import ALIKE, VARIABLE, Name, without_scale
from fusedopt.files.saved_file import SavedFile
from fusedopt.files.slot_dtypes import Conversions

Rules = Mapping[str, Collection[str]]
"""The class of each rule, and those it derives from, by what begins the names of its state: "", or "0/", "1/" ..."""

# Kinds of state that mean the same under every rule. The others are slots, the learning rate and Nadam's product.
_COMMON = {
    "iteration",
    "skipped_steps",
    "average",
    "gradient_accumulator",
    "master",
    "loss_scale",
    "seed",
    VARIABLE.rstrip("/"),
}

# Slots that an option adds. The others are complete without them, and an added slot may start late.
_OPTIONAL = {
    "Adam": {"velocity_hat"},
    "AdamW": {"velocity_hat"},
    "RMSprop": {"momentum", "average_gradient"},
}


class LoadReport(NamedTuple):
    """What ``load(path, strict=False)`` did not take. What is of another shape or type is in both lists.

    Attributes
    ----------
    missing : list of str
        State of the optimizer that kept its value, as ``"momentum/dense/kernel"``.
    unexpected : list of str
        What the file has besides what was taken.
    """

    missing: list[str]
    unexpected: list[str]


def compare(
    state: Sequence[tuple[str, Array]],
    rules: Rules,
    file: SavedFile,
    with_variables: bool,
    converted: Conversions | None,
) -> LoadReport:
    """Find out what a file cannot give, and what it has besides."""
    here = converted.here if converted else set()
    stored = _stored_rules(file)
    same = {
        prefix: prefix in stored and _is_same_rule(classes, stored[prefix])
        for prefix, classes in rules.items()
    }
    kept: set[str] = set()
    slots: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for name, array in state:
        prefix, kind, variable = Name.of(name)
        fits = name in here or file.fits(name, array)
        if not fits or not (kind in _COMMON or same[prefix]):
            kept.add(name)
        if kind not in _COMMON and variable:
            slots[prefix, variable].append((name, without_scale(kind)))
    for (prefix, _), names in slots.items():
        optional = set().union(*(_OPTIONAL.get(name, set()) for name in rules[prefix]))
        there = {kind for name, kind in names if name in file.types}
        if any(name in kept and (kind in there or kind not in optional) for name, kind in names):
            kept.update(name for name, _ in names)
    taken = {name for name, _ in state} - kept
    if converted:
        taken |= converted.there_of(taken)
    return LoadReport(
        [name for name, _ in state if name in kept],
        sorted(
            name
            for name in file.types
            if name not in taken and (with_variables or not name.startswith(VARIABLE))
        ),
    )


def follow_variables(
    state: Sequence[tuple[str, Array]],
    rules: Rules,
    report: LoadReport,
    set_slot: Callable[[str, Array], None],
    piece_of: Callable[[str, Array, Array], Array],
) -> list[Callable[[], None]]:
    """Return what makes state that is missing follow variables that are not.

    The master copy of a 16-bit variable is cleared, so that the next step takes what the variable holds. The slot of
    ScheduleFreeAdamW that starts as a copy of its variable does so again.
    """
    missing, arrays = set(report.missing), dict(state)
    actions: list[Callable[[], None]] = []
    for name in report.missing:
        prefix, kind, variable = Name.of(name)
        source = VARIABLE + variable
        if source not in arrays or source in missing:
            continue
        if kind == "master":
            actions.append(partial(np.copyto, arrays[name], 0))
        elif kind == "momentum" and "ScheduleFreeAdamW" in rules[prefix]:
            values = piece_of(name, arrays[source], arrays[name])
            actions.append(partial(_set_slot, set_slot, name, values))
    return actions


def _set_slot(set_slot: Callable[[str, Array], None], name: str, variable: Array) -> None:
    values = widened(variable)  # not before the variable is loaded
    set_slot(name, values if values.dtype == np.float64 else values.astype(np.float32))


def _is_same_rule(classes: Collection[str], stored: str) -> bool:
    return stored in classes or (stored in ALIKE and not ALIKE.isdisjoint(classes))


def _stored_rules(file: SavedFile) -> dict[str, str]:
    try:
        return _described_rules(file.description, file.types)
    except (AttributeError, KeyError, TypeError):
        return {}


def _described_rules(description: Mapping[str, Any], names: Collection[str]) -> dict[str, str]:
    config = description["config"]
    if "inner_optimizer" in config:
        return _described_rules(config["inner_optimizer"], names)
    rules = {"": description["class_name"]}
    if "optimizer_map" in config:
        optimizers = config["optimizer_map"]["config"]
        members = [*optimizers["optimizer_map"].values(), optimizers["default_optimizer"]]
        count = sum(re.fullmatch(r"\d+/iteration", name) is not None for name in names)
        if len(members) != count:  # one may serve several keys
            members = [m for i, m in enumerate(members) if m not in members[:i]]
        if len(members) == count:
            rules |= {f"{k}/": member["class_name"] for k, member in enumerate(members)}
    return rules
