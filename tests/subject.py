"""An optimizer a few steps into its work, and the check that a refused call changes nothing.

Everything after a refused call is compared with everything before it, bit by bit, and the next good
step with that of an optimizer that never saw the refused call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from reference import Array

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: fo.SGD(learning_rate=0.1),
    "momentum": lambda: fo.SGD(learning_rate=0.1, momentum=0.9, clipnorm=0.5),
    "rmsprop": lambda: fo.RMSprop(learning_rate=0.1, momentum=0.5, centered=True, clipvalue=0.4),
    "adamw": lambda: fo.AdamW(learning_rate=0.1, amsgrad=True, global_clipnorm=1.0),
    "ema": lambda: fo.Adam(learning_rate=0.1, use_ema=True, ema_overwrite_frequency=2),
    "accumulation": lambda: fo.Adam(
        learning_rate=0.1, use_ema=True, gradient_accumulation_steps=2, global_clipnorm=1.0
    ),
    "loss_scale": lambda: fo.LossScaleOptimizer(
        fo.Adam(learning_rate=0.1), initial_scale=8.0, dynamic_growth_steps=2
    ),
    "loss_scale_accumulation": lambda: fo.LossScaleOptimizer(
        fo.SGD(learning_rate=0.1, momentum=0.9, use_ema=True, gradient_accumulation_steps=3),
        initial_scale=8.0,
        dynamic_growth_steps=2,
    ),
}
NAMES = ["kernel", "bias", "gain", "half"]
FLOATS = "float16, bfloat16, float32 or float64"


def four_variables() -> list[Array]:
    return [
        np.linspace(-1.0, 1.0, 6, dtype=np.float32).reshape(2, 3),
        np.array([0.5, -2.0]),
        np.array(3.0, dtype=np.float32),
        np.array([1.0, -0.25, 8.0], dtype=np.float16),
    ]


class Subject:
    """An optimizer a few steps into its work, and everything a call of it could change."""

    def __init__(self, kind: str, optimizer: Any = None, steps: int = 3) -> None:
        self.variables = four_variables()
        self.optimizer = OPTIMIZERS[kind]() if optimizer is None else optimizer
        self.optimizer.build(dict(zip(NAMES, self.variables, strict=True)))
        self.twin: Subject | None = None
        for _ in range(steps):
            self.step()
        if optimizer is None:
            self.twin = Subject(kind, OPTIMIZERS[kind](), steps)

    def gradients(self) -> list[Any]:
        number = self.optimizer.iterations
        return [
            np.cos(np.arange(w.size) + number).reshape(w.shape).astype(w.dtype)
            for w in self.variables
        ]

    def step(self) -> None:
        self.optimizer.apply(self.gradients())

    def everything(self) -> list[Any]:
        numbers = [
            getattr(self.optimizer, name, None)
            for name in (
                "built",
                "iterations",
                "global_norm",
                "dynamic_scale",
                "step_counter",
                "consecutive_skipped_steps",
            )
        ]
        arrays = [*self.variables, *self.optimizer.variables]
        return [*(array.tobytes() for array in arrays), repr(numbers)]

    @contextlib.contextmanager
    def refuses(
        self, error: type[Exception], *parts: str
    ) -> Iterator[pytest.ExceptionInfo[Exception]]:
        """The body must raise `error`, with `parts` in its message, and leave no trace."""
        before = self.everything()
        with pytest.raises(error) as caught:
            yield caught
        assert type(caught.value) is error
        assert [part for part in parts if part not in str(caught.value)] == [], caught.value
        assert self.everything() == before
        if self.twin is not None:
            self.step()
            self.twin.step()
            assert self.everything() == self.twin.everything()


@pytest.fixture(params=OPTIMIZERS)
def subject(request: pytest.FixtureRequest) -> Subject:
    return Subject(request.param)


LONG_DOUBLE = ["longdouble"] if np.dtype("longdouble").itemsize > 8 else []
OTHER_DTYPES = [
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint64", "bool", *LONG_DOUBLE),
    *("complex64", "complex128", "object", "<U3", "S2", ">f2", ">f4", ">f8", "m8[s]", "V4"),
]


class Elsewhere:
    """Memory of another device."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        raise RuntimeError("on another device")


def stored(subject: Subject) -> list[Array]:
    return [np.array(variable) for variable in subject.optimizer.variables]
