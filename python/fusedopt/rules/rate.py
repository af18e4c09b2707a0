"""The learning rate and the name, which are more than values that are kept."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

from fusedopt import arguments
from fusedopt.configuration.objects import serialized
from fusedopt.hyperparameters import Hyperparameter
from fusedopt.optimizer import LearningRate
from fusedopt.schedules import LearningRateSchedule, deserialize


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

    def deserialized(
        self, value: Mapping[str, Any], custom_objects: Mapping[str, Any] | None
    ) -> LearningRateSchedule:
        """Make a schedule of a dictionary."""
        return deserialize(value, custom_objects)

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
        are_rates = isinstance(number, (list, tuple)) and all(
            isinstance(each, numbers.Real) for each in number
        )
        advice = "give one number or a schedule; " if are_rates else ""
        raise TypeError(
            f"{name}: expected a real number, found {value!r}; {advice}build takes the variables"
        )
    if isinstance(number, type):
        advice = arguments.make_one(number, LearningRateSchedule)
        raise TypeError(
            f"{name}: expected a real number, schedule or callable, found {value!r}{advice}"
        )
    checked: LearningRate = arguments.number_or_function(name, number, ", schedule")
    return checked
