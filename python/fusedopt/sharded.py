"""One optimizer over many processes, which share its state and its work.

One file, though long: the docstrings of what all ranks call are half of it.
"""

from __future__ import annotations

import os
import secrets
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal, NoReturn, TypeVar, overload

from fusedopt import arguments, communicators, sharded_state
from fusedopt.arrays import Array
from fusedopt.configuration.optimizers import checked, serialize
from fusedopt.files import rank_saving
from fusedopt.files.partial_loading import LoadReport, Rules
from fusedopt.hyperparameters import Hyperparameter, flag, required
from fusedopt.loss_scale_optimizer import LossScaleOptimizer
from fusedopt.multi_optimizer import MultiOptimizer
from fusedopt.optimizer import LearningRate, Optimizer
from fusedopt.rules.rate import Name
from fusedopt.rules.rule_optimizer import RuleOptimizer
from fusedopt.runtime import _core
from fusedopt.state import copying
from fusedopt.state.pieces import Piece

_Result = TypeVar("_Result")


def _checked_inner(name: str, given: Any) -> Optimizer:
    value = checked(name, given)
    _sharable(name, value)
    if value.built:
        raise ValueError(f"{name}: expected before build, found the optimizer built")
    return value


def _sharable(name: str, optimizer: Optimizer) -> RuleOptimizer | MultiOptimizer:
    """Return what is shared out: an optimizer with a rule, or several."""
    inner = optimizer.inner_optimizer if isinstance(optimizer, LossScaleOptimizer) else optimizer
    if not isinstance(inner, (RuleOptimizer, MultiOptimizer)):
        raise TypeError(
            f"{name}: expected an optimizer with a rule or a MultiOptimizer, alone or in a LossScaleOptimizer, "
            f"found {type(inner).__name__}"
        )
    return inner


def _failure(function: Callable[[], Any]) -> BaseException | None:
    """Call a function, and return what it raises."""
    try:
        function()
    except BaseException as error:  # noqa: BLE001, which _settle raises
        return error
    return None


def _no_configuration(*_: Any) -> NoReturn:
    raise TypeError(
        "get_config: expected an optimizer of one process, found Sharded, whose communicator no configuration "
        "can hold; take that of its inner_optimizer"
    )


