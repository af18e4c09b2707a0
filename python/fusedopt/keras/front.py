"""What Keras sees of one of fusedopt's optimizers: its options, its learning rate and its configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import fusedopt
from fusedopt import arguments, exclusions
from fusedopt.keras.host import KerasOptimizer, keras, known_objects, require_backend
from fusedopt.keras.rates import learning_rate_of
from fusedopt.keras.sharing import Sharing
from fusedopt.rules.low_bit import require_whole_slots
from fusedopt.rules.rule_optimizer import RuleOptimizer

OPTIONS = {
    name: each.default
    for name, each in RuleOptimizer._hyperparameters.items()
    if name != "name" and not each.is_keyword
}


class Front(KerasOptimizer):
    """A Keras optimizer whose options are those of the optimizer behind it."""

    _wraps: ClassVar[type] = RuleOptimizer
    fused: Any
    _sharing: Sharing

    if not TYPE_CHECKING:

        def __new__(cls, optimizer: Any = None, **_: Any) -> Any:
            """Make an object of the class that the given optimizer needs."""
            kinds = (cls, *cls.__subclasses__())
            fitting = [kind for kind in kinds if isinstance(optimizer, kind._wraps)]
            return super().__new__(fitting[0] if fitting else cls)

    def __init__(self, optimizer: fusedopt.Optimizer, **others: Any) -> None:
        who = type(self).__name__
        if not isinstance(optimizer, self._wraps):
            raise TypeError(
                f"{who}: expected a fusedopt.{self._wraps.__name__.replace('RuleO', 'O')}, found {optimizer!r}"
            )
        if others:
            raise TypeError(
                f"{who}: expected the options on fusedopt.{type(optimizer).__name__}, "
                f"found {', '.join(sorted(others))} here; give them to that one"
            )
        require_backend()
        if optimizer.built:
            raise ValueError(
                f"{who}: expected an optimizer that is not built, found one that is; "
                "Keras builds it on the model's variables"
            )
        owner = optimizer._owner and optimizer._owner()
        if owner:
            raise ValueError(
                f"{who}: expected a whole optimizer, found a part of a {type(owner).__name__}; give that one"
            )
        self._wrap(optimizer)
        self._require_whole_slots()
        self._share()

    def _require_whole_slots(self) -> None:
        """Refuse slots whose memory no variable of Keras's can have."""
        for front in (self, *self._every_part()):
            if isinstance(front.fused, RuleOptimizer):
                require_whole_slots(front.fused, "variables of Keras's share memory with the slots")

    def _wrap(self, optimizer: fusedopt.Optimizer) -> None:
        """Become the front of an optimizer, which may be part of another one."""
        # First of all, because Keras's constructor assigns the options, which are the optimizer's.
        vars(self).update(fused=optimizer, _sharing=Sharing(self))
        options = {name: getattr(self, name) for name in OPTIONS}
        KerasOptimizer.__init__(self, learning_rate=0.0, name=self.name, **options)

    def _parts(self) -> Sequence[Any]:
        """The fronts of the parts of the optimizer."""
        return ()

    def _every_part(self) -> Iterator[Any]:
        for part in self._parts():
            yield part
            yield from part._every_part()

    def _require_whole(self, who: str) -> None:
        root = self._sharing.root
        if root is not self:
            raise ValueError(
                f"{who}: expected a whole optimizer, found {self.name!r}, which is part of {root.name!r}; "
                f"call {who} of that one"
            )

    # Options

    def __getattr__(self, name: str) -> Any:
        """Return an option of the optimizer."""
        fused = vars(self).get("fused")
        if fused is not None and name in type(fused)._hyperparameters:
            return getattr(fused, name)
        if fused is not None and name in OPTIONS:
            return OPTIONS[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        """Let an option act on the optimizer, and refuse one that would have no effect."""
        fused = vars(self).get("fused")
        if fused is None or name == "learning_rate" or name.startswith("_"):
            super().__setattr__(name, value)
        elif name in type(fused)._hyperparameters:
            setattr(fused, name, value)
        elif name in OPTIONS:
            if value != OPTIONS[name]:
                raise AttributeError(
                    f"{name}: expected on the optimizers inside, found on {type(self).__name__}"
                )
        elif arguments.is_slip(name):
            raise AttributeError(fused._no_attribute(name))
        else:
            super().__setattr__(name, value)

    @property
    def learning_rate(self) -> Any:
        """The learning rate of the next step; a variable of Keras's if it is a number.

        Numbers, schedules and callables can be assigned. As in Keras, a number cannot take the place of a schedule.
        """
        self._follow()
        if isinstance(self._learning_rate, keras.Variable):
            return self._learning_rate
        return keras.ops.convert_to_tensor(self.fused.learning_rate, keras.config.floatx())

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self._follow()
        was_number = isinstance(self._learning_rate, keras.Variable)
        self.fused.learning_rate = learning_rate_of(learning_rate)
        if not (was_number and isinstance(self.fused._learning_rate, float)):
            self._sharing.root._share()

    def exclude_from_weight_decay(
        self, var_list: Iterable[Any] | None = None, var_names: Iterable[str] | None = None
    ) -> None:
        """Leave variables out of weight decay. Call it before `build`; a second call replaces the first.

        Parameters
        ----------
        var_list : sequence of keras.Variable, optional
            They must be among those of `build`.
        var_names : sequence of str, optional
            Regular expressions, searched for in the ``name`` of each variable (``"bias"``), as in Keras.

        Raises
        ------
        ValueError
            If the optimizer is built. `build` raises it if it is not given a variable of ``var_list``.
        """
        given = exclusions.checked(var_list, var_names)
        self.fused.exclude_from_weight_decay()
        for part in self._every_part():
            part._sharing.excluded = None
        self._sharing.excluded = given

    def _exclude(self, new: Mapping[int, Any], variables: Sequence[Any]) -> None:
        """Tell the optimizer which of the new variables are excluded from weight decay."""
        self._exclude_own(new, variables)
        for part in self._parts():  # whose calls are later ones
            part._exclude(new, variables)

    def _exclude_own(self, new: Mapping[int, Any], variables: Sequence[Any]) -> None:
        if self._sharing.excluded is None:
            return
        listed, patterns = self._sharing.excluded
        given = {id(v) for v in variables}
        unknown = [v.path for v in listed if id(v) not in given]
        if unknown:
            raise ValueError(
                f"exclude_from_weight_decay: expected variables that build is given, found {', '.join(unknown)}"
            )
        chosen = {id(v) for v in listed}
        for pattern in patterns:
            found = {id(v) for v in variables if re.search(pattern, v.name)}
            exclusions.warn_of_pattern(pattern, [v.name for v in variables])
            chosen |= found
        if not chosen.isdisjoint(new):
            self.fused.exclude_from_weight_decay([new[key] for key in chosen & new.keys()])

    def scale_loss(self, loss: Any) -> Any:
        """Return the loss times the factor that `apply` divides the gradients by.

        Parameters
        ----------
        loss : float, array or tensor
            What gradients are computed from.
        """
        return self.fused.scale_loss(loss)

    # Configuration

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the optimizer, with the learning rate of now."""
        self._follow()
        return {"optimizer": fusedopt.serialize(self.fused)}

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> Any:
        """Make an optimizer from what `get_config` returned.

        Parameters
        ----------
        config : dict
            With the key ``optimizer``, as ``fusedopt.serialize`` or ``keras.optimizers.serialize`` makes it.
        custom_objects : dict, optional
            Classes by name, for optimizers and schedules of your own. Those registered with Keras are known.
        """
        if "optimizer" not in config:
            raise ValueError(
                f"config: expected the key 'optimizer', found {', '.join(sorted(config))}"
            )
        known = {**known_objects(), **(custom_objects or {})}
        with keras.saving.custom_object_scope(known):  # which replaces the one around it
            made = fusedopt.deserialize(config["optimizer"], custom_objects=known)
        return cls(made)
