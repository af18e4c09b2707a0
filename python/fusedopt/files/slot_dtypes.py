"""Slots that a file has in another ``slot_dtype`` than the optimizer: which these are, and their numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from fusedopt.arrays import Array, of_bfloat16
from fusedopt.files.names import VARIABLE, Name, scales_of
from fusedopt.files.saved_file import SavedFile
from fusedopt.files.tensors import type_of
from fusedopt.runtime import _core

_BLOCK = 64  # elements that share a scale
_WHOLE = {"F32": "float32", "BF16": "bfloat16"}

_Shape = tuple[int, ...]
_Types = Mapping[str, tuple[str, _Shape]]


class Conversions:
    """The slots of a file that have to be converted, by their names.

    Parameters
    ----------
    state : sequence of pairs
        The optimizer's state by name.
    shapes : dict
        The shapes of its variables, by name.
    file : SavedFile
        Where the other state is.
    """

    def __init__(
        self, state: Sequence[tuple[str, Array]], shapes: Mapping[str, _Shape], file: SavedFile
    ) -> None:
        self._file = file
        self._own = {name: (type_of(array), array.shape) for name, array in state}
        self._shapes: dict[str, _Shape] = {}
        for name in self._own:
            shape = shapes.get(Name.of(name).variable)
            if shape is None or name.startswith(VARIABLE):
                continue
            here, there = _form(self._own, name, shape), _form(file.types, name, shape)
            if here and there and here != there:
                self._shapes[name] = shape

    def __contains__(self, name: str) -> bool:
        """Whether a slot of this name has to be converted."""
        return name in self._shapes

    @property
    def here(self) -> set[str]:
        """The names of what the optimizer has of these slots, with their scales."""
        return _with_scales(self._shapes, self._own)

    def there_of(self, slots: Collection[str]) -> set[str]:
        """Return the names of what the file has of some of these slots."""
        return _with_scales(self._shapes.keys() & set(slots), self._file.types)

    @property
    def there(self) -> set[str]:
        """The names of what the file has of these slots."""
        return self.there_of(self._shapes)

    def refuse(self) -> None:
        """Refuse the file if there is anything to convert."""
        for name, shape in self._shapes.items():
            expected, found = _form(self._own, name, shape), _form(self._file.types, name, shape)
            raise self._file.error(
                f"{name}: expected a slot of {expected}, found one of {found}; "
                "load(path, convert_slots=True) converts it"
            )

    def numbers(self, name: str, signed: Collection[str]) -> Array:
        """Return a slot of the file as float32. `signed` are the slots that may be below zero."""
        shape = self._shapes[name]
        form = _form(self._file.types, name, shape)
        stored = self._file.array(name)
        if form == "float32":
            return stored
        if form == "bfloat16":
            return of_bfloat16(stored)
        scales = self._file.array(scales_of(name))
        prefix, kind, _ = Name.of(name)
        is_signed = prefix + kind in signed
        try:
            values = _core.decoded_float8(stored, scales, is_signed, scales_of(name))
        except ValueError as error:
            raise self._file.error(str(error)) from None
        return values[: math.prod(shape)].reshape(shape)


def _with_scales(slots: Iterable[str], types: _Types) -> set[str]:
    return {name for slot in slots for name in (slot, scales_of(slot)) if name in types}


def _form(types: _Types, name: str, shape: _Shape) -> str | None:
    """Return the slot_dtype in which a slot of this shape is kept; None if it is not there as one."""
    dtype, found = types.get(name, ("", ()))
    if found == shape and dtype in _WHOLE:
        return _WHOLE[dtype]
    blocks = -(-math.prod(shape) // _BLOCK)
    has_codes = (dtype, found) == ("U8", (blocks, _BLOCK))
    return "float8" if has_codes and types.get(scales_of(name)) == ("U16", (blocks,)) else None
