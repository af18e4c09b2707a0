"""Dynamic loss scaling for float16 gradients."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fusedopt import arguments
from fusedopt.hyperparameters import Declared, Hyperparameter, integer, real, required
from fusedopt.losses import scaled
from fusedopt.optimizer import LearningRate, Optimizer
from fusedopt.rules.rule_optimizer import Name, RuleOptimizer
from fusedopt.runtime import _core
from fusedopt.serialized import find_class, serialized
from fusedopt.state import Array


def _checked_inner(name: str, value: Any) -> Optimizer:
    if not isinstance(value, Optimizer):
        raise TypeError(f"{name}: expected an Optimizer, found {value!r}")
    if isinstance(value, LossScaleOptimizer):
        raise TypeError(f"{name}: expected another kind, found a LossScaleOptimizer")
    return value


class LossScaleOptimizer(Optimizer, Declared):
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

    Keras 2's argument ``dynamic=True`` is allowed. For a scale that does not adapt, give the optimizer itself a
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

    inner_optimizer: Optimizer = required(
        _checked_inner,
        "Optimizer",
        "Any but another LossScaleOptimizer. Common options (clipping, EMA, accumulation ...) are its own.",
    )
    initial_scale: float = real(
        2.0**15,
        "What the scale starts at, from 2**-126 to 2**127, bounds that it never leaves. After `build` assign\n"
        "`dynamic_scale` instead.",
        shapes_state=True,
    )
    dynamic_growth_steps: int = integer(
        2000, "After so many good steps in a row the scale doubles. At least 1."
    )
    name: Name = Name()

    def _construct(self, values: Mapping[str, Any]) -> None:
        vars(self).update(values)
        self._connect()

    def _connect(self) -> None:
        inner = self.inner_optimizer
        self._scaled = _core.LossScale(inner._core, self.initial_scale, self.dynamic_growth_steps)
        inner._note_loss_scale(None)
        inner._owner = weakref.ref(self)
        self._core = inner._core

    @classmethod
    def _without_foreign(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        known = dict(given)
        if not arguments.flag("dynamic", known.pop("dynamic", True)):
            raise ValueError(
                "dynamic: expected True, found False; for a scale that does not adapt, set "
                "loss_scale_factor on the optimizer itself"
            )
        options = RuleOptimizer._hyperparameters
        unknown = known.keys() - cls._hyperparameters.keys() - options.keys()
        if unknown:
            meant = [*cls._hyperparameters, "learning_rate", *options]
            raise arguments.unknown_arguments(unknown, meant)
        for name in known.keys() - cls._hyperparameters.keys():
            value = known.pop(name)
            if value is not None and value != options[name].default:
                raise ValueError(
                    f"{name}: expected on the inner optimizer, found {value!r} on LossScaleOptimizer"
                )
        return known

    def _assign(self, hyperparameter: Hyperparameter, value: Any) -> None:
        name = hyperparameter.name

        def assign() -> None:
            if name == "initial_scale":
                if self.built and value != self.initial_scale:
                    raise AttributeError(
                        "initial_scale: expected before build, found the optimizer built; "
                        "assign dynamic_scale instead"
                    )
                self._scaled.dynamic_scale = value
            elif name == "dynamic_growth_steps":
                self._scaled.dynamic_growth_steps = value
            vars(self)[name] = value

        self._core.between_steps(assign)

    # The scale

    @property
    def dynamic_scale(self) -> float:
        """The factor `scale_loss` multiplies by. It can be assigned, from 2**-126 to 2**127."""
        return self._scaled.dynamic_scale

    @dynamic_scale.setter
    def dynamic_scale(self, scale: float) -> None:
        self._scaled.dynamic_scale = arguments.real("dynamic_scale", scale)

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
        inner: Any = self.inner_optimizer  # a MultiOptimizer refuses
        inner.learning_rate = learning_rate

    def named_variables(self) -> dict[str, Array]:
        """Return `variables` by name. See `Optimizer.named_variables`."""
        return dict(self._scaled.variables())

    @property
    def averages(self) -> dict[str, Array]:
        """The inner optimizer's moving averages, by the names of their variables."""
        return self.inner_optimizer.averages

    def _core_set_weights(self, values: list[Array]) -> None:
        self._scaled.set_weights(values)

    def _parts(self) -> Sequence[Optimizer]:
        return (self.inner_optimizer,)

    def _parts_replaced(self, new: Mapping[int, Any]) -> dict[str, Any]:
        return {"inner_optimizer": new[id(self.inner_optimizer)]}

    def _own_state(self) -> list[tuple[str, Array]]:
        return [item for item in self._scaled.state() if item[0].startswith("loss_scale/")]

    def _build_copy(self, objects: Sequence[Any]) -> None:
        self.inner_optimizer._build_copy(objects)

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
        inner = serialized(self.inner_optimizer, "keras.optimizers")
        return {**self._configuration(), "inner_optimizer": inner}

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
