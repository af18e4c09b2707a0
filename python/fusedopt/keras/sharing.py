"""Which of Keras's variables have the memory of which arrays, and whether they still do."""

from __future__ import annotations

from typing import Any

from fusedopt.arrays import Array
from fusedopt.keras.host import keras
from fusedopt.keras.memory import memory


class Sharing:
    """What a Keras optimizer shares with one of fusedopt's. Keras tracks variables in attributes, but not in here."""

    def __init__(self, owner: Any) -> None:
        self.root = owner  # takes the steps; its record has all updated variables and all state
        self.parts: list[Any] = []
        self.updated: list[Any] = []
        self.places: list[Any] = []  # the arrays or tensors that are their values
        self.state: list[tuple[Any, Array]] = []
        self.known: dict[str, Any] = {}  # variables by the name of the state
        self.names: dict[int, str] = {}  # of the model's variables, by their id
        self.excluded: tuple[list[Any], list[str]] | None = (
            None  # from weight decay: variables, patterns
        )
        self._accumulators: dict[int, Any] = {}
        self._addresses: tuple[list[int], list[int]] = ([], [])

    # State

    def variable(self, name: str, array: Array, scope: str) -> Any:
        """Return the variable for a piece of state, with the memory of its array."""
        if name not in self.known:
            slot, _, variable = name.partition("/")
            own = f"{variable.replace('/', '_')}_{slot}" if variable else slot
            with keras.name_scope(scope):
                self.known[name] = keras.Variable(
                    array, dtype=array.dtype.name, trainable=False, name=own
                )
        memory.share(self.known[name], array)
        return self.known[name]

    def accumulator(self, variable: Any, scope: str) -> Any:
        """Return the accumulator of a variable that its gradient overwrites."""
        if id(variable) not in self._accumulators:
            name = f"{variable.path.replace('/', '_')}_gradient_accumulator"
            with keras.name_scope(scope):
                self._accumulators[id(variable)] = keras.Variable(
                    keras.ops.zeros(variable.shape, variable.dtype), trainable=False, name=name
                )
        return self._accumulators[id(variable)]

    # Memory

    def settle(self) -> None:
        """Take note of where everything lies."""
        self._addresses = self._now()

    def is_settled(self) -> bool:
        """Whether everything lies where it did."""
        return self._addresses == self._now()

    def _now(self) -> tuple[list[int], list[int]]:
        of_state = memory.addresses([variable for variable, _ in self.state])
        return [id(variable._value) for variable in self.updated], of_state

    def recover(self) -> None:
        """Take over values that were put elsewhere."""
        for variable, place in zip(self.updated, self.places, strict=True):
            if variable._value is not place:
                memory.restore(variable, place)
        now = zip(self.state, self._addresses[1], self._now()[1], strict=True)
        for variable, array in [pair for pair, old, new in now if old != new]:
            array[...] = memory.values(variable._value)
            memory.share(variable, array)
        self.settle()
