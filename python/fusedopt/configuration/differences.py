"""In which arguments two optimizers differ, by their descriptions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from fusedopt.declared import Declared
from fusedopt.hyperparameters import Hyperparameter

_MISSING = object()  # as files of other versions may lack arguments
# Names, and what a file restores or converts, or refuses if it can do neither.
_IGNORED = {"name", "slot_dtype", "slot_dtypes", "seed", "initial_scale"}


def differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """Return each argument that differs, with the value here and that of a file.

    Functions cannot be compared, as no file has them.
    """
    own = json.loads(json.dumps(here, default=lambda _: None))
    try:
        return list(_of_objects(own, there, ""))
    except (AttributeError, KeyError, TypeError):  # a description of another form
        return []


def _of_objects(here: Mapping[str, Any], there: Mapping[str, Any], place: str) -> Iterator[str]:
    if here["class_name"] != there["class_name"]:
        yield _said(place.rstrip("."), here["class_name"], there["class_name"])
        return
    known = _declared_by(Declared, here["class_name"])
    own, other = here["config"], there["config"]
    for name in dict.fromkeys([*own, *other]):
        each = known.get(name)
        default = each.default if each and each.is_keyword else _MISSING
        values = own.get(name, default), other.get(name, default)
        if name not in _IGNORED and not any(value is _MISSING for value in values):
            yield from _of_values(*values, place + name, each)


def _declared_by(base: Any, name: str) -> Mapping[str, Hyperparameter]:
    """Return what a class of this name declares, which may be the user's own."""
    for cls in base.__subclasses__():
        if found := cls._hyperparameters if cls.__name__ == name else _declared_by(cls, name):
            return found
    return {}


def _of_values(here: Any, there: Any, name: str, declared: Hyperparameter | None) -> Iterator[str]:
    if isinstance(here, Mapping) and isinstance(there, Mapping):
        if here.get("class_name") == "OptimizerMap":
            yield from _of_members(
                here["config"], there["config"], name.removesuffix("optimizer_map")
            )
        elif "class_name" in here:
            yield from _of_objects(here, there, f"{name}.")
        elif here != there:
            yield _said(name, here, there)
        return
    *outer, last = name.split(".")
    is_rate = last == "learning_rate" and last not in outer  # an optimizer's, whose number is state
    may_be_function = declared is None or "callable" in declared.kind
    if (may_be_function and (here is None or there is None)) or is_rate:
        return
    if here != there and (here or there):  # whatever is off is off
        yield _said(name, here, there)


def _of_members(here: Mapping[str, Any], there: Mapping[str, Any], outer: str) -> Iterator[str]:
    def members(config: Mapping[str, Any]) -> dict[str, Any]:
        own = {f"optimizer_map[{key!r}]": each for key, each in config["optimizer_map"].items()}
        return {**own, "default_optimizer": config["default_optimizer"]}

    own, other = members(here), members(there)
    if len(own) == len(other):
        for (place, mine), theirs in zip(own.items(), other.values(), strict=True):
            yield from _of_objects(mine, theirs, f"{outer}{place}.")


def _said(name: str, here: Any, there: Any) -> str:
    return f"{name} {here!r} (in the file {there!r})"
