"""State in files: saved whole, and loaded whole or what fits."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, Literal, overload

from fusedopt import arguments, files
from fusedopt.arrays import Array
from fusedopt.configuration.differences import differences
from fusedopt.configuration.objects import serialized
from fusedopt.files.partial_loading import LoadReport, Rules
from fusedopt.runtime import _core
from fusedopt.state.loading import Loading
from fusedopt.state.pieces import Piece
from fusedopt.state.stateful import Stateful


class Saved(Stateful):
    """What has state that files can hold."""

    def save(self, path: str | bytes | os.PathLike[Any], variables: bool = False) -> None:
        """Write all state to one file, whole or not at all.

        The file is in the safetensors format (package ``safetensors``, extra ``files``). It holds the complete state,
        enough to go on with identical bits: `variables`, the codes of slots of fewer bits, master copies of 16-bit
        variables, a checksum of each array, and the configuration without functions. All of it is of one moment, even
        if another thread steps. That thread waits only while the state is copied to memory. A save needs as much memory
        again as what it saves.

        The file is written next to the old one and takes its place when it is whole. A crash or a full disk leaves the
        old file as it was. What a killed process has left there (a file whose name begins with a dot and ends with
        ``.saving``) is removed by the next save to the same path; on Windows it stays. Otherwise the path is treated as
        ``open`` treats it. Links are followed. A new file has the mode that the umask leaves; an old file's mode is
        kept, and its owner if the system allows. Another hard link to the old file keeps the old contents.

        Parameters
        ----------
        path : str, bytes or path
            The file to write or replace.
        variables : bool
            Also write the variables given to `build`, as ``variable/<name>``. `load` restores them.

        Raises
        ------
        ValueError
            If the optimizer is not built, or a `load` has failed half-way.
        ImportError
            If safetensors is not installed.
        OSError
            If the file cannot be written. PermissionError also if the file could be written but its
            folder takes no new one. The error names ``path`` and has the system's ``errno``.

        Examples
        --------
        >>> import tempfile, pathlib
        >>> import numpy as np
        >>> import fusedopt as fo
        >>> w = np.zeros(3)
        >>> optimizer = fo.Adam()
        >>> optimizer.build({"w": w})
        >>> optimizer.apply({"w": np.ones(3)})
        >>> new_w = np.zeros(3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "adam.safetensors"
        ...     optimizer.save(path, variables=True)
        ...     other = fo.Adam()
        ...     other.build({"w": new_w})
        ...     other.load(path)
        >>> other.iterations, (new_w == w).all()
        (1, np.True_)
        """
        if not self.built:
            raise ValueError("save: the optimizer is not built; call build first")
        with_variables = arguments.flag("variables", variables)
        files.write(path, *self._between_steps("save", lambda: self._moment(with_variables)))

    def _moment(self, with_variables: bool) -> tuple[list[tuple[str, Array]], dict[str, Any]]:
        """Copy what is saved, and the configuration."""
        named = self._saved(with_variables)
        self._require_whole("save")
        copies = _core.copies([array for _, array in named])
        return [
            (name, copy) for (name, _), copy in zip(named, copies, strict=True)
        ], self._description()

    def _saved(self, with_variables: bool) -> list[tuple[str, Array]]:
        """Return live views of what is saved."""
        state = self._core.state()
        if not with_variables:
            return state
        return state + [(files.VARIABLE + name, array) for name, array in self._named_arrays()]

    def _named_arrays(self) -> list[tuple[str, Array]]:
        """Return the variables by name, or numbered."""
        return list(zip(self._variable_names(), self._core.checked_arrays(), strict=True))

    @overload
    def load(
        self,
        path: str | bytes | os.PathLike[Any],
        variables: bool | None = ...,
        *,
        strict: Literal[True] = ...,
        convert_slots: bool = ...,
    ) -> None: ...

    @overload
    def load(
        self,
        path: str | bytes | os.PathLike[Any],
        variables: bool | None = ...,
        *,
        strict: Literal[False],
        convert_slots: bool = ...,
    ) -> LoadReport: ...

    def load(
        self,
        path: str | bytes | os.PathLike[Any],
        variables: bool | None = None,
        *,
        strict: bool = True,
        convert_slots: bool = False,
    ) -> LoadReport | None:
        """Take the state from a file that `save` wrote.

        It replaces everything in `variables`: the counters, averages, accumulators and slots, and the learning rate if
        it is a number. It also replaces master copies of 16-bit variables, loss scales, and the seed if anything is
        rounded at random. The other hyperparameters stay as they are, and so does a schedule or callable: make the
        optimizer with the same arguments. If the learning rate is a number here, it must be one in the file, and the
        reverse. The variables are only in files that `save` wrote with ``variables=True``; from others they keep the
        values that they have, without a word.

        The file is read twice in small pieces, so that loading takes hardly any memory. The first time all
        of it is checked, and nothing has changed. If reading fails only the second time (a broken
        disk, or another process that writes into the file meanwhile), the state is half of the file. Then
        the error says so, and steps and saves are refused until a load succeeds.

        Parameters
        ----------
        path : str, bytes or path
            A file of the same class of optimizer, built on variables of the same names, shapes
            and types with the same options. It may be what `Sharded` saved, also with ``per_rank``.
        variables : bool, optional
            Whether to overwrite the variables, too, with those in the file. Default: if there are any.
        strict : bool
            False takes from any optimizer's file what fits by name, shape and type. See Notes.
        convert_slots : bool
            Take slots in another ``slot_dtype``, too. Those of more bits are rounded to the nearest number that fewer
            bits hold. Those of fewer bits become float32 exactly. Such slots are in memory as float32 meanwhile.

        Returns
        -------
        LoadReport
            If ``strict`` is False: ``missing``, a list of what kept its value here, and ``unexpected``, a list of
            what the file has besides. What is in the file in another shape or type is in both. Otherwise None.

        Raises
        ------
        ValueError
            If the optimizer is not built, or the file is truncated, damaged or, if ``strict``, another's. Its slots
            are another's, too, if they are in another ``slot_dtype`` and ``convert_slots`` is False. Nothing has
            changed then.
        ImportError
            If safetensors is not installed.
        OSError
            If the file cannot be read: FileNotFoundError, PermissionError, IsADirectoryError and so on.

        Warns
        -----
        UserWarning
            If ``strict``, and the file was saved by an optimizer with other hyperparameters. Those here act. Names,
            functions, and what the file restores or converts are not compared.

        Notes
        -----
        ``strict=False`` is for models that grew, shrank or have other names, and for other options. All else
        remains: the whole file is checked first, and a refused load changes nothing.

        - The slots of a variable are taken together or not at all. Only slots that an option adds
          (``amsgrad``; ``momentum`` and ``centered`` of RMSprop) may be missing; they keep their values.
        - From a file of another class of optimizer, slots and learning rate are not taken, as they mean
          something else there. Adam, AdamW and Nadam take each other's.
        - Slots in another ``slot_dtype`` are of another type, unless ``convert_slots`` is True.
        - A moving average that is missing and has not begun starts at its variable's value in the next step.
        - A 16-bit variable that is taken without its master copy counts by its own value.
        - In a `MultiOptimizer` the names of the state begin with the position of the optimizer, ``"0/"``. A
          `LossScaleOptimizer` adds only its own scale and counters, so files with and without it fit each other.

        Examples
        --------
        >>> import tempfile, pathlib
        >>> import numpy as np
        >>> import fusedopt as fo
        >>> small, large = fo.Adam(), fo.Adam()
        >>> small.build({"w": np.ones(3)})
        >>> large.build({"w": np.ones(3), "b": np.ones(2)})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "adam.safetensors"
        ...     small.save(path)
        ...     report = large.load(path, strict=False)
        >>> report.missing
        ['momentum/b', 'velocity/b']
        >>> report.unexpected
        []
        """
        if not self.built:
            raise ValueError("load: the optimizer is not built; call build first")
        strict = arguments.flag("strict", strict)
        convert = arguments.flag("convert_slots", convert_slots)
        if variables is not None:
            variables = arguments.flag("variables", variables)
        class_name = self._description()["class_name"] if strict else None
        with closing(files.SavedFile(path, class_name)) as file:
            loading = Loading(self, file, variables, strict=strict, convert=convert)
            loading.match()
            file.verify(loading.wanted())
            if strict and (found := differences(self._description(), file.description)):
                arguments.warn(
                    f"load: {path!r} was saved with other arguments; those of this optimizer stay in force: "
                    + ", ".join(found)
                )
            report: LoadReport = self._between_steps("load", loading.take)
        return None if strict else report

    def _pieces(self) -> Mapping[str, Piece]:
        """Return of which arrays of the state there is only a piece here."""
        return {}

    def _agree_to_load(self, attempt: Callable[[], None], checksum: int) -> None:
        """Let others refuse what is about to be taken. `attempt` raises what is to be refused here."""

    @abstractmethod
    def _rules(self) -> Rules:
        """Return the names of the rule's classes, by what begins the names of its state."""

    @abstractmethod
    def _signed_slots(self) -> set[str]:
        """Return the slots that may be below zero, their names after what begins the names of the state."""

    def _description(self) -> dict[str, Any]:
        return serialized(self, "keras.optimizers")
