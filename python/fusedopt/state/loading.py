"""One load: what of a file goes into which state, in which order, and what happens if something breaks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from fusedopt import files
from fusedopt.arrays import Array
from fusedopt.files.names import Name
from fusedopt.files.partial_loading import LoadReport, compare, follow_variables
from fusedopt.files.slot_dtypes import Conversions
from fusedopt.files.tensors import type_of

if TYPE_CHECKING:
    from fusedopt.state.saved import Saved


class Loading:
    """A file on its way into an optimizer.

    Parameters
    ----------
    optimizer : Saved
        A built one.
    file : SavedFile
        Open.
    variables : bool or None
        Whether to take the variables; None if there are any.
    strict : bool
        Whether the file must hold exactly this optimizer's state.
    convert : bool
        Whether slots may be in another slot_dtype.
    """

    def __init__(
        self,
        optimizer: Saved,
        file: files.SavedFile,
        variables: bool | None,
        *,
        strict: bool,
        convert: bool,
    ) -> None:
        self._optimizer = optimizer
        self._file = file
        self._with_variables = file.has_variables if variables is None else variables
        self._is_strict, self._converts = strict, convert
        self._signed = optimizer._signed_slots()
        self._pieces = optimizer._pieces()

    def wanted(self) -> files.Ranges:
        """Return which elements are wanted of arrays of which not all are, after `match`."""
        return {
            name: (self._pieces[name].begin, self._pieces[name].begin + array.size)
            for name, array in self._everything
            if name in self._pieces
        }

    def match(self) -> None:
        """Find what the file has for all state there is now, or refuse it."""
        optimizer, file = self._optimizer, self._file
        self._state = optimizer._core.state()
        self._everything = optimizer._saved(self._with_variables)
        shapes = dict(
            zip(optimizer._variable_names(), (w.shape for w in optimizer._core.arrays), strict=True)
        )
        wholes = [
            (name, self._pieces[name].whole(array) if name in self._pieces else array)
            for name, array in self._everything
        ]
        self._converted = Conversions(wholes, shapes, file)
        self._here = self._converted.here
        if not self._is_strict:
            converted = self._converted if self._converts else None
            rules = optimizer._rules()
            self._report = compare(wholes, rules, file, self._with_variables, converted)
            return
        if not self._converts:
            self._converted.refuse()
        there = self._converted.there
        seeds: set[str] = set()
        if self._converts:  # without rounding at random there is none
            seeds = {name for name, _ in self._state if Name.of(name).kind == "seed"}
            there |= {name for name in file.types if Name.of(name).kind == "seed"}
        seeds -= file.types.keys()
        expected = [item for item in wholes if item[0] not in self._here | seeds]
        file.require(expected, there)
        self._report = LoadReport(sorted(seeds), [])

    def take(self) -> LoadReport:
        """Copy it. Another thread may have stepped, or built again, since `match`."""
        self.match()
        optimizer, file = self._optimizer, self._file
        kept = set(self._report.missing)
        values = [self._value(name, array, kept) for name, array in self._state]
        counts = optimizer._own_counts()
        final = [
            array.copy() if name in kept else file.number(name, array) for name, array in counts
        ]

        def begin() -> None:
            optimizer._core.set_state(values)  # first, as only these can be refused
            for _, count in counts:
                count[...] = -1

        def end() -> None:
            for (_, count), number in zip(counts, final, strict=True):
                count[...] = number

        followers = follow_variables(
            self._everything, optimizer._rules(), self._report, self._set_slot, self._piece_of
        )
        copies = [
            partial(file.copy_to, name, array, self._begin(name))
            for name, array in self._everything
            if name not in kept and self._is_copied_later(name, array)
        ]
        optimizer._agree_to_load(partial(self._attempt, values), file.checksum)
        _finish([end, *followers, *copies], begin, file)
        return self._report

    def _attempt(self, values: list[Array | None]) -> None:
        """Let the core refuse what it must, and leave all as it was."""
        before = [
            value if value is array or (value is None and name not in self._here) else array.copy()
            for (name, array), value in zip(self._state, values, strict=True)
        ]
        try:
            self._optimizer._core.set_state(values)
        except ValueError as error:
            raise self._file.error(str(error)) from None
        self._optimizer._core.set_state(before)

    def _is_copied_later(self, name: str, array: Array) -> bool:
        """Whether what is there is copied without a check, straight from the file."""
        if name.startswith(files.VARIABLE):
            return True
        return array.ndim > 0 and type_of(array) != "U16" and name not in self._here

    def _begin(self, name: str) -> int:
        """Return which element of a whole array the optimizer's begins with."""
        return self._pieces[name].begin if name in self._pieces else 0

    def _piece_of(self, name: str, whole: Array, like: Array) -> Array:
        """Return what the optimizer has of an array, for state of this name."""
        if name not in self._pieces:
            return whole
        piece = self._pieces[name]
        return whole.reshape(-1)[piece.begin : piece.begin + like.size].reshape(piece.own_shape)

    def _value(self, name: str, array: Array, kept: set[str]) -> Array | None:
        """Return what the core takes. None, and an array itself, leave what is there."""
        if name in kept:
            return None
        if name in self._here:
            if name not in self._converted:
                return None
            return self._piece_of(name, self._converted.numbers(name, self._signed), array)
        if array.ndim == 0:
            return self._file.number(name, array)
        if type_of(array) != "U16":
            return array
        value = np.empty_like(array)
        self._file.copy_to(name, value, self._begin(name))
        return value

    def _set_slot(self, name: str, values: Array) -> None:
        self._optimizer._core.set_state(
            [values if other == name else None for other, _ in self._state]
        )


def _finish(
    rest: list[Callable[[], None]], begin: Callable[[], None], file: files.SavedFile
) -> None:
    """Call `begin`, which may refuse, then all the rest from the last one on, whatever interrupts."""
    pending = [*rest, begin]
    interruption = None
    while pending:
        try:
            pending[-1]()
            pending.pop()
        except Exception as error:
            if pending[-1] is begin:
                raise file.error(str(error)) from None
            raise ValueError(
                f"{error}; the state is now partly that of the file; load a whole one "
                "before the next step"
            ) from error
        except BaseException as error:  # noqa: BLE001
            interruption = error  # what was begun is finished first
    if interruption:
        raise interruption
