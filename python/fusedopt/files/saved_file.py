"""A file that `save` wrote: the state of an optimizer, all in it or partly in files of ranks beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from fusedopt.arrays import Array
from fusedopt.files.names import VARIABLE, WHAT_FITS, another_rule, difference, options_of
from fusedopt.files.rank_files import INDEX_FORMAT, RankFiles
from fusedopt.files.tensor_file import TensorFile
from fusedopt.files.tensors import FORMAT, OF_DTYPES, OLD_FORMAT, type_of

Ranges = Mapping[str, tuple[int, int]]
"""By the name of a tensor, where the elements begin and end that are wanted of it."""


class SavedFile(TensorFile):
    """A file that `save` wrote, open for reading.

    ValueError, naming the file, for everything that is wrong with what is in it. The class name is that of the
    optimizer it must be of; None is any.

    Attributes
    ----------
    description : dict
        The class and the configuration of the optimizer.
    types : dict
        The type and the shape of each tensor, by name.
    """

    def __init__(self, path: str | bytes | os.PathLike[Any], class_name: str | None) -> None:
        super().__init__(path, (FORMAT, OLD_FORMAT, INDEX_FORMAT))
        self._ranks: RankFiles | None = None
        try:
            self._read_description(class_name)
            if self.format == INDEX_FORMAT:
                self._ranks = RankFiles(self)
                self.types |= self._ranks.types
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file, and those of ranks."""
        super().close()
        if self._ranks:
            self._ranks.close()

    def _read_description(self, class_name: str | None) -> None:
        try:
            self.description = json.loads(self.metadata["optimizer"])
            stored = self.description["class_name"]
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise self.error(
                f"expected a description of the optimizer, found another ({error!r})"
            ) from None
        if class_name is not None and stored != class_name:
            raise self.error(another_rule(class_name, stored))

    @property
    def has_variables(self) -> bool:
        """Whether variables are in the file, too."""
        return any(name.startswith(VARIABLE) for name in self.types)

    def fits(self, name: str, array: Array) -> bool:
        """Whether there is a tensor of this name, type and shape."""
        return self.types.get(name) == (type_of(array), array.shape)

    def require(self, state: Sequence[tuple[str, Array]], besides: Collection[str] = ()) -> None:
        """Refuse the file if it does not hold exactly these tensors; variables and others may be there besides."""
        expected = {name for name, _ in state}
        missing = sorted(
            name
            for name, array in state
            if name not in self.types and not self._is_later(name, array)
        )
        unknown = sorted(
            name
            for name in self.types.keys() - expected - set(besides)
            if not name.startswith(VARIABLE)
        )
        if missing or unknown:
            here = expected | set(besides)
            raise self.error(difference(missing, unknown, options_of(here, self.types)))
        for name, array in state:
            wanted = (type_of(array), array.shape)
            found = self.types.get(name, wanted)
            if found != wanted:
                raise self.error(
                    f"{name}: expected {wanted[0]} of shape {wanted[1]}, "
                    f"found {found[0]} of shape {found[1]}{WHAT_FITS}"
                )

    def _is_later(self, name: str, array: Array) -> bool:
        """Whether this is a counter that files of the old format may not have; it begins at 0."""
        is_counter = array.ndim == 0 and array.dtype.kind == "i" and name.startswith("loss_scale/")
        return self.format == OLD_FORMAT and is_counter

    def verify(self, wanted: Ranges | None = None) -> None:
        """Read everything once, and refuse the file if it is not what was written.

        Of files of ranks only those are read that have a part of what is wanted.
        """
        for name in self._spans:
            self.check_tensor(name)
        if self._ranks:
            self._ranks.verify(wanted or {})

    def number(self, name: str, like: Array) -> Array:
        """Return a tensor without dimensions; 0 if the file is too old to have it."""
        value = np.zeros_like(like)
        if name in self.types:
            self.copy_to(name, value)
        return value

    def array(self, name: str) -> Array:
        """Return a tensor; of bfloat16 the bits."""
        dtype, shape = self.types[name]
        value = np.empty(shape, OF_DTYPES[dtype])
        self.copy_to(name, value)
        return value

    def copy_to(self, name: str, array: Array, begin: int = 0) -> None:
        """Fill an array with elements of what `verify` has read, from `begin` on, if they are still the same."""
        if self._ranks and name in self._ranks.types:
            self._ranks.copy_to(name, array, begin)
        else:
            self.copy_tensor(name, array, begin)
