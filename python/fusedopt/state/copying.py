"""Copies of optimizers: what `copy` and `pickle` take along, and how a copy is put together from it.

A wrapper and its optimizers are copied as one: a part gives its owner, and the outermost owner gives everything, of
one moment. So it does not matter which of them is reached first, or which functions refer to them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedopt import arguments
from fusedopt.arrays import Array
from fusedopt.runtime import _core

if TYPE_CHECKING:
    from fusedopt.state.stateful import Stateful

FORMAT = 1
_MADE_ANEW = {"_core", "_owner"}


class _Copies(list[Array]):
    """Arrays that belong to one copy already."""

    def __deepcopy__(self, memo: Any) -> _Copies:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


def bare(cls: type) -> Any:
    """Make an object that `restore` is to fill, without its constructor."""
    return object.__new__(cls)


def state_of(optimizer: Stateful) -> dict[str, Any]:
    """Return all that a copy of an optimizer needs; of a part, its owner."""
    owner = optimizer._owner and optimizer._owner()
    return {"format": FORMAT, "owner": owner} if owner else _whole(optimizer)


def _whole(optimizer: Stateful) -> dict[str, Any]:
    def take() -> dict[str, Any]:
        optimizer._require_whole("copy")
        arrays = optimizer._core.checked_arrays()
        return _taken(optimizer) | {
            "format": FORMAT,
            "state": _copies([array for _, array in optimizer._core.state()]),
            "variables": optimizer._core.objects if optimizer.built else None,
            "names": optimizer._core.names,
            "values": _copies(arrays),
            "origin": (os.getpid(), [_address(array) for array in arrays]),
        }

    return optimizer._between_steps("copy", take)


def _copies(arrays: Sequence[Array]) -> _Copies:
    return _Copies(_core.copies(arrays))


def _taken(optimizer: Stateful) -> dict[str, Any]:
    own = {name: value for name, value in vars(optimizer).items() if name not in _MADE_ANEW}
    own |= optimizer._values()  # a load may have replaced the seed
    return {
        "attributes": own,
        "slots": {name: getattr(optimizer, name) for name in _slots(optimizer)},
        "parts": [(part, _taken(part)) for part in optimizer._parts()],
        "global_norm": optimizer._core.global_norm,
    }


def _slots(optimizer: Stateful) -> Iterable[str]:
    for cls in type(optimizer).__mro__:
        names = vars(cls).get("__slots__", ())
        for name in [names] if isinstance(names, str) else names:
            is_private = name.startswith("__") and not name.endswith("__")
            stored = f"_{cls.__name__.lstrip('_')}{name}" if is_private else name
            if stored not in {"__dict__", "__weakref__"} and hasattr(optimizer, stored):
                yield stored


def restore(optimizer: Stateful, state: Mapping[str, Any]) -> None:
    """Fill a bare optimizer with what `state_of` returned. A part is filled with its owner."""
    if not isinstance(state, Mapping) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, Mapping) else state
        raise ValueError(
            f"{type(optimizer).__name__}: expected a copy of format {FORMAT}, found {found!r}; "
            "read it with the version of fusedopt that wrote it"
        )
    if "owner" in state:
        return
    _assemble(optimizer, state)
    if state["variables"] is not None and not optimizer.built:
        optimizer._build_copy(state["variables"], state["names"])
        _fill_variables(optimizer, state)
    if state["state"] is not None:
        _load(optimizer, state["state"])
        _note_norms(optimizer, state)


def updatable(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Put copies in the place of variables that arrived read-only, as joblib's memory maps do, and warn of it."""
    if not isinstance(state, Mapping) or state.get("variables") is None:
        return state
    given = state["variables"]
    variables = [array if _is_writeable(array) else np.array(array) for array in given]
    count = sum(one is not other for one, other in zip(variables, given, strict=True))
    if count:
        arguments.warn(
            f"{count} of {len(given)} variables arrived read-only, so this copy updates arrays of its own. "
            "joblib maps large arrays so; with mmap_mode='c' or max_nbytes=None they stay the arrays of the model "
            "that came along"
        )
    return {**state, "variables": variables}


def _is_writeable(array: Any) -> bool:
    return not isinstance(array, np.ndarray) or array.flags.writeable


def _assemble(optimizer: Stateful, state: Mapping[str, Any]) -> None:
    for part, state_of_part in state["parts"]:
        if "_core" not in vars(part):  # another owner may have filled it
            _assemble(part, state_of_part)
    vars(optimizer).update(optimizer._new_arguments() | state["attributes"])
    for name, value in state["slots"].items():
        setattr(optimizer, name, value)
    optimizer._connect()


def _fill_variables(optimizer: Stateful, state: Mapping[str, Any]) -> None:
    """Write what the variables held at the moment of the copy.

    They are copied earlier or later than the state. What is shared with the original, by this process or another, is
    left alone.
    """
    process, addresses = state["origin"]
    arrays = optimizer._core.checked_arrays()
    for given, array, value, address in zip(
        state["variables"], arrays, state["values"], addresses, strict=True
    ):
        is_copy = _address(array) != address if process == os.getpid() else given is array
        if is_copy:
            array[...] = value


def _load(optimizer: Stateful, values: Sequence[Array]) -> None:
    if optimizer.built:
        optimizer._core.set_state(values)
        return
    for (_, array), value in zip(optimizer._core.state(), values, strict=True):
        array[...] = value


def _note_norms(optimizer: Stateful, state: Mapping[str, Any]) -> None:
    for part, state_of_part in state["parts"]:
        _note_norms(part, state_of_part)
    optimizer._core.set_global_norm(state["global_norm"])


def shallow(optimizer: Stateful) -> Any:
    """Make an optimizer with state of its own, on the same variables."""
    return _made(optimizer, _whole(optimizer))


def like(optimizer: Stateful, variables: Sequence[Array]) -> Any:
    """Make an optimizer of the same options, functions and exclusions on other variables, in its first state."""
    return _made(
        optimizer,
        _taken(optimizer)
        | {
            "format": FORMAT,
            "state": None,
            "variables": list(variables),
            "names": optimizer._core.names,
            "values": list(variables),
            "origin": (os.getpid(), [_address(array) for array in variables]),
        },
    )


def _made(optimizer: Stateful, state: dict[str, Any]) -> Any:
    made = bare(type(optimizer))
    restore(made, _with_new_parts(optimizer, state))
    return made


def _with_new_parts(optimizer: Stateful, state: dict[str, Any]) -> dict[str, Any]:
    new = {id(part): bare(type(part)) for part, _ in state["parts"]}
    return state | {
        "attributes": state["attributes"] | optimizer._parts_replaced(new),
        "parts": [
            (new[id(part)], _with_new_parts(part, state_of_part))
            for part, state_of_part in state["parts"]
        ],
    }


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
