"""Several optimizers at once, each for the variables whose names it is given."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY
from typing import Any

from fusedopt import arguments, exclusions
from fusedopt.arrays import address, as_array, described
from fusedopt.configuration.objects import find_class
from fusedopt.files.partial_loading import Rules
from fusedopt.hyperparameters import Hyperparameter, flag, optional_real, required
from fusedopt.optimizer import LearningRate, Optimizer
from fusedopt.optimizer_map import OptimizerMap
from fusedopt.rules.rate import Name
from fusedopt.rules.rule_optimizer import RuleOptimizer
from fusedopt.runtime import _core


def _checked_map(name: str, value: Any) -> OptimizerMap:
    if not isinstance(value, OptimizerMap):
        are_several = isinstance(value, (Mapping, Sequence)) and not isinstance(value, str)
        advice = arguments.make_one(value, OptimizerMap)
        if are_several or isinstance(value, Optimizer):
            advice = "; give OptimizerMap(default_optimizer, {name or pattern: optimizer})"
        raise TypeError(f"{name}: expected an OptimizerMap, found {value!r}{advice}")
    return value


def _serialized(optimizer_map: OptimizerMap) -> dict[str, Any]:
    return {
        "module": "keras.optimizers",
        "class_name": "OptimizerMap",
        "config": optimizer_map.get_config(),
        "registered_name": None,
    }


def _deserialized(
    config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None
) -> OptimizerMap:
    cls, own = find_class(config, {"OptimizerMap": OptimizerMap}, OptimizerMap)
    made: OptimizerMap = cls.from_config(own, custom_objects=custom_objects)
    return made


class MultiOptimizer(Optimizer):
    """Several optimizers, stepped as one.

    `build` gives each variable to the optimizer its name is mapped to. A call of `apply` is checked for all of them
    before the first one writes. Each optimizer has its own clipping, moving averages, accumulation and learning rate.
    Only a ``global_clipnorm`` given here holds for all.

    All optimizers step or none does. If one with ``skip_nonfinite`` finds a NaN or an infinity in its gradients,
    no optimizer steps. `skipped_steps` here then grows, and so does that of each optimizer with ``skip_nonfinite``
    that has a variable in the call.

    A member can be stepped alone, too, and then counts a step that the others and this optimizer do not. As in Keras,
    `variables` begins with an iteration and a ``learning_rate`` of this optimizer, which stays 0: each member has its
    own.

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

    _inside = RuleOptimizer._of_rules, "the optimizers of the map"

    optimizer_map: OptimizerMap = required(
        _checked_map,
        "OptimizerMap",
        """
        Unbuilt optimizers. LossScaleOptimizer and MultiOptimizer cannot be inside, but a
        LossScaleOptimizer may be put around.
        """,
        serialize=_serialized,
        deserialize=_deserialized,
    )
    loss_scale_factor: float | None = optional_real(
        None, "Replaces that of every optimizer, even if it is None. > 0."
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
        self._optimizers: list[Any] = self.optimizer_map.optimizers()  # of rules
        self._assignment: list[int] = []
        self._connect()

    def _connect(self) -> None:
        self._core: _core.MultiOptimizer = _core.MultiOptimizer(
            [optimizer._core for optimizer in self._optimizers],
            self.loss_scale_factor,
            self.global_clipnorm,
            self.skip_nonfinite,
        )
        self._adopt_parts(self.loss_scale_factor)

    def _assign(self, hyperparameter: Hyperparameter, value: Any) -> None:
        name = hyperparameter.name

        def assign() -> None:
            names = ("loss_scale_factor", "global_clipnorm", "skip_nonfinite")
            values = {each: vars(self)[each] for each in names} | {name: value}
            self._core.set_options(*(values[each] for each in names))
            vars(self)[name] = value
            if name == "loss_scale_factor":
                self._note_loss_scale(value)

        self._core.between_steps(assign)

    @property
    def optimizers(self) -> list[Optimizer]:
        """Each optimizer once, in the order of the map's keys, the default one last."""
        return list(self._optimizers)

    def _build_on(self, names: Sequence[str], arrays: Sequence[Any]) -> None:
        assignment = self._owners(names, arrays)
        parts = [
            [i for i, owner in enumerate(assignment) if owner == k]
            for k in range(len(self.optimizers))
        ]
        own_names = [[names[i] for i in part] if names else [] for part in parts]
        own_arrays = [[arrays[i] for i in part] for part in parts]
        members = list(zip(self._optimizers, own_names, own_arrays, strict=True))
        for member, *own in members:
            member._pass_exclusions(*own)
        exclusions.warn_of_misses([member._exclusions(*own) for member, *own in members])
        self._core.build(arrays, names, assignment)
        self._assignment = assignment
        for optimizer in self._optimizers:
            optimizer._note_built()

    def _owners(self, names: Sequence[str], arrays: Sequence[Any]) -> list[int]:
        """Return which optimizer updates each variable; warn of keys that match none.

        Variables that are built already stay where they are.
        """
        default = self.optimizer_map.default_optimizer
        owners = [self.optimizer_map[name] for name in names] or [default] * len(arrays)
        if self.built:
            old = {
                address(array): self.optimizers[k]
                for array, k in zip(self._core.checked_arrays(), self._assignment, strict=True)
            }
            owners = [
                old.get(address(as_array(array, f"build: {described(i, names)}")), owner)
                for i, (array, owner) in enumerate(zip(arrays, owners, strict=True))
            ]
        for key in self.optimizer_map:
            if not any(key == name or re.fullmatch(key, name) for name in names):
                hint = (
                    "" if names else "; build was given no names, so the default optimizer has all"
                )
                arguments.warn(f"optimizer_map: no variable's name matches {key!r}{hint}")
        return [
            next(k for k, optimizer in enumerate(self.optimizers) if optimizer is owner)
            for owner in owners
        ]

    def _exclude(self, variables: list[Any], patterns: list[str]) -> None:
        for optimizer in self._optimizers:
            optimizer._require_excludable(variables, patterns)
        for optimizer in self._optimizers:
            optimizer._exclude(variables, patterns)

    def _set_learning_rate(self, new: LearningRate) -> None:  # noqa: ARG002
        raise AttributeError("MultiOptimizer has no learning rate; its optimizers have")

    @property
    def _loss_scale(self) -> float | None:
        return self.loss_scale_factor

    def _parts(self) -> Sequence[Optimizer]:
        return self.optimizers

    def _parts_replaced(self, new: Mapping[int, Any]) -> dict[str, Any]:
        return {
            "_optimizers": [new[id(optimizer)] for optimizer in self.optimizers],
            "optimizer_map": self.optimizer_map._with(new),
        }

    def _build_copy(self, objects: Sequence[Any], names: Sequence[str]) -> None:
        for k, optimizer in enumerate(self._optimizers):
            optimizer._exclude_copies([objects[i] for i in self._variables_of(k)])
        self._core.build(objects, names, self._assignment)
        for optimizer in self._optimizers:
            optimizer._reconfigure({})

    def _variables_of(self, number: int) -> list[int]:
        """Return which variables an optimizer updates."""
        return [i for i, owner in enumerate(self._assignment) if owner == number]

    def _rules(self) -> Rules:
        own = {f"{k}/": member._rules()[""] for k, member in enumerate(self.optimizers)}
        return {"": {type(self).__name__}, **own}

    def _signed_slots(self) -> set[str]:
        members = enumerate(self._optimizers)
        return {f"{k}/{slot}" for k, member in members for slot in member._signed_slots()}
