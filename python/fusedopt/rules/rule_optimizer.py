"""What all update rules have in common: the learning rate, the other options, and how values reach the core."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY
from typing import Any, TypeVar

from fusedopt import arguments
from fusedopt.hyperparameters import (
    Declared,
    Hyperparameter,
    flag,
    optional_integer,
    optional_real,
    real,
)
from fusedopt.optimizer import LearningRate, Optimizer
from fusedopt.runtime import _core
from fusedopt.schedules import LearningRateSchedule, deserialize
from fusedopt.serialized import serialized

Self = TypeVar("Self", bound="RuleOptimizer")


class Rate(Hyperparameter):
    """The learning rate: what it is now, of whatever it was given as."""

    def __init__(self, default: float) -> None:
        super().__init__(
            default,
            _checked_learning_rate,
            "float, LearningRateSchedule or callable",
            "Step size, >= 0. An array or tensor of one element counts as a number. A callable takes no "
            "arguments. Schedules and callables are evaluated exactly once in each step that updates the "
            "variables. After the constructor, too, all of them can be assigned, but a number cannot take the place "
            "of a schedule, as in Keras; a callable that returns it can.",
        )

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Return the learning rate of the next step."""
        return self if instance is None else instance._core.learning_rate

    def __set__(self, instance: Any, value: LearningRate) -> None:
        """Take whatever the constructor takes."""
        instance._set_learning_rate(self.checked(instance, value))

    def kept(self, instance: Any) -> LearningRate:
        """Return the number, schedule or callable that was given last."""
        given: LearningRate = instance._learning_rate
        return self.__get__(instance) if isinstance(given, float) else given

    def configured(self, instance: Any) -> Any:
        """Return a schedule as a dictionary."""
        rate = self.kept(instance)
        if isinstance(rate, LearningRateSchedule):
            return serialized(rate, "keras.optimizers.schedules")
        return rate

    def is_default(self, instance: Any) -> bool:
        """Whether it is the number that the constructor takes if nothing is given."""
        return bool(self.kept(instance) == self.default)


