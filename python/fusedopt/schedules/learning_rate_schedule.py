"""What every schedule is: a function of the step that can be written down and read back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from fusedopt import arguments
from fusedopt.configuration.objects import custom_classes, made_of


class LearningRateSchedule(ABC):
    """The base class of learning-rate schedules; subclass it and define ``__call__``.

    An optimizer calls its schedule exactly once in each step that updates the variables, before
    anything is written, with the number of steps taken so far: 0 in the first. Under
    ``gradient_accumulation_steps`` that number counts every call of ``apply``.

    The schedules of this package also take an array, a tensor or a list of steps, and return a float64 array of
    the same shape. Their steps may be below zero, as in Keras. The same formula holds there, so the result
    may be negative, infinite or NaN, which an optimizer refuses.

    To be serialised, a subclass also defines ``get_config``, whose result its ``from_config``
    takes. Schedules in that configuration are serialised with it.

    Examples
    --------
    >>> import fusedopt as fo
    >>> class Halving(fo.schedules.LearningRateSchedule):
    ...     def __init__(self, start):
    ...         self.start = start
    ...
    ...     def __call__(self, step):
    ...         return self.start * 0.5**step
    ...
    ...     def get_config(self):
    ...         return {"start": self.start}
    >>> fo.SGD(learning_rate=Halving(1.0)).learning_rate
    1.0

    References
    ----------
    Keras 3, ``keras.optimizers.schedules.LearningRateSchedule``.
    """

    @abstractmethod
    def __call__(self, step: int) -> float:
        """Return the learning rate for this step: a finite number >= 0."""

    def __repr__(self) -> str:
        """Show the configuration, if there is one."""
        try:
            config = self.get_config()
        except Exception:  # noqa: BLE001, which must not hide the message that shows this
            return object.__repr__(self)
        shown = ", ".join(f"{name}={value!r}" for name, value in config.items())
        return f"{type(self).__name__}({shown})"

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal schedule."""
        raise TypeError(
            f"{type(self).__name__}: expected a get_config method to serialise it, found none"
        )

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> LearningRateSchedule:
        """Make a schedule from what `get_config` returned, here or in Keras.

        Parameters
        ----------
        config : dict
            Arguments of the class. A schedule among them may be one, or what `serialize` returned for it.
        custom_objects : dict, optional
            Classes by name, for schedules of your own in the configuration.
        """
        own = arguments.configuration(config)
        with custom_classes(custom_objects):
            return cls(**{name: _plain(value) for name, value in own.items()})


def _plain(value: Any) -> Any:
    """Make what a dictionary stands for: a schedule, or the number or list that Keras writes for a NumPy value."""
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(element) for element in value)
    if isinstance(value, Mapping) and value.get("class_name") in ("__tensor__", "__numpy__"):
        return value["config"]["value"]
    if isinstance(value, Mapping) and {"class_name", "config"} <= value.keys():
        return made_of(value, None, LearningRateSchedule)
    if isinstance(value, Mapping):
        return {name: _plain(element) for name, element in value.items()}
    return value
