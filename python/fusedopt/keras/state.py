"""The state of one of fusedopt's optimizers as variables of Keras's, in its files and lists."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from fusedopt import arguments
from fusedopt.arrays import Array, checked_values
from fusedopt.keras.front import Front
from fusedopt.keras.memory import memory

_FIRST = {"iteration", "learning_rate"}  # what there is before build
_BEFORE_ACCUMULATORS = {*_FIRST, "average"}
_ACCUMULATOR = "gradient_accumulator"


class State(Front):
    """A Keras optimizer whose variables share memory with the state of the optimizer behind it."""

    @property
    def variables(self) -> list[Any]:
        """All state as variables of Keras's, in the order of Keras's optimizer of that name."""
        self._follow()
        self._sharing.root.fused.named_variables()  # Adafactor computes its velocity in here
        return [*self._variables, *(v for part in self._parts() for v in part.variables)]

    def _share(self) -> None:
        self._sharing.state = []
        self._take(dict(self.fused.named_variables()), self)
        self._sharing.settle()

    def _take(self, state: Mapping[str, Array], root: Any) -> None:
        """Make variables of the state that `root` has for this optimizer."""
        own = self._sharing
        own.root = root
        known = {name: own.variable(name, array, self.name) for name, array in state.items()}
        root._sharing.state += [(known[name], array) for name, array in state.items()]
        lists: dict[str, Any] = {
            "_iterations": known["iteration"],
            "_learning_rate": known.get(
                "learning_rate", getattr(self.fused, "_learning_rate", None)
            ),
        }
        sums: list[Any] = []
        if self.built:
            # Keras's callbacks look for averages by this name.
            if self.use_ema:
                lists["_model_variables_moving_average"] = self._of_slot("average", known)
            if self.gradient_accumulation_steps:
                sums = self._of_slot(_ACCUMULATOR, known)
                for position, variable in enumerate(self._trainable_variables):
                    if sums[position] is None:  # what will overwrite the variable
                        sums[position] = own.accumulator(variable, self.name)
                lists["_accumulated_gradients"] = sums
        slots = {name: name.partition("/")[0] for name in known}
        first = [known[name] for name, slot in slots.items() if slot in _BEFORE_ACCUMULATORS]
        last = [
            known[name]
            for name, slot in slots.items()
            if slot not in _BEFORE_ACCUMULATORS and slot != _ACCUMULATOR
        ]
        vars(self).update(lists)
        self._variables[:] = [*first, *sums, *last] if self.built else first

    def _of_slot(self, slot: str, known: Mapping[str, Any]) -> list[Any]:
        """Return the state in a slot for each trainable variable; None for one that has no state."""
        names = (self._sharing.names.get(id(v)) for v in self._trainable_variables)
        return [name and known[f"{slot}/{name}"] for name in names]

    def _place(self, variables: Sequence[Any], names: Mapping[int, str]) -> None:
        """Take note of this optimizer's variables, and of the names of those that have state, by id."""
        self._sharing.names = dict(names)
        vars(self).update(
            _trainable_variables=list(variables),
            _trainable_variables_indices={id(v): i for i, v in enumerate(variables)},
            built=True,
        )

    def _follow(self) -> None:
        """Find values that Keras, or a user, has put elsewhere since the last step."""
        sharing = self._sharing.root._sharing
        if not sharing.is_settled():
            sharing.recover()

    # Files

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Copy values into `variables`.

        Parameters
        ----------
        weights : sequence of arrays or tensors
            As many as `variables`, of the same shapes.

        Raises
        ------
        ValueError
            If the optimizer is not built, or the count or a shape is wrong; then nothing has changed.
        """
        self._set("set_weights", list(weights))

    def save_own_variables(self, store: MutableMapping[str, Any]) -> None:
        """Put the values of `variables` into a mapping under "0", "1" and so on, and master copies if there are any.

        Parameters
        ----------
        store : mutable mapping
            Such as the HDF5 group that Keras hands over.
        """
        for position, variable in enumerate(self.variables):
            store[str(position)] = np.array(memory.values(variable._value))
        for key, array in self._masters().items():
            store[key] = array.copy()

    def load_own_variables(self, store: Mapping[str, Any]) -> None:
        """Take the values of `variables` from a mapping that this class or one of Keras's has filled.

        Parameters
        ----------
        store : mapping
            Arrays under "0", "1" and so on. An empty one leaves everything as it is, with a warning.

        Raises
        ------
        ValueError
            If the optimizer is not built, or the number of values or a shape is wrong; then nothing has changed.
        """
        keys = set(store.keys())
        if not keys:
            if self._sharing.root is self:  # the values of a part stand with the whole
                arguments.warn(
                    f"load_own_variables: found no state of the optimizer {self.name!r}, which stays as it is"
                )
            return
        masters = self._masters()
        count = len(keys - masters.keys())
        expected = [str(position) for position in range(count)]
        if keys - masters.keys() != set(expected):
            raise ValueError(
                f"load_own_variables: expected the keys '0' to '{count - 1}', found {sorted(keys)[:8]}"
            )
        found = sorted(keys & masters.keys())
        copies = checked_values(
            "load_own_variables",
            [(key, masters[key]) for key in found],
            [memory.values(store[key]) for key in found],
        )
        self._set("load_own_variables", [store[key] for key in expected])
        for key, copy in zip(found, copies, strict=True):
            masters[key][...] = copy

    def _masters(self) -> dict[str, Array]:
        """Return the float32 copies of variables of 16 bits, which are not among `variables`."""
        if self._sharing.root is not self:
            return {}
        names = {
            name: array
            for name, array in self.fused._core.state()
            if "master" in name.split("/")[:2]
        }
        return {f"master_{position}": array for position, array in enumerate(names.values())}

    def _set(self, who: str, values: Sequence[Any]) -> None:
        own = self.variables
        values = [memory.values(value) for value in values]
        if not self.built or self._is_before_build(values):
            own = [v for v in own if v.name in _FIRST]
        if len(values) != len(own):
            advice = (
                "they belong to another kind of optimizer, other options or another model"
                if self.built
                else "it is not built; call optimizer.build(model.trainable_variables) first"
            )
            raise ValueError(
                f"{who}: expected {len(own)} values for the optimizer {self.name!r}, found {len(values)}; {advice}"
            )
        for variable, value in zip(own, values, strict=True):
            if tuple(value.shape) != tuple(variable.shape):
                raise ValueError(
                    f"{who}: expected shape {tuple(variable.shape)} for {variable.path!r}, found {tuple(value.shape)}"
                )
        given = {id(v): value for v, value in zip(own, values, strict=True)}
        state = [id(variable) for variable, _ in self._sharing.state]
        if self.built and state and given.keys() >= set(state):
            self.fused.set_weights([given.pop(key) for key in state])
        for variable in own:
            if id(variable) in given:
                variable.assign(given[id(variable)])
        self._follow()

    def _is_before_build(self, values: Sequence[Any]) -> bool:
        """Whether these are the values of an optimizer that is not built, and this one has not stepped either."""
        first = [v for v in self.variables if v.name in _FIRST]
        if len(values) != len(first):
            return False
        counts = [
            (v, value) for v, value in zip(first, values, strict=True) if v.name == "iteration"
        ]
        return not any(int(memory.values(v._value)) or int(value) for v, value in counts)
