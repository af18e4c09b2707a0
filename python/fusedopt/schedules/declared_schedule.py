"""Schedules whose arguments are declared once, in the bodies of their classes."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from fusedopt import arguments
from fusedopt.declared import Declared, dataclass_transform
from fusedopt.hyperparameters import Hyperparameter
from fusedopt.schedules.arguments import (
    Steps,
    number,
    numbers_list,
    optional_number,
    optional_text,
    steps,
)
from fusedopt.schedules.learning_rate_schedule import LearningRateSchedule

_REQUIRED = inspect.Parameter.empty


class Numbers(Hyperparameter):
    """A list of numbers, given as any iterable of them."""

    def __init__(self, text: str) -> None:
        super().__init__(_REQUIRED, numbers_list, "list of float", text)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Return the list."""
        return super().__get__(instance, owner)

    def __set__(self, instance: Any, value: Iterable[float]) -> None:
        """Take another one."""
        super().__set__(instance, value)


# The results are Any, so that a class can give each attribute its own type.


def numeric(text: str, *, default: float = _REQUIRED, **how: Any) -> Any:  # type: ignore[assignment]
    """Declare a number, which stays an integer if it is one."""
    return Hyperparameter(default, number, "float", text, **how)


def optional_numeric(text: str, *, default: float | None) -> Any:
    """Declare a number or None."""
    return Hyperparameter(default, optional_number, "float, optional", text)


def flag(text: str, *, default: bool) -> Any:
    """Declare True or False."""
    return Hyperparameter(default, arguments.flag, "bool", text)


def schedule_name(*, default: str) -> Any:
    """Declare the name."""
    return Hyperparameter(
        default, optional_text, "str, optional", "For the configuration.", reaches_core=False
    )


@dataclass_transform(field_specifiers=(numeric, optional_numeric, Numbers, flag, schedule_name))
class DeclaredSchedule(LearningRateSchedule, Declared):
    """A schedule of the core."""

    @property
    @abstractmethod
    def _formula(self) -> Any:
        """The core's function of a step, or of an array of steps, and the arguments."""

    def _construct(self, values: Mapping[str, Any]) -> None:
        vars(self).update(values)
        self._note_fields()
        DeclaredSchedule.__call__(self, 0)  # refuses what is out of range

    def _assign(self, hyperparameter: Hyperparameter, value: Any) -> None:
        vars(self)[hyperparameter.name] = value
        self._note_fields()

    def _note_fields(self) -> None:
        """Keep what the core takes: to pick it out in each call takes half as long as the call."""
        self._fields: dict[str, Any] = {
            name: vars(self)[name]
            for name, each in self._hyperparameters.items()
            if each.reaches_core
        }

    @classmethod
    def _without_foreign(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        if unknown := given.keys() - cls._hyperparameters.keys():
            refused = arguments.unknown_arguments(unknown, cls._hyperparameters)
            raise TypeError(f"{cls.__name__}: {refused}")
        return dict(given)

    def __call__(self, step: Steps) -> Steps:
        """Return the learning rate after so many steps, or an array of them for an array of steps."""
        rate: Steps = self._formula(steps(step), **self._fields)
        return rate

    def __repr__(self) -> str:
        """Show the arguments that are not the defaults."""
        return f"{type(self).__name__}({', '.join(self._repr_arguments())})"

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal schedule."""
        return self._configuration()
