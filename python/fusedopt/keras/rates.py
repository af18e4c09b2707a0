"""Keras's schedules as fusedopt's, so that either can set the learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import fusedopt.schedules
from fusedopt.keras.host import keras
from fusedopt.optimizer import LearningRate
from fusedopt.schedules import LearningRateSchedule


class KerasSchedule(LearningRateSchedule):
    """A schedule of a user's own class, which Keras evaluates.

    Parameters
    ----------
    schedule : keras.optimizers.schedules.LearningRateSchedule or dict
        The schedule, or what ``keras.saving.serialize_keras_object`` made of it.
    """

    def __init__(self, schedule: Any) -> None:
        is_config = isinstance(schedule, dict)
        self.schedule = keras.saving.deserialize_keras_object(schedule) if is_config else schedule

    def __call__(self, step: Any) -> float:
        """Return the learning rate of a step."""
        return float(keras.ops.convert_to_numpy(self.schedule(step)))

    def get_config(self) -> dict[str, Any]:
        """Return the schedule in Keras's form."""
        return {"schedule": keras.saving.serialize_keras_object(self.schedule)}

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        custom_objects: Mapping[str, Any] | None = None,  # noqa: ARG003 - Keras has them in its scope
    ) -> KerasSchedule:
        """Make the schedule, which is not one of fusedopt's."""
        return cls(config["schedule"])


def learning_rate_of(value: Any) -> LearningRate:
    """Return what fusedopt takes for a learning rate that Keras would take."""
    if isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
        name = type(value).__name__
        if type(value) is getattr(keras.optimizers.schedules, name, None):
            return fusedopt.schedules.deserialize(keras.optimizers.schedules.serialize(value))
        return KerasSchedule(value)
    if isinstance(value, keras.Variable):
        value = value.value
    if keras.ops.is_tensor(value):
        return keras.ops.convert_to_numpy(value)  # type: ignore[no-any-return]
    return value  # type: ignore[no-any-return]
