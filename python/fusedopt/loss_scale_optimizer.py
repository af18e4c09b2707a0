"""Dynamic loss scaling for float16 gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fusedopt import arguments
from fusedopt.losses import scaled
from fusedopt.optimizer import LearningRate, Optimizer
from fusedopt.runtime import _core
from fusedopt.serialized import find_class, serialized
from fusedopt.state import Array


class LossScaleOptimizer(Optimizer):
    """An optimizer whose gradients come from a loss multiplied by a scale that adapts.

    Multiply the loss by the scale (`scale_loss`), so that small gradients survive float16, and give
    the scaled gradients to `apply`. All of them are checked before anything is written. If one
    element is infinite or NaN, the step is skipped and the scale halves; only the scale and its
    counters change. After ``dynamic_growth_steps`` good steps in a row the scale doubles. Unscaling
    and the check cost no sweep of their own where a norm is clipped, and one reading sweep
    otherwise.

    A finite float64 gradient counts as infinite where its variable is not float64 and float32 cannot hold
    it, unscaled.

    The wrapped optimizer's ``loss_scale_factor`` is taken over: it becomes None.

    The wrapped optimizer's ``skip_nonfinite`` changes nothing here, because this check includes that one. Its
    `Optimizer.skipped_steps` does not count the steps that are skipped here; see `consecutive_skipped_steps`.

    Parameters
    ----------
    inner_optimizer : Optimizer
        Any but another LossScaleOptimizer. Common options (clipping, EMA, accumulation ...) are its own.
    initial_scale : float
        From 2**-126 to 2**127, bounds that the scale never leaves.
    dynamic_growth_steps : int
        At least 1.
    name : str, optional
        Default ``"loss_scale_optimizer"``.
    dynamic : bool
        Keras 2's argument, True. For a scale that does not adapt, give the optimizer itself a
        ``loss_scale_factor``.

    Raises
    ------
    ValueError
        For an argument out of its range, or a common option given here.
    TypeError
        For an argument of another type.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedopt as fo
    >>> w = np.ones(2, dtype=np.float32)
    >>> optimizer = fo.LossScaleOptimizer(fo.SGD(learning_rate=1.0), initial_scale=1024)
    >>> optimizer.build([w])
    >>> optimizer.apply([np.array([512, np.inf], dtype=np.float16)])
    >>> w, optimizer.dynamic_scale
    (array([1., 1.], dtype=float32), 512.0)
    >>> optimizer.apply([np.array([256, 0], dtype=np.float16)])
    >>> w
    array([0.5, 1. ], dtype=float32)

    References
    ----------
    Micikevicius et al., Mixed Precision Training, ICLR 2018. Keras 3, ``keras.optimizers.LossScaleOptimizer``,
    whose scale can reach 0 and then writes NaN, and whose ``set_weights`` leaves the inner optimizer out.
    """

    def __init__(
        self,
        inner_optimizer: Optimizer,
        initial_scale: float = 2.0**15,
        dynamic_growth_steps: int = 2000,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        if not arguments.flag("dynamic", kwargs.pop("dynamic", True)):
            raise ValueError(
                "dynamic: expected True, found False; for a scale that does not adapt, set "
                "loss_scale_factor on the optimizer itself"
            )
        for option, value in kwargs.items():
            if option not in _COMMON_OPTIONS:
                raise arguments.unknown_arguments([option])
            if value is not None and value != _COMMON_OPTIONS[option]:
                raise ValueError(
                    f"{option}: expected on the inner optimizer, found {value!r} on LossScaleOptimizer"
                )
        if not isinstance(inner_optimizer, Optimizer):
            raise TypeError(f"inner_optimizer: expected an Optimizer, found {inner_optimizer!r}")
        if isinstance(inner_optimizer, LossScaleOptimizer):
            raise TypeError("inner_optimizer: expected another kind, found a LossScaleOptimizer")
        self.name = self._name_or_default(name)
        self.inner_optimizer = inner_optimizer
        self.initial_scale = arguments.real("initial_scale", initial_scale)
        self.dynamic_growth_steps = arguments.integer("dynamic_growth_steps", dynamic_growth_steps)
        self._scaled = _core.LossScale(
            inner_optimizer._core, self.initial_scale, self.dynamic_growth_steps
        )
        inner_optimizer.loss_scale_factor = None
        self._core = inner_optimizer._core

    # The scale

    @property
    def dynamic_scale(self) -> float:
        """The factor `scale_loss` multiplies by."""
        return self._scaled.dynamic_scale

    @property
    def step_counter(self) -> int:
        """Good steps since the scale last changed."""
        return self._scaled.step_counter

    @property
    def consecutive_skipped_steps(self) -> int:
        """How many of the last steps in a row were skipped."""
        return self._scaled.consecutive_skipped_steps

    @property
    def skipped_steps(self) -> int:
        """Raise AttributeError: see `consecutive_skipped_steps`."""
        raise AttributeError(
            "LossScaleOptimizer has no skipped_steps; it has consecutive_skipped_steps, "
            "and the inner optimizer counts what it skips without a loss scale"
        )

    def scale_loss(self, loss: Any) -> Any:
        """Return the loss times `dynamic_scale`, for computing gradients from. See `Optimizer.scale_loss`."""
        return scaled(loss, self.dynamic_scale)

    # What the inner optimizer does

    def build(self, variables: Sequence[Any] | Mapping[str, Any]) -> None:
        """Build the inner optimizer. See `Optimizer.build`."""
        self.inner_optimizer.build(variables)

    def exclude_from_weight_decay(
        self,
        var_list: Iterable[Any] | None = None,
        var_names: Iterable[str] | None = None,
    ) -> None:
        """Pass this on to the inner optimizer. Keras ignores the call here."""
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

    def apply(
        self,
        grads: Iterable[Any] | Mapping[str, Any],
        trainable_variables: Iterable[Any] | None = None,
    ) -> None:
        """Take one step with gradients of the scaled loss, or skip it. See `Optimizer.apply`."""
        gradients, variables = self.inner_optimizer._prepare(grads, trainable_variables)
        self._scaled.apply(gradients, variables)

    def finalize_variable_values(self, var_list: Iterable[Any]) -> None:
        """Overwrite the variables with their moving averages. See `Optimizer`."""
        self.inner_optimizer.finalize_variable_values(var_list)

    @property
    def learning_rate(self) -> float:
        """The inner optimizer's learning rate."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: LearningRate) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    def _named_variables(self) -> list[tuple[str, Array]]:
        return self._scaled.variables()

    def _core_set_weights(self, values: list[Array]) -> None:
        self._scaled.set_weights(values)

    def _twin(self) -> LossScaleOptimizer:
        return LossScaleOptimizer(
            self.inner_optimizer._twin(), self.initial_scale, self.dynamic_growth_steps, self.name
        )

    def _exclude_like(self, original: Any, variables: Sequence[Any]) -> None:
        self.inner_optimizer._exclude_like(original.inner_optimizer, variables)

    def _variable_names(self) -> list[str]:
        return self.inner_optimizer._variable_names()

    def _core_state(self) -> list[tuple[str, Array]]:
        return self._scaled.state()

    def _core_set_state(self, values: list[Array | None]) -> None:
        self._scaled.set_state(values)

    def _rules(self) -> dict[str, set[str]]:
        return self.inner_optimizer._rules()

    # Configuration

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal optimizer, without its state."""
        return {
            "name": self.name,
            "inner_optimizer": serialized(self.inner_optimizer, "keras.optimizers"),
            "initial_scale": self.initial_scale,
            "dynamic_growth_steps": self.dynamic_growth_steps,
        }

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> LossScaleOptimizer:
        """Make an optimizer from what `get_config` returned. See `Optimizer.from_config`."""
        own = arguments.configuration(config)
        inner = own.pop("inner_optimizer", None)
        if isinstance(inner, Mapping):
            inner_class, inner_config = find_class(inner, custom_objects, Optimizer)
            inner = inner_class.from_config(inner_config, custom_objects=custom_objects)
        return cls(inner, **own)


_COMMON_OPTIONS = {
    "weight_decay": None,
    "clipnorm": None,
    "clipvalue": None,
    "global_clipnorm": None,
    "use_ema": False,
    "ema_momentum": 0.99,
    "ema_overwrite_frequency": None,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
    "skip_nonfinite": False,
}