class Name(Hyperparameter):
    """A name; Keras's for the class if none is given."""

    def __init__(self) -> None:
        super().__init__(
            None,
            arguments.text,
            "str, optional",
            "For your own use and for the configuration. Default: the class's name in snake case.",
        )

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Return the name."""
        return super().__get__(instance, owner)

    def __set__(self, instance: Any, value: str | None) -> None:
        """Take a name."""
        super().__set__(instance, value)

    def checked(self, instance: Any, value: Any) -> str:
        """Return the name, or that of the class."""
        return instance._name_or_default(value)  # type: ignore[no-any-return]


def rate(default: float) -> Any:
    """Declare the learning rate."""
    return Rate(default)


class RuleOptimizer(Optimizer, Declared):
    """An optimizer with one update rule."""

    _rule_name = ""

    # For type checkers what follows is by keyword. Keras's order, which the constructor has, ends with it.
    _: KW_ONLY
    weight_decay: float | None = optional_real(
        None,
        "Decoupled weight decay, >= 0: before the rule, w <- w - learning_rate * weight_decay * w.",
    )
    clipnorm: float | None = optional_real(
        None,
        "Each gradient is scaled down to at most this norm, > 0. At most one of the three clip arguments.",
    )
    clipvalue: float | None = optional_real(
        None, "Each element of a gradient is clipped to [-clipvalue, clipvalue], > 0."
    )
    global_clipnorm: float | None = optional_real(
        None, "All gradients together are scaled down to at most this norm, > 0."
    )
    use_ema: bool = flag(
        False,
        """
        Keep an exponential moving average of each variable,
        average <- ema_momentum * average + (1 - ema_momentum) * w, after every call. The first one is
        the first updated value. Under ``gradient_accumulation_steps`` the average moves on every call,
        also while the variables stand still, as in Keras.
        """,
        shapes_state=True,
    )
    ema_momentum: float = real(0.99, "Weight of the old average, in [0, 1].")
    ema_overwrite_frequency: int | None = optional_integer(
        None,
        "Every so many updates the variables are overwritten with their averages. None or 0: never.",
    )
    loss_scale_factor: float | None = optional_real(
        None, "`scale_loss` multiplies the loss by it, and a step divides the gradients by it, > 0."
    )
    gradient_accumulation_steps: int | None = optional_integer(
        None,
        "Update only on every so many calls, with the mean gradient. At least 2.",
        shapes_state=True,
    )
    name: Name = Name()
    skip_nonfinite: bool = flag(
        False,
        """
        Skip a step if a gradient has a NaN or an infinity in it. A skipped step changes nothing but
        `skipped_steps`. It does not count for ``gradient_accumulation_steps`` either, and no schedule or
        callable is evaluated. A finite float64 gradient counts as infinite if its variable is not float64 and
        float32 cannot hold it, divided by ``loss_scale_factor``. Without a norm to clip, the check costs one
        reading sweep over the gradients. Keras does not have this option, so configurations hold it only if
        it is on.
        """,
        is_keyword=True,
    )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Remember which rule of the core a class stands for: the nearest that declares more than options."""
        super().__init_subclass__(**kwargs)
        declared = {name for name, value in vars(cls).items() if isinstance(value, Hyperparameter)}
        if declared - set(RuleOptimizer._hyperparameters) - {"learning_rate"}:
            cls._rule_name = cls.__name__

    def _construct(self, values: Mapping[str, Any]) -> None:
        if not self._rule_name:
            raise TypeError(f"{type(self).__name__}: expected one of its subclasses")
        kept = dict(values)
        self._learning_rate = kept.pop("learning_rate")
        vars(self).update(kept)
        self._names: dict[str, int] = {}
        self._excluded_variables: list[Any] = []
        self._excluded_names: list[str] = []
        self._excluded_addresses: set[tuple[int, int]] = set()
        self._excluded_indices: list[int] = []
        self._connect()

    def _connect(self) -> None:
        values = self._values()
        self._core = _core.Optimizer(
            self._core_rule(values),
            self._core_options(values, self._core_learning_rate(self._learning_rate)),
        )

    def _values(self) -> dict[str, Any]:
        """Return all hyperparameters but the learning rate."""
        return {name: vars(self)[name] for name in self._hyperparameters if name in vars(self)}

    # Values on their way to the core

    def _assign(self, hyperparameter: Hyperparameter, value: Any) -> None:
        name = hyperparameter.name
        if "_core" not in vars(self):
            raise AttributeError(
                f"{name}: expected after {type(self).__name__}'s constructor, found before"
            )
        self._core.between_steps(lambda: self._reconfigure(hyperparameter, value))

    def _reconfigure(self, hyperparameter: Hyperparameter, value: Any) -> None:
        name = hyperparameter.name
        values = self._values() | {name: value}
        needs_build = (
            f"{name}: expected before build, as it shapes the state, found the optimizer built; "
            "make a new optimizer with it"
        )
        if hyperparameter.shapes_state and self.built and value != vars(self)[name]:
            raise AttributeError(needs_build)
        try:
            self._core.set_rule(self._core_rule(values))
            self._core.set_options(self._core_options(values, None))
        except _core.BuiltError:
            raise AttributeError(needs_build) from None
        vars(self)[name] = value

    def _core_rule(self, values: Mapping[str, Any]) -> _core.Rule:
        """Make the core's rule of all values."""
        return _core.rule(self._rule_name, **self._rule_fields(values))

    def _rule_fields(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: self._for_core(name, values[name])
            for name, each in self._hyperparameters.items()
            if each.reaches_core and name in values and name not in RuleOptimizer._hyperparameters
        }

    def _core_options(
        self, values: Mapping[str, Any], learning_rate: float | Callable[[int], float] | None
    ) -> _core.Options:
        """Make the core's options of all values; without a learning rate it stays."""
        own = {name: values[name] for name in RuleOptimizer._hyperparameters if name != "name"}
        own["ema_overwrite_frequency"] = own["ema_overwrite_frequency"] or None
        return _core.Options(learning_rate=learning_rate, **own)

    # The core gets functions that look the user's ones up in this object. Were it to hold them itself, the
    # garbage collector could not see a cycle through it, and a function that reads its optimizer is one.

    def _core_learning_rate(self, rate: LearningRate) -> float | Callable[[int], float]:
        if isinstance(rate, float):
            return rate
        this = weakref.ref(self)

        def evaluate(step: int) -> float:
            rate: Any = this()._learning_rate  # type: ignore[union-attr]
            value: float = rate(step) if isinstance(rate, LearningRateSchedule) else rate()
            return value

        return evaluate

    def _for_core(self, name: str, value: Any) -> Any:
        if not callable(value):
            return value
        this = weakref.ref(self)
        return lambda step: getattr(this(), name)()

    def _set_learning_rate(self, new: LearningRate) -> None:
        if isinstance(new, float) and isinstance(self._learning_rate, LearningRateSchedule):
            raise TypeError(
                "learning_rate: expected a schedule or callable in the place of a schedule, "
                f"found {new!r}; assign a callable that returns it, lambda: {new!r}, or "
                "make a new optimizer with a number"
            )
        self._core.set_learning_rate(self._core_learning_rate(new))
        self._learning_rate = new

    # Configuration

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal optimizer, without its state."""
        config = self._configuration()
        return {"name": config.pop("name"), **config}

    @classmethod
    def from_config(
        cls: type[Self],
        config: Mapping[str, Any],
        custom_objects: Mapping[str, Any] | None = None,
    ) -> Self:
        """Make an optimizer from what `get_config` returned.

        Parameters
        ----------
        config : dict
            Arguments of the class.
        custom_objects : dict, optional
            Classes by name, for schedules of your own.
        """
        arguments_of_class = arguments.configuration(config)
        rate = arguments_of_class.get("learning_rate")
        if isinstance(rate, Mapping):
            arguments_of_class["learning_rate"] = deserialize(rate, custom_objects)
        return cls(**arguments_of_class)


def _checked_learning_rate(name: str, value: Any) -> LearningRate:
    if isinstance(value, LearningRateSchedule):
        return value
    origins = {base.__module__.split(".")[0] for base in type(value).__mro__}
    if callable(value) and not origins.isdisjoint({"keras", "tf_keras"}):
        raise TypeError(
            f"{name}: expected a schedule of fusedopt, found Keras's {type(value).__name__}; "
            "build fusedopt.schedules.deserialize(keras.optimizers.schedules.serialize(schedule)) of it"
        )
    number = arguments.single(value)
    if isinstance(number, (list, tuple, dict)) or getattr(number, "shape", ()) != ():
        raise TypeError(
            f"{name}: expected a real number, found {value!r}; build takes the variables"
        )
    checked: LearningRate = arguments.number_or_function(name, number)
    return checked
