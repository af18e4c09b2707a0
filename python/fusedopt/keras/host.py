"""Keras itself, which `import fusedopt` never loads, and what its backends differ in."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

try:
    keras: Any = importlib.import_module("keras")
except ImportError as error:
    raise ImportError(
        f"fusedopt.keras: expected Keras 3 and its backend, found none ({error}); "
        "install the extra fusedopt[keras] and set KERAS_BACKEND=torch"
    ) from error
if int(keras.__version__.split(".")[0]) < 3:
    raise ImportError(
        f"fusedopt.keras: expected Keras 3, found {keras.__version__}; install the extra fusedopt[keras]"
    )

if TYPE_CHECKING:

    class KerasOptimizer:
        """What a type checker knows of Keras's optimizers: nothing."""

        def __new__(cls, *_: Any, **__: Any) -> Any: ...  # noqa: D102
        def __init__(self, *_: Any, **__: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...  # noqa: D105

    class KerasLossScaleOptimizer(KerasOptimizer):
        """The class that `compile` looks for under ``mixed_float16``."""

else:
    KerasOptimizer = keras.optimizers.Optimizer
    KerasLossScaleOptimizer = keras.optimizers.LossScaleOptimizer

_REFUSED = {
    "jax": "JAX's arrays cannot be written into",
    "tensorflow": "TensorFlow gives no access to its variables' memory",
}


def require_backend() -> None:
    """Refuse a backend whose variables cannot be updated in place."""
    backend = keras.backend.backend()
    if backend not in {"torch", "numpy"}:
        reason = _REFUSED.get(backend, "its variables' memory is not known")
        raise ValueError(
            f"fusedopt.keras.Optimizer: expected Keras's torch or numpy backend, found {backend}, and {reason}; "
            "set KERAS_BACKEND=torch before Keras is imported, or use Keras's own optimizer"
        )


def in_stateless_scope() -> bool:
    """Whether Keras records assignments instead of making them."""
    common: Any = importlib.import_module("keras.src.backend.common.stateless_scope")
    return bool(common.in_stateless_scope())


def known_objects() -> dict[str, Any]:
    """Return the classes that are registered with Keras, or in a scope of custom objects, by name."""
    common: Any = importlib.import_module("keras.src.backend.common.global_state")
    scope = common.get_global_attribute("custom_objects_scope_dict", {})
    return {**keras.saving.get_custom_objects(), **scope}
