"""Dynamic loss scaling for float16 gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fusedopt import arguments
from fusedopt.configuration.optimizers import checked, deserialize, serialize
from fusedopt.files.partial_loading import Rules
from fusedopt.hyperparameters import Hyperparameter, integer, real, required
from fusedopt.multi_optimizer import MultiOptimizer
from fusedopt.optimizer import LearningRate, Optimizer
from fusedopt.rules.rate import Name
from fusedopt.rules.rule_optimizer import RuleOptimizer
from fusedopt.runtime import _core


def _checked_inner(name: str, given: Any) -> Optimizer:
    value = checked(name, given)
    if isinstance(value, LossScaleOptimizer):
        raise TypeError(f"{name}: expected another kind, found a LossScaleOptimizer")
    if not isinstance(value, (RuleOptimizer, MultiOptimizer)):
        kind = type(value).__name__
        raise TypeError(
            f"{name}: expected an optimizer inside, found {kind}; put {kind} around this one"
        )
    return value


class LossScaleOptimizer(Optimizer):
    """An optimizer whose gradients come from a loss multiplied by a scale that adapts.

    Multiply the loss by the scale (`scale_loss`), so that small gradients survive float16, and give
    the scaled gradients to `apply`. The ``apply`` of the optimizer inside does not unscale, so call it
    of this one only. All gradients are checked before anything is written. If one element is infinite
    or NaN, the step is skipped and the scale halves; only the scale and its counters change. After
    ``dynamic_growth_steps`` good steps in a row the scale doubles. If a norm is clipped, unscaling and
    the check cost no sweep of their own. Otherwise they cost one reading sweep.

    A finite float64 gradient counts as infinite if its variable is not float64 and float32 cannot hold it after
    unscaling.

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

    _inside = RuleOptimizer._of_rules, "the inner optimizer"
    _came_built = False

    inner_optimizer: Optimizer = required(
        _checked_inner,
        "Optimizer",
        "Any but another LossScaleOptimizer. Common options (clipping, EMA, accumulation ...) are its own.",
        serialize=serialize,
        deserialize=deserialize,
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
        self._came_built = self.inner_optimizer.built
        self._connect()

    def _connect(self) -> None:
        inner: Any = self.inner_optimizer._core  # none of these
        self._core: _core.LossScale = _core.LossScale(
            inner, self.initial_scale, self.dynamic_growth_steps
        )
        self._adopt_parts(None)

    @classmethod
    def _without_foreign(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        known = dict(given)
        if not arguments.flag("dynamic", known.pop("dynamic", True)):
            raise ValueError(
                "dynamic: expected True, found False; for a scale that does not adapt, set "
                "loss_scale_factor on the optimizer itself"
            )
        # Keras gives those of the inner optimizer here, too, if they are the defaults.
        options = RuleOptimizer._hyperparameters
        for name in known.keys() & options.keys() - cls._hyperparameters.keys():
            if known[name] is None or known[name] == options[name].default:
                del known[name]
        return super()._without_foreign(known)

    def _assign(self, hyperparameter: Hyperparameter, value: Any) -> None:
        name = hyperparameter.name

        def assign() -> None:
            if name == "initial_scale":
                if self.built and value != self.initial_scale:
                    raise AttributeError(
                        "initial_scale: expected before build, found the optimizer built; "
                        "assign dynamic_scale instead"
                    )
                self._core.dynamic_scale = value
            elif name == "dynamic_growth_steps":
                self._core.dynamic_growth_steps = value
            vars(self)[name] = value

        self._core.between_steps(assign)

    # The scale

    @property
    def dynamic_scale(self) -> float:
        """The factor `scale_loss` multiplies by. It can be assigned, from 2**-126 to 2**127."""
        return self._core.dynamic_scale

    @dynamic_scale.setter
    def dynamic_scale(self, scale: float) -> None:
        self._core.dynamic_scale = arguments.real("dynamic_scale", scale)

    @property
    def step_counter(self) -> int:
        """Good steps since the scale last changed."""
        return self._core.step_counter

    @property
    def consecutive_skipped_steps(self) -> int:
        """How many of the last steps in a row were skipped."""
        return self._core.consecutive_skipped_steps

    @property
    def _loss_scale(self) -> float:
        return self.dynamic_scale

    # What is the inner optimizer's

    def _build_on(self, names: Sequence[str], arrays: Sequence[Any]) -> None:
        try:
            self.inner_optimizer._build_on(names, arrays)
        except ValueError as error:
            if not self._came_built:
                raise
            raise ValueError(
                f"{error}; the inner optimizer was built before LossScaleOptimizer was put around it"
            ) from None

    def _build_copy(self, objects: Sequence[Any], names: Sequence[str]) -> None:
        self.inner_optimizer._build_copy(objects, names)

    def _exclude(self, variables: list[Any], patterns: list[str]) -> None:
        self.inner_optimizer._exclude(variables, patterns)

    def _set_learning_rate(self, new: LearningRate) -> None:
        self.inner_optimizer.learning_rate = new

    def _parts(self) -> Sequence[Optimizer]:
        return (self.inner_optimizer,)

    def _parts_replaced(self, new: Mapping[int, Any]) -> dict[str, Any]:
        return {"inner_optimizer": new[id(self.inner_optimizer)]}

    def _rules(self) -> Rules:
        return self.inner_optimizer._rules()

    def _signed_slots(self) -> set[str]:
        return self.inner_optimizer._signed_slots()
