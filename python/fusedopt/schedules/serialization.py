"""Schedules as plain dictionaries, in the format Keras 3 uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusedopt.configuration.objects import made_of, serialized
from fusedopt.schedules.learning_rate_schedule import LearningRateSchedule


def serialize(learning_rate_schedule: LearningRateSchedule) -> dict[str, Any]:
    """Return a schedule's class and configuration as a dictionary.

    Parameters
    ----------
    learning_rate_schedule : LearningRateSchedule
        With a ``get_config`` method, if it is a class of your own.

    Returns
    -------
    dict
        ``module``, ``class_name``, ``config`` and ``registered_name``, as
        ``keras.optimizers.schedules.serialize`` writes them.

    Raises
    ------
    TypeError
        If it is not a schedule, or has no ``get_config``.

    Examples
    --------
    >>> import fusedopt as fo
    >>> fo.schedules.serialize(fo.schedules.CosineDecay(0.1, 1000))["class_name"]
    'CosineDecay'
    """
    if not isinstance(learning_rate_schedule, LearningRateSchedule):
        raise TypeError(
            "learning_rate_schedule: expected a LearningRateSchedule, "
            f"found {learning_rate_schedule!r}"
        )
    return serialized(learning_rate_schedule, "keras.optimizers.schedules")


def deserialize(
    config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
) -> LearningRateSchedule:
    """Make a schedule from what `serialize` returned, here or in Keras.

    Parameters
    ----------
    config : dict
        With ``class_name`` and ``config``.
    custom_objects : dict, optional
        Classes by name, for schedules of your own, also for those inside others.

    Raises
    ------
    ValueError
        If a class is unknown or an argument is refused.
    TypeError
        If the configuration is not of this form, or an argument is of another type.

    Examples
    --------
    >>> import fusedopt as fo
    >>> config = {"initial_learning_rate": 0.1, "decay_steps": 10, "decay_rate": 0.5}
    >>> fo.schedules.deserialize({"class_name": "ExponentialDecay", "config": config})(10)
    0.05
    """
    schedule: LearningRateSchedule = made_of(config, custom_objects, LearningRateSchedule)
    return schedule
