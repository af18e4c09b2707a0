"""What has state: values that are seen by name, replaced and copied."""

from __future__ import annotations

import re
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, TypeVar

from fusedopt.arrays import Array, as_array, checked_values, require_iterable
from fusedopt.runtime import _core
from fusedopt.state import copying

_Result = TypeVar("_Result")
Core = _core.Optimizer | _core.MultiOptimizer | _core.LossScale
Self = TypeVar("Self", bound="Stateful")


class Stateful(ABC):
    """The front of one of the core's objects, whose state it gives and takes. All of them answer alike."""

    _core: Core
    _owner: weakref.ref[Stateful] | None = None  # what is around this one

    @property
    def built(self) -> bool:
        """Whether `build` has been called."""
        return self._core.built

    @property
    def iterations(self) -> int:
        """The number of updates so far: steps, divided by ``gradient_accumulation_steps``."""
        return self._core.iterations

    @property
    def global_norm(self) -> float | None:
        """The norm over all gradients of the last update, before clipping; None without ``global_clipnorm``."""
        return self._core.global_norm

    @property
    def skipped_steps(self) -> int:
        """How many steps ``skip_nonfinite`` has skipped so far.

        The count is saved with the state if ``skip_nonfinite`` is on. It is not one of `variables`.

        Examples
        --------
        >>> import numpy as np
        >>> import fusedopt as fo
        >>> w = np.ones(2)
        >>> optimizer = fo.SGD(learning_rate=1.0, skip_nonfinite=True)
        >>> optimizer.build([w])
        >>> optimizer.apply([np.array([0.5, np.nan])])
        >>> w, optimizer.iterations, optimizer.skipped_steps
        (array([1., 1.]), 0, 1)
        """
        return self._core.skipped_steps

    @property
    def nbytes(self) -> int:
        """The bytes that it holds beside the variables: slots, averages, accumulators and master copies.

        Slots count in their own ``slot_dtype``, with their scales, and so does what ``row_updates="caught_up"`` notes
        of rows. Single numbers such as `iterations`, and memory that a step works in, do not count. Before `build` it
        is 0. In `Sharded` it is what this rank holds.

        Examples
        --------
        >>> import numpy as np
        >>> import fusedopt as fo
        >>> optimizer = fo.Adam(slot_dtype="bfloat16", use_ema=True)
        >>> optimizer.build([np.zeros(1000, dtype=np.float32)])
        >>> optimizer.nbytes  # two slots of 2 bytes, an average of 4
        8000
        """
        return self._core.state_bytes

    # Values

    @property
    def variables(self) -> list[Array]:
        """Live views of all state, in Keras's order.

        The iteration counter, the learning rate if it is a number, moving averages, gradient
        accumulators, then the rule's slots. Writing into a view changes the optimizer. While another
        thread steps, the views change one after the other; `save_own_variables` copies all of one moment.
        Under ``row_updates="caught_up"`` all rows are caught up first, and slots of rows that later steps
        leave out lag behind again.

        Slots that are kept in fewer bits (``slot_dtype``) are read-only float32 copies, which later steps do not
        change. `set_weights` writes them, and rounds to the nearest number that the bits hold.
        """
        return list(self.named_variables().values())

    def named_variables(self) -> dict[str, Array]:
        """Return `variables` by name.

        Returns
        -------
        dict of numpy.ndarray
            Live views, and copies of slots of fewer bits, in the order of `variables`. State of the whole optimizer has
            a plain name, such as ``"iteration"``. State of a variable has the name of the slot and that of the
            variable, as given to `build`, such as ``"momentum/dense/kernel"``. Variables without names are numbered. A
            `MultiOptimizer` puts the number of the optimizer before the name, and a `LossScaleOptimizer` puts
            ``"loss_scale"`` before its own.

        Examples
        --------
        >>> import numpy as np
        >>> import fusedopt as fo
        >>> optimizer = fo.SGD(momentum=0.9, use_ema=True)
        >>> optimizer.build({"kernel": np.zeros(2)})
        >>> list(optimizer.named_variables())
        ['iteration', 'learning_rate', 'average/kernel', 'momentum/kernel']
        >>> optimizer.named_variables()["momentum/kernel"]
        array([0., 0.])
        """
        return dict(self._core.variables())

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Copy values into `variables`.

        Parameters
        ----------
        weights : sequence of numpy.ndarray
            As many as `variables`, of the same shapes and kinds; they are cast. Slots of fewer bits take the nearest
            number that they can hold.

        Raises
        ------
        ValueError
            If the optimizer is not built, or count, a shape, a kind or a value is wrong; then
            nothing has changed.
        TypeError
            If an object gives no array, or one with a mask; then nothing has changed.
        """
        if not self.built:
            raise ValueError("set_weights: the optimizer is not built; call build first")
        values = self._arrays_for_state(weights)
        self._between_steps("set_weights", lambda: self._set_values(values))

    def _arrays_for_state(self, weights: Sequence[Any]) -> list[Array]:
        require_iterable("weights", weights)
        weights = list(weights)
        own = self.named_variables()
        if len(weights) != len(own):
            raise ValueError(f"set_weights: expected {len(own)} arrays, found {len(weights)}")
        return [
            as_array(value, f"set_weights: array {i} ({name})")
            for i, (name, value) in enumerate(zip(own, weights, strict=True))
        ]

    def _set_values(self, values: list[Array]) -> None:
        own = list(self.named_variables().items())
        self._core.set_weights(checked_values("set_weights", own, values))

    def save_own_variables(self, store: MutableMapping[str, Any]) -> None:
        """Put copies of `variables` into a mapping, under "0", "1" and so on, as Keras does.

        All of them are of one moment, even if another thread steps.

        Parameters
        ----------
        store : mutable mapping
            What Keras hands to such a method, such as an HDF5 group, or a dict.
        """
        copies = self._between_steps("save_own_variables", lambda: _core.copies(self.variables))
        for position, copy in enumerate(copies):
            store[str(position)] = copy

    def load_own_variables(self, store: Mapping[str, Any]) -> None:
        """Take `variables` from a mapping that `save_own_variables` filled, here or in Keras.

        Parameters
        ----------
        store : mapping
            Arrays under "0", "1" and so on, no more and no fewer than `variables`.

        Raises
        ------
        ValueError
            As `set_weights` does, or if the keys are others; then nothing has changed.
        """
        if not self.built:
            raise ValueError("load_own_variables: the optimizer is not built; call build first")
        if not hasattr(store, "keys"):
            raise TypeError(f"store: expected a mapping, found {type(store).__name__}")
        keys = set(store.keys())
        count = len(self.variables)
        expected = [str(position) for position in range(count)]
        if keys != set(expected):
            raise ValueError(
                f"load_own_variables: expected the keys '0' to '{count - 1}', "
                f"found {len(keys)} keys: {sorted(map(repr, keys))[:8]}"
            )
        self.set_weights([store[key] for key in expected])

    def _variable_names(self) -> list[str]:
        """Return the names of the variables; numbers if they have none."""
        return self._core.names or [str(position) for position in range(len(self._core.arrays))]

    # One moment

    def _require_training(self, who: str) -> None:
        if self._core.evaluating:
            raise ValueError(
                f"{who}: expected the weights in training, found the variables lent to an evaluation; "
                "leave the block of evaluation_weights first"
            )

    def _between_steps(self, who: str, function: Callable[[], _Result]) -> _Result:
        self._require_training(who)
        return self._core.between_steps(function)

    def _require_whole(self, who: str) -> None:
        if any(count < 0 for _, count in self._own_counts()):
            raise ValueError(
                f"{who}: expected a whole state, found an iteration below 0, as a failed load leaves it; "
                "load a whole file first"
            )

    def _own_counts(self) -> list[tuple[str, Array]]:
        """Return live views of the counters without which no step is taken."""
        return [item for item in self._core.state() if re.fullmatch(r"(\d+/)?iteration", item[0])]

    # Copies

    def __reduce__(self) -> tuple[Any, ...]:
        """Give `copy.deepcopy` and `pickle` everything, of one moment."""
        return copying.bare, (type(self),), self.__getstate__()

    def __getstate__(self) -> dict[str, Any]:
        """Return everything that a copy needs."""
        return copying.state_of(self)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Become a copy of the optimizer whose state this is."""
        copying.restore(self, copying.updatable(state))

    def __copy__(self: Self) -> Self:
        """Make an optimizer with state of its own, on the same variables."""
        copied: Self = copying.shallow(self)
        return copied

    @abstractmethod
    def _values(self) -> dict[str, Any]:
        """Return the arguments as they are now, but for the learning rate."""

    @abstractmethod
    def _new_arguments(self) -> dict[str, Any]:
        """Return what a copy lacks that was made before the class had all of its arguments."""

    @abstractmethod
    def _connect(self) -> None:
        """Make the core's object of the attributes, and of the parts if there are any."""

    @abstractmethod
    def _build_copy(self, objects: Sequence[Any], names: Sequence[str]) -> None:
        """Build on copies of the variables, or on others that stand for them."""

    @abstractmethod
    def _parts(self) -> Sequence[Any]:
        """Return the optimizers that this one is put around."""

    @abstractmethod
    def _parts_replaced(self, new: Mapping[int, Any]) -> dict[str, Any]:
        """Return the attributes that hold parts, with new ones in the place of those with these ids."""
