"""Several optimizers at once, each for the variables whose names it is given.

One module, though long: half of it is docstrings, and the map is of no use without the optimizer.
"""

from __future__ import annotations

import re
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import KW_ONLY
from typing import Any

from fusedopt import arguments
from fusedopt.hyperparameters import Declared, Hyperparameter, flag, optional_real, required
from fusedopt.loss_scale_optimizer import LossScaleOptimizer
from fusedopt.optimizer import LearningRate, Optimizer, address, as_array, named
from fusedopt.rules.rule_optimizer import Name
from fusedopt.runtime import _core
from fusedopt.serialized import find_class, serialized
from fusedopt.state import Array


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

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal map."""
        return {
            "default_optimizer": serialized(self.default_optimizer, "keras.optimizers"),
            "optimizer_map": {
                key: serialized(optimizer, "keras.optimizers")
                for key, optimizer in self._optimizers.items()
            },
        }

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> OptimizerMap:
        """Make a map from what `get_config` returned."""
        own = arguments.configuration(config)
        optimizers = own.get("optimizer_map") or {}
        return cls(
            _deserialized(own.get("default_optimizer"), custom_objects),
            {key: _deserialized(value, custom_objects) for key, value in optimizers.items()},
        )


def _checked_map(name: str, value: Any) -> OptimizerMap:
    if not isinstance(value, OptimizerMap):
        raise TypeError(f"{name}: expected an OptimizerMap, found {value!r}")
    return value


class MultiOptimizer(Optimizer, Declared):
    """Several optimizers, stepped as one.

    `build` gives each variable to the optimizer its name is mapped to. A call of `apply` is checked
    for all of them before the first one writes. Clipping, moving averages, accumulation and learning
    rates are each optimizer's own, but for a ``global_clipnorm`` given here.

    All optimizers step or none does. If one with ``skip_nonfinite`` finds a NaN or an infinity in its gradients,
    no optimizer steps. `skipped_steps` here then grows, and so does that of each optimizer with ``skip_nonfinite``
    that has a variable in the call.

    Raises
    ------
    ValueError, TypeError
        For an argument of another kind, an optimizer that is built already, or one that clips besides
        ``global_clipnorm``.

    Warns
    -----
    UserWarning
        At `build`, if a key of the map matches no variable's name: its optimizer may update nothing.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedopt as fo
    >>> weights = {"embedding/table": np.ones(2), "dense/kernel": np.ones(2)}
    >>> optimizers = fo.OptimizerMap(fo.Adam(learning_rate=0.1), {"embedding/.*": fo.SGD(1.0)})
    >>> optimizer = fo.MultiOptimizer(optimizers)
    >>> optimizer.build(weights)
    >>> optimizer.apply({name: np.array([1.0, -1.0]) for name in weights})
    >>> weights["embedding/table"], weights["dense/kernel"].round(2)
    (array([0., 2.]), array([0.9, 1.1]))

    References
    ----------
    Keras 3, ``keras.optimizers.MultiOptimizer``, which can fail after some of its optimizers have written.
    """

    optimizer_map: OptimizerMap = required(
        _checked_map,
        "OptimizerMap",
        """
        Unbuilt optimizers. LossScaleOptimizer and MultiOptimizer cannot be inside, but a
        LossScaleOptimizer may be put around.
        """,
    )
    loss_scale_factor: float | None = optional_real(
        None, "Replaces that of every optimizer, also where it is None. > 0."
    )
    name: Name = Name()
    _: KW_ONLY
    global_clipnorm: float | None = optional_real(
        None,
        """
        All gradients of a call, over all optimizers, are scaled down together to at most this norm. An
        optimizer that accumulates has a part in it only in the calls in which it updates, with its averaged
        gradients. In other calls its gradients are neither measured nor clipped. No optimizer of the map may
        have a clip argument of its own besides. Keras does not have this argument, so configurations hold it
        only if it is given.
        """,
        is_keyword=True,
    )
    skip_nonfinite: bool = flag(
        False,
        """
        Skip a step if any gradient has a NaN or an infinity in it, whichever optimizer it belongs to.
        Configurations hold it only if it is on.
        """,
        is_keyword=True,
    )

    def _construct(self, values: Mapping[str, Any]) -> None:
        vars(self).update(values)
        self._optimizers = self.optimizer_map.optimizers()
        self._names: dict[str, int] = {}
        self._assignment: list[int] = []
        self._connect()

    def _connect(self) -> None:
        self._multi = _core.MultiOptimizer(
            [optimizer._core for optimizer in self.optimizers],
            self.loss_scale_factor,
            self.global_clipnorm,
            self.skip_nonfinite,
        )
        for optimizer in self.optimizers:
            optimizer._note_loss_scale(self.loss_scale_factor)
            optimizer._owner = weakref.ref(self)
        self._core = self._multi  # type: ignore[assignment]

    def _assign(self, hyperparameter: Hyperparameter, value: Any) -> None:
        name = hyperparameter.name

        def assign() -> None:
            names = ("loss_scale_factor", "global_clipnorm", "skip_nonfinite")
            values = {each: vars(self)[each] for each in names} | {name: value}
            self._multi.set_options(*(values[each] for each in names))
            vars(self)[name] = value
            if name == "loss_scale_factor":
                for optimizer in self.optimizers:
                    optimizer._note_loss_scale(value)

        self._core.between_steps(assign)

    def _note_loss_scale(self, factor: float | None) -> None:
        super()._note_loss_scale(factor)
        for optimizer in self.optimizers:
            optimizer._note_loss_scale(factor)

    @property
    def optimizers(self) -> list[Optimizer]:
        """Each optimizer once, in the order of the map's keys, the default one last."""
        return list(self._optimizers)

    def build(self, variables: Sequence[Any] | Mapping[str, Any]) -> None:
        """Give each variable to its optimizer, and build them. See `Optimizer.build`.

        Building again adds variables. Those that are built already stay with their optimizers.

        Variables without names all go to the default optimizer. A key of the map that matches no variable's
        name warns. Without names no key matches.
        """
        names, arrays = named(variables)
        if self._is_built_on(names, arrays):
            return
        assignment = self._owners(names, arrays)
        parts = [
            [i for i, owner in enumerate(assignment) if owner == k]
            for k in range(len(self.optimizers))
        ]
        own_names = [[names[i] for i in part] if names else [] for part in parts]
        for optimizer, part, own in zip(self.optimizers, parts, own_names, strict=True):
            optimizer._pass_exclusions(own, [arrays[i] for i in part], names)
        self._multi.build(arrays, names, assignment)
        self._assignment = assignment
        for optimizer in self.optimizers:
            optimizer._note_built()
        self._names = {name: i for i, name in enumerate(self._multi.names)}

    def _owners(self, names: Sequence[str], arrays: Sequence[Any]) -> list[int]:
        """Return which optimizer updates each variable; warn of keys that match none.

        Variables that are built already stay where they are.
        """
        default = self.optimizer_map.default_optimizer
        owners = [self.optimizer_map[name] for name in names] or [default] * len(arrays)
        if self.built:
            old = {
                address(array): self.optimizers[k]
                for array, k in zip(self._core.arrays, self._assignment, strict=True)
            }
            owners = [
                old.get(address(as_array(array, f"build: variable {i}")), owner)
                for i, (array, owner) in enumerate(zip(arrays, owners, strict=True))
            ]
        for key in self.optimizer_map:
            if not any(key == name or re.fullmatch(key, name) for name in names):
                hint = (
                    "" if names else "; build was given no names, so the default optimizer has all"
                )
                warnings.warn(
                    f"optimizer_map: no variable's name matches {key!r}{hint}", stacklevel=3
                )
        return [
            next(k for k, optimizer in enumerate(self.optimizers) if optimizer is owner)
            for owner in owners
        ]

    def exclude_from_weight_decay(
        self,
        var_list: Iterable[Any] | None = None,  # noqa: ARG002
        var_names: Iterable[str] | None = None,  # noqa: ARG002
    ) -> None:
        """Raise TypeError: weight decay is each optimizer's own, and so are its exclusions."""
        raise TypeError(
            "exclude_from_weight_decay: expected on an optimizer of the map, found on MultiOptimizer"
        )

    @property
    def learning_rate(self) -> float:
        """Raise AttributeError: each optimizer has its own."""
        raise AttributeError("MultiOptimizer has no learning rate; its optimizers have")

    @learning_rate.setter
    def learning_rate(self, learning_rate: LearningRate) -> None:  # noqa: ARG002
        raise AttributeError("MultiOptimizer has no learning rate; its optimizers have")

    @property
    def global_norm(self) -> float | None:
        """The norm over all gradients of the last update, before clipping; None without ``global_clipnorm`` here."""
        return self._core.global_norm

    def _parts(self) -> Sequence[Optimizer]:
        return self.optimizers

    def _parts_replaced(self, new: Mapping[int, Any]) -> dict[str, Any]:
        return {
            "_optimizers": [new[id(optimizer)] for optimizer in self.optimizers],
            "optimizer_map": self.optimizer_map._with(new),
        }

    def _own_state(self) -> list[tuple[str, Array]]:
        return [item for item in self._multi.state() if "/" not in item[0]]

    def _exclude_copies(self, objects: Sequence[Any]) -> None:
        for k, optimizer in enumerate(self.optimizers):
            optimizer._exclude_copies([objects[i] for i in self._variables_of(k)])

    def _build_copy(self, objects: Sequence[Any]) -> None:
        self._exclude_copies(objects)
        self._multi.build(objects, self._variable_names(), self._assignment)

    def _variables_of(self, number: int) -> list[int]:
        """Return which variables an optimizer updates."""
        return [i for i, owner in enumerate(self._assignment) if owner == number]

    @property
    def averages(self) -> dict[str, Array]:
        """Live views of the moving averages, by the names of their variables.

        Variables of optimizers without ``use_ema`` have none.
        """
        found = {
            name: array
            for optimizer in self.optimizers
            for name, array in optimizer.averages.items()
        }
        names = self._variable_names() or [str(i) for i in range(len(self._assignment))]
        return {name: found[name] for name in names if name in found}

    def _rules(self) -> dict[str, set[str]]:
        own = {f"{k}/": member._rules()[""] for k, member in enumerate(self.optimizers)}
        return {"": {type(self).__name__}, **own}

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal optimizer, without its state."""
        optimizer_map = {
            "module": "keras.optimizers",
            "class_name": "OptimizerMap",
            "config": self.optimizer_map.get_config(),
            "registered_name": None,
        }
        return {**self._configuration(), "optimizer_map": optimizer_map}

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> MultiOptimizer:
        """Make an optimizer from what `get_config` returned. See `Optimizer.from_config`."""
        own = arguments.configuration(config)
        optimizers = own.get("optimizer_map")
        if isinstance(optimizers, Mapping):
            map_class, map_config = find_class(
                optimizers, {"OptimizerMap": OptimizerMap}, OptimizerMap
            )
            own["optimizer_map"] = map_class.from_config(map_config, custom_objects=custom_objects)
        return cls(**own)


def _checked(optimizer: Any, name: str) -> Optimizer:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{name}: expected an Optimizer, found {optimizer!r}")
    if isinstance(optimizer, LossScaleOptimizer | MultiOptimizer):
        found = type(optimizer).__name__
        raise ValueError(f"{name}: expected another kind, found a {found}")  # noqa: TRY004
    return optimizer


def _deserialized(config: Any, custom_objects: Mapping[str, Any] | None) -> Any:
    if isinstance(config, Optimizer):
        return config
    cls, own = find_class(config, custom_objects, Optimizer)
    return cls.from_config(own, custom_objects=custom_objects)