class Sharded(Optimizer):
    """An optimizer over several processes (ranks), each of which keeps a part of its state.

    Every rank makes one, builds it on the same variables with the same values, and gives the gradients of its own
    batch to `apply`. They are summed over ranks in a fixed tree, or averaged. Each rank updates its share of all
    elements and keeps slots, averages, accumulators and master copies for that share alone. Then the ranks exchange
    the new weights, so that all have all of them. What a rule needs as a whole is not cut: `Lamb`'s and `Adafactor`'s
    variables, the matrices of `Muon`, and those with several dimensions under ``rowwise``. Each is one rank's.

    The weights have, to the last bit, the values that a single process gives them that gets the summed gradients. So
    they do not depend on the number of ranks, but for what the sum itself rounds.

    Gradients of float64 are summed in float64, all others in float32. Norms, clipping and the check of
    ``skip_nonfinite`` are over all ranks, with one decision for all.

    A call is refused on all ranks or on none. If it is refused on one, for example for the shape of a gradient or
    because a callable raises, the others raise a ValueError that says which rank refused it and why. Nothing has
    changed then. Variables, options, dtypes of gradients, or learning rates that differ between ranks are refused and
    named.

    Methods that all ranks must call alike, as each waits for the others: `build`, `apply`, `apply_gradients`,
    `evaluation_weights`, `finalize_variable_values`, `save` and `load`.

    Raises
    ------
    ValueError
        For an optimizer that is built, or one that cannot be sharded, with ``row_updates="caught_up"``.
    TypeError
        For an argument of another type.

    Notes
    -----
    - A rank that ends between two calls leaves the others waiting. Start programs with ``python -m mpi4py``, which
      ends all if one of them raises.
    - If an exchange fails after weights were written, the error is that of the communicator, and later calls are
      refused.
    - `variables`, `named_variables`, `averages` and `set_weights` are of this rank's part: one-dimensional pieces of
      the state, which are empty if the rank has nothing of a variable. What is not cut has its own shape on its rank.
    - `Muon` calls its product function for a matrix on the rank that has it. The promise of the same bits includes
      those of the products.
    - Call the methods here, not those of the inner optimizer. Its hyperparameters may be assigned, on all ranks alike;
      it saves and lists this rank's part alone. The members of a `MultiOptimizer` refuse steps of their own.
    - Building again with more variables leaves the state of the old ones where it is, and shares out the new ones.
    - Not there yet: gradients of rows, copies and pickles.

    Examples
    --------
    ``mpiexec -n 2 python train.py`` runs this on two ranks, with ``comm = mpi4py.MPI.COMM_WORLD``. A communicator is
    also any object with ``rank``, ``size``, ``alltoallv`` and ``allgatherv``, such as this one of a single rank:

    >>> import numpy as np
    >>> import fusedopt as fo
    >>> class Alone:
    ...     rank, size = 0, 1
    ...     def alltoallv(self, send, send_counts, receive, receive_counts):
    ...         receive[:] = send
    ...     def allgatherv(self, send, receive, counts):
    ...         receive[:] = send
    >>> w = np.ones(2, dtype=np.float32)
    >>> optimizer = fo.Sharded(fo.SGD(learning_rate=0.5), Alone())
    >>> optimizer.build({"w": w})
    >>> optimizer.apply({"w": np.array([1, -1], dtype=np.float32)})
    >>> w
    array([0.5, 1.5], dtype=float32)

    References
    ----------
    Rajbhandari et al., ZeRO: Memory Optimizations Toward Training Trillion Parameter Models, SC 2020, stage 1.
    """

    _inside = RuleOptimizer._of_rules, "the inner optimizer"

    inner_optimizer: Optimizer = required(
        _checked_inner,
        "Optimizer",
        "One with a rule, a MultiOptimizer, or a LossScaleOptimizer around one, not built. All options are its own.",
        serialize=serialize,
        deserialize=_no_configuration,
    )
    communicator: Any = required(
        communicators.checked,
        "mpi4py.MPI.Intracomm, fusedopt.torch.Communicator or object",
        "The ranks. ``fusedopt.torch.Communicator`` is one over PyTorch's processes. Any other object needs ``rank``, "
        "``size``, ``alltoallv(send, send_counts, receive, receive_counts)`` and ``allgatherv(send, receive, counts)``."
        " Buffers are arrays of uint8, counts lists of bytes for each rank.",
        serialize=_no_configuration,
        deserialize=_no_configuration,
    )
    average: bool = flag(False, "Divide the sum of the gradients by the number of ranks.")
    name: Name = Name()

    def _construct(self, values: Mapping[str, Any]) -> None:
        vars(self).update(values)
        self._seen = 0
        self._own_pieces: Mapping[str, Piece] = {}
        self._connect()

    def _connect(self) -> None:
        inner: Any = self.inner_optimizer._core
        shared: Any = _sharable("inner_optimizer", self.inner_optimizer)._core
        self._shard: _core.Optimizer | _core.MultiOptimizer = shared
        self._shard.shard(self.communicator, self.average)
        self._core: _core.Optimizer | _core.MultiOptimizer | _core.LossScale = inner
        for part in self._parts():
            part._owner = weakref.ref(self)

    def __repr__(self) -> str:
        """Show the inner optimizer, and which rank this is."""
        of = f"rank {self.communicator.rank} of {self.communicator.size}"
        return f"<Sharded({self.inner_optimizer!r}), {of}>"

    def _assign(self, hyperparameter: Hyperparameter, value: Any) -> None:
        if hyperparameter.name == "average" and value != self.average:
            raise AttributeError("average: expected in the constructor, found an assignment")
        vars(self)[hyperparameter.name] = value

    # Failing together

    def _together(self, operation: str, function: Callable[[], _Result]) -> _Result:
        """Call a function, and let the other ranks know if it fails before they can have noticed."""
        self._seen = self._shard.agreements
        try:
            result = function()
        except BaseException as error:
            if self._shard.agreements == self._seen:
                self._settle(operation, error)
            raise
        self._seen = self._shard.agreements
        return result

    def _settle(self, operation: str, failure: BaseException | None, facts: str = "") -> None:
        """Wait until all ranks are here, and raise on all if one has failed: there what has failed."""
        if failure is None:
            self._shard.agree(operation, facts, "")
        else:
            with suppress(ValueError):
                self._shard.agree(operation, facts, f"{type(failure).__name__}: {failure}")
            raise failure

    def build(self, variables: Sequence[Any] | Mapping[str, Any]) -> None:
        """Take the variables to update, and allocate this rank's part of the state.

        Parameters
        ----------
        variables : sequence or dict of numpy.ndarray
            As for any optimizer, also to add more. All ranks give the same, with the same values; send those of one
            rank to the others first, for example by mpi4py's ``comm.Bcast(w)``.

        Raises
        ------
        ValueError, TypeError
            If one of the ranks has variables that cannot be updated in place, or if names, dtypes, shapes, values or
            options differ between ranks, or the versions of fusedopt. Nothing has changed then, on any rank.
        """
        self._together("build", lambda: super(Sharded, self).build(variables))

    def apply(
        self,
        grads: Iterable[Any] | Mapping[str, Any],
        trainable_variables: Iterable[Any] | None = None,
    ) -> None:
        """Take one step with the gradients of all ranks.

        Parameters
        ----------
        grads : sequence or dict of numpy.ndarray
            The gradients of this rank, as for any optimizer, but all of them dense. All ranks give some for the same
            variables, of the same dtypes.
        trainable_variables : sequence of numpy.ndarray, optional
            The variables that these gradients belong to, in any order; builds on first use.

        Raises
        ------
        ValueError, TypeError
            If the call is invalid on one of the ranks, or the calls differ. Nothing is changed on any of them, except
            that optimizers built by this call stay built.

        Warns
        -----
        UserWarning
            If some gradients are None; those variables are left as they are.
        """
        self._together("apply", lambda: super(Sharded, self).apply(grads, trainable_variables))

    def finalize_variable_values(self, var_list: Iterable[Any]) -> None:
        """Overwrite the variables with their moving averages, at the end of training. All ranks must call it.

        Parameters
        ----------
        var_list : sequence or dict of numpy.ndarray
            All built variables, in their order. Without ``use_ema`` nothing happens.

        Raises
        ------
        ValueError, TypeError
            As for any optimizer, if one of the ranks refuses.
        """
        self._together(
            "finalize_variable_values",
            lambda: super(Sharded, self).finalize_variable_values(var_list),
        )

    @contextmanager
    def evaluation_weights(self) -> Iterator[dict[str, Array]]:
        """Put the weights to evaluate with into the variables, for a ``with`` block that all ranks enter.

        Yields
        ------
        dict of numpy.ndarray
            The variables by name; numbered if they have none.

        Raises
        ------
        ValueError
            As for any optimizer, if one of the ranks refuses.
        """
        block = super().evaluation_weights()
        lent = self._together("evaluation_weights", block.__enter__)
        try:
            yield lent
        finally:
            self._together("evaluation_weights", lambda: block.__exit__(None, None, None))

    # State

    def catch_up(self, variable: Any = None, indices: Any = None) -> None:
        """Do nothing: a sharded optimizer takes no gradients of rows, so that no row misses anything."""

    def save(
        self,
        path: str | bytes | os.PathLike[Any],
        variables: bool = False,
        *,
        per_rank: bool = False,
    ) -> None:
        """Write all state of all ranks, whole or not at all. All ranks must call it.

        By default it is one file, that of the inner optimizer in a single process, byte for byte. Rank 0 writes it, and
        needs memory for twice the whole state.

        With ``per_rank`` each rank writes its part into a file of its own. This takes no memory, and ranks write at the
        same time. The files lie beside ``path`` and have the name of this save and of the rank in theirs, as
        ``adam-0f3a59c2d1e8b764-00001-of-00004.safetensors`` for ``adam.safetensors``. Rank 0 then writes an index to
        ``path``. Only with it the save is there, and takes the place of the one before, whose files are removed. If a
        rank fails or is killed before that, the save before is as it was. What is left of others is removed by the next
        save to the same path.

        Any number of ranks can load either, and so can a single process.

        Parameters
        ----------
        path : str, bytes or path
            The file to write or replace. That of rank 0 counts. With ``per_rank``, the same file on all ranks, in a
            folder that they share.
        variables : bool
            Also write the variables given to `build`, as ``variable/<name>``. `load` restores them.
        per_rank : bool
            Write one file for each rank, and an index.

        Raises
        ------
        ValueError, TypeError, ImportError, OSError
            As for any optimizer, and a ValueError if rank 0 finds no file of another rank. What one rank raises is a
            ValueError on the others.
        """
        self._together("save", lambda: self._save(path, variables, per_rank))

    def _save(self, path: str | bytes | os.PathLike[Any], variables: bool, per_rank: bool) -> None:
        with_variables = arguments.flag("variables", variables)
        is_per_rank = arguments.flag("per_rank", per_rank)
        target = os.fsdecode(path)
        if not self.built:
            raise ValueError("save: the optimizer is not built; call build first")

        def write() -> None:
            self._require_whole("save")
            self._settle("save", None, f"variables={with_variables}\nper_rank={is_per_rank}")
            (self._save_per_rank if is_per_rank else self._save_gathered)(target, with_variables)

        self._between_steps("save", write)

    def _save_gathered(self, path: str, with_variables: bool) -> None:
        is_first = self.communicator.rank == 0
        twin = self._twin(self._core.checked_arrays()) if is_first else None
        whole = dict(twin._core.state()) if twin else {}
        sharded_state.gather(self.communicator, self._core.state(), self._borders(), whole)
        self._settle("save", _failure(lambda: twin and twin.save(path, with_variables)))
        if is_first:
            rank_saving.remove_others(path)

    def _save_per_rank(self, path: str, with_variables: bool) -> None:
        rank, state = self.communicator.rank, self._core.state()
        pieces = sharded_state.pieces(self.communicator, state, self._variable_shapes())
        variables = self._saved(with_variables)[len(state) :]
        own = [
            (name, piece, pieces[name].begin) for name, piece in state if piece.size and piece.ndim
        ]
        own += sharded_state.share(self.communicator, variables)
        wholes = [(name, pieces[name].whole(piece)) for name, piece in state if piece.ndim]
        numbers = [(name, number) for name, number in state if not number.ndim]
        names = communicators.texts(self.communicator, secrets.token_hex(8))
        saving = rank_saving.RankSave(path, names[0], self.communicator.size)
        try:
            self._settle("save", _failure(lambda: saving.write(rank, own)))

            def commit() -> None:
                if rank == 0:
                    saving.commit(numbers, wholes + variables, self._description())

            self._settle("save", _failure(commit))
        finally:
            if rank == 0:
                rank_saving.remove_others(path)

    def _borders(self) -> sharded_state.Borders:
        return sharded_state.borders(self.communicator, self._core.state())

    def _variable_shapes(self) -> dict[str, sharded_state.Shapes]:
        arrays = zip(self._variable_names(), self._core.arrays, strict=True)
        return {
            name: sharded_state.Shapes(array.shape, tuple(self._shard.piece_shape(i)))
            for i, (name, array) in enumerate(arrays)
        }

    def _twin(self, variables: Sequence[Array]) -> Any:
        """Return the inner optimizer as it is in a single process, in its first state."""
        return copying.like(self.inner_optimizer, variables)

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
        """Take the state from what `save` wrote, here or in a single process. All ranks must call it.

        Each rank takes its part, which needs hardly any memory. It checks the whole file first, or those files of ranks
        that have something of its part.

        Parameters
        ----------
        path : str, bytes or path
            A file of the inner optimizer's class. Its contents must be the same for all ranks.
        variables : bool, optional
            Whether to overwrite the variables, too, with those in the file. Default: if there are any.
        strict : bool
            False takes what fits by name, shape and type, as for any optimizer.
        convert_slots : bool
            Take slots in another ``slot_dtype``, too. Each rank has one such slot at a time whole in memory, and its
            part of all of them.

        Returns
        -------
        LoadReport
            If ``strict`` is False, as for any optimizer. It is the same on all ranks, and about whole arrays.

        Raises
        ------
        ValueError, TypeError, ImportError, OSError
            As for any optimizer, also if files of ranks are missing, or are those of two saves. What one rank raises is
            a ValueError on the others. Nothing has changed then, on any rank.
        """
        return self._together("load", lambda: self._load(path, variables, strict, convert_slots))

    def _load(
        self,
        path: str | bytes | os.PathLike[Any],
        variables: bool | None,
        strict: bool,
        convert_slots: bool,
    ) -> LoadReport | None:
        if not self.built:
            raise ValueError("load: the optimizer is not built; call build first")
        options = f"variables={variables}\nstrict={strict}\nconvert_slots={convert_slots}"
        self._settle("load", None, options)
        state = self._core.state()
        where = sharded_state.pieces(self.communicator, state, self._variable_shapes())
        self._own_pieces = where
        self._seen = self._shard.agreements
        return super().load(path, variables, strict=strict, convert_slots=convert_slots)  # type: ignore[call-overload, no-any-return]

    def _pieces(self) -> Mapping[str, Piece]:
        return self._own_pieces

    def _agree_to_load(self, attempt: Callable[[], None], checksum: int) -> None:
        self._settle("load", _failure(attempt), f"checksum of the file: {checksum}")

    # What cannot be done yet

    def stateless_apply(
        self,
        optimizer_variables: Sequence[Any],  # noqa: ARG002
        grads: Sequence[Any],  # noqa: ARG002
        trainable_variables: Sequence[Any],  # noqa: ARG002
    ) -> NoReturn:
        """Refuse: ranks can only step together, in place."""
        raise TypeError("stateless_apply: expected an optimizer of one process, found Sharded")

    def __reduce__(self) -> NoReturn:
        """Refuse: a communicator belongs to its process."""
        raise TypeError(
            "copy: expected an optimizer of one process, found Sharded, whose communicator belongs to its process; "
            "save it, and load the file into a new one"
        )

    def __copy__(self) -> NoReturn:
        """Refuse, as for `__reduce__`."""
        self.__reduce__()

    # What is the inner optimizer's

    def _is_built_on(self, names: Sequence[str], variables: Sequence[Any]) -> bool:
        is_same = super()._is_built_on(names, variables)
        if is_same:
            self._settle("build", None, "the same variables again")
        return is_same

    def _build_on(self, names: Sequence[str], arrays: Sequence[Any]) -> None:
        self.inner_optimizer._build_on(names, arrays)

    def _build_copy(self, objects: Sequence[Any], names: Sequence[str]) -> None:
        self.inner_optimizer._build_copy(objects, names)

    def _exclude(self, variables: list[Any], patterns: list[str]) -> None:
        self.inner_optimizer._exclude(variables, patterns)

    def _set_learning_rate(self, new: LearningRate) -> None:
        self.inner_optimizer.learning_rate = new

    def _parts(self) -> Sequence[Optimizer]:
        return (self.inner_optimizer,)

    def _parts_replaced(self, new: Mapping[int, Any]) -> dict[str, Any]:
        return {"inner_optimizer": new[id(self.inner_optimizer)]}

    def _description(self) -> dict[str, Any]:
        return self.inner_optimizer._description()

    def _rules(self) -> Rules:
        return self.inner_optimizer._rules()

    def _signed_slots(self) -> set[str]:
        return self.inner_optimizer._signed_slots()

    @property
    def _loss_scale(self) -> float | None:
        return self.inner_optimizer._loss_scale
