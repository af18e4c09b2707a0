"""A mapping from variable names to optimizers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from fusedopt import arguments
from fusedopt.configuration.optimizers import checked, deserialize, serialize
from fusedopt.optimizer import Optimizer


class OptimizerMap(MutableMapping[str, Optimizer]):
    """A mapping from variable names to optimizers.

    A name is looked up as a key first; then every key is tried as a regular expression that must
    match the whole name; the default optimizer serves the rest.

    Parameters
    ----------
    default_optimizer : Optimizer
        For names that no key matches.
    optimizer_map : dict, optional
        Optimizers by name or pattern.

    Raises
    ------
    TypeError
        For a value that is not an Optimizer.
    ValueError
        For a LossScaleOptimizer or MultiOptimizer inside, a key set twice, or, at a look-up, a name
        that two patterns match.

    Examples
    --------
    >>> import fusedopt as fo
    >>> optimizers = fo.OptimizerMap(fo.SGD())
    >>> optimizers["encoder/.*"] = fo.Adam()
    >>> optimizers["encoder/kernel"].name, optimizers["decoder/kernel"].name
    ('adam', 'sgd')

    References
    ----------
    Keras 3, ``keras.optimizers.OptimizerMap``.
    """

    def __init__(
        self,
        default_optimizer: Optimizer,
        optimizer_map: Mapping[str, Optimizer] | None = None,
    ) -> None:
        self.default_optimizer = _checked(default_optimizer, "default_optimizer")
        if optimizer_map is not None and not isinstance(optimizer_map, Mapping):
            raise TypeError(f"optimizer_map: expected a dict, found {optimizer_map!r}")
        self._optimizers: dict[str, Optimizer] = {}
        for key, optimizer in (optimizer_map or {}).items():
            self[key] = optimizer

    def __getitem__(self, key: str) -> Optimizer:
        """Return the optimizer of this name."""
        if key in self._optimizers:
            return self._optimizers[key]
        matching = [pattern for pattern in self._optimizers if re.fullmatch(pattern, key)]
        if len(matching) > 1:
            raise ValueError(
                f"optimizer_map: expected one pattern to match {key!r}, "
                f"found {', '.join(map(repr, matching))}"
            )
        return self._optimizers[matching[0]] if matching else self.default_optimizer

    def __setitem__(self, key: str, optimizer: Optimizer) -> None:
        """Give names that match a key to an optimizer."""
        arguments.text("optimizer_map key", key)
        if key in self._optimizers:
            raise ValueError(f"optimizer_map: expected a new key, found {key!r} set already")
        try:
            re.compile(key)
        except re.error as error:
            raise ValueError(
                f"optimizer_map: expected a name or regular expression, found {key!r} ({error})"
            ) from None
        self._optimizers[key] = _checked(optimizer, f"optimizer_map[{key!r}]")

    def __delitem__(self, key: str) -> None:
        """Forget a key."""
        del self._optimizers[key]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys."""
        return iter(self._optimizers)

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._optimizers)

    def optimizers(self) -> list[Optimizer]:
        """Return each optimizer once, in the order of the keys, the default one last."""
        unique: list[Optimizer] = []
        for optimizer in [*self._optimizers.values(), self.default_optimizer]:
            if not any(optimizer is other for other in unique):
                unique.append(optimizer)
        return unique

    def __copy__(self) -> OptimizerMap:
        """Make a map of the same optimizers that can be changed by itself."""
        return self._with({})

    def _with(self, new: Mapping[int, Any]) -> OptimizerMap:
        """Copy the map, with new optimizers in the place of those with these ids."""

        def replaced(optimizer: Optimizer) -> Optimizer:
            found: Optimizer = new.get(id(optimizer), optimizer)
            return found

        copied: OptimizerMap = object.__new__(type(self))
        vars(copied).update(vars(self))
        copied.default_optimizer = replaced(self.default_optimizer)
        copied._optimizers = {key: replaced(value) for key, value in self._optimizers.items()}
        return copied

    def __repr__(self) -> str:
        """Show the optimizers."""
        return f"OptimizerMap({self.default_optimizer!r}, {self._optimizers!r})"

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal map."""
        return {
            "default_optimizer": serialize(self.default_optimizer),
            "optimizer_map": {
                key: serialize(optimizer) for key, optimizer in self._optimizers.items()
            },
        }

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> OptimizerMap:
        """Make a map from what `get_config` returned.

        Parameters
        ----------
        config : dict
            Arguments of the class, with configurations in the place of optimizers.
        custom_objects : dict, optional
            Classes by name, for schedules and optimizers of your own.
        """
        own = arguments.configuration(config)
        optimizers = own.get("optimizer_map") or {}
        return cls(
            _deserialized(own.get("default_optimizer"), custom_objects),
            {key: _deserialized(value, custom_objects) for key, value in optimizers.items()},
        )


def _checked(given: Any, name: str) -> Optimizer:
    optimizer = checked(name, given)
    if optimizer._parts():
        found = type(optimizer).__name__
        raise ValueError(f"{name}: expected another kind, found a {found}")
    return optimizer


def _deserialized(config: Any, custom_objects: Mapping[str, Any] | None) -> Optimizer:
    return config if isinstance(config, Optimizer) else deserialize(config, custom_objects)
