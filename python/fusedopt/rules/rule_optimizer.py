"""What all update rules have in common: the learning rate, the other options, and how values reach the core."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY
from typing import Any, ClassVar, Literal

from fusedopt import exclusions
from fusedopt.arrays import address
from fusedopt.hyperparameters import (
    Hyperparameter,
    choice,
    flag,
    needs_build,
    optional_integer,
    optional_real,
    real,
)
from fusedopt.optimizer import LearningRate, Optimizer
from fusedopt.rules import low_bit
from fusedopt.rules.low_bit import SlotDType
from fusedopt.rules.rate import Name, Rate, rate
from fusedopt.runtime import _core
from fusedopt.schedules import LearningRateSchedule

__all__ = ["Rate", "RuleOptimizer", "rate"]


class RuleOptimizer(Optimizer):
    """An optimizer with one update rule."""

    _rule_name = ""
    _of_rules: ClassVar[dict[str, Hyperparameter]] = {}  # all that any of this package's has
    _slot_momentum = 0.0  # what it was before it was set to zero, if there is a slot for it

    # For type checkers what follows is by keyword. Keras's order, which the constructor has, ends with it.
    _: KW_ONLY
    weight_decay: float | None = optional_real(
        None,
        "Decoupled weight decay, >= 0: before the rule, w <- w - learning_rate * weight_decay * w.",
    )
    clipnorm: float | None = optional_real(
        None,
        "Each gradient is scaled down to at most this norm, > 0. At most one of the three clip arguments.",
    )
    clipvalue: float | None = optional_real(
        None, "Each element of a gradient is clipped to [-clipvalue, clipvalue], > 0."
    )
    global_clipnorm: float | None = optional_real(
        None, "All gradients together are scaled down to at most this norm, > 0."
    )
    use_ema: bool = flag(
        False,
        """
        Keep an exponential moving average of each variable,
        average <- ema_momentum * average + (1 - ema_momentum) * w, after every call. The first one is
        the first updated value. Under ``gradient_accumulation_steps`` the average moves on every call,
        also while the variables stand still, as in Keras.
        """,
        shapes_state=True,
    )
    ema_momentum: float = real(0.99, "Weight of the old average, in [0, 1].", needs="use_ema")
    ema_overwrite_frequency: int | None = optional_integer(
        None,
        "Every so many updates the variables are overwritten with their averages. None or 0: never.",
        needs="use_ema",
    )
    loss_scale_factor: float | None = optional_real(
        None, "`scale_loss` multiplies the loss by it, and a step divides the gradients by it, > 0."
    )
    gradient_accumulation_steps: int | None = optional_integer(
        None,
        "Update only on every so many calls, with the mean gradient. At least 2.",
        shapes_state=True,
    )
    name: Name = Name()
    skip_nonfinite: bool = flag(
        False,
        """
        Skip a step if a gradient has a NaN or an infinity in it. A skipped step changes nothing but
        `skipped_steps`. It does not count for ``gradient_accumulation_steps`` either, and no schedule or
        callable is evaluated. A finite float64 gradient counts as infinite if its variable is not float64 and
        float32 cannot hold it, divided by ``loss_scale_factor``. Without a norm to clip, the check costs one
        reading sweep over the gradients. Keras does not have this option, so configurations hold it only if
        it is on.
        """,
        is_keyword=True,
    )
    row_updates: Literal["lazy", "caught_up"] = choice(
        "lazy",
        ("lazy", "caught_up"),
        """
        What becomes of the rows that a `RowGradient` leaves out. "lazy": nothing. Their slots and their weight decay
        stand still until a gradient touches them again. "caught_up": zero gradients. What these would have done to a
        row is done at once, when a gradient touches it again, in `catch_up` and in `finalize_variable_values`, and
        for all rows whenever variables or state are listed, saved, loaded or copied. A step in which the variable
        has no gradient at all (None) counts for neither. With ``use_ema`` or slots of fewer bits it must be "lazy".
        The rules that take no row gradients say so in `apply`. `RowGradient` shows the difference. Keras does not
        have this option, so configurations hold it only if it is not "lazy".
        """,
        shapes_state=True,
        is_keyword=True,
    )
    slot_dtype: SlotDType = low_bit.slot_dtype()
    slot_dtypes: Mapping[str, SlotDType] | None = low_bit.slot_dtypes()
    seed: int = low_bit.seed()
    master: bool = low_bit.master()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Remember which rule of the core a class stands for: the nearest that declares more than options."""
        super().__init_subclass__(**kwargs)
        declared = {name for name, value in vars(cls).items() if isinstance(value, Hyperparameter)}
        if declared - set(RuleOptimizer._hyperparameters) - {"learning_rate"}:
            cls._rule_name = cls.__name__
        if cls.__module__.split(".")[0] == "fusedopt":
            RuleOptimizer._of_rules.update(cls._hyperparameters)

    def _construct(self, values: Mapping[str, Any]) -> None:
        if not self._rule_name:
            raise TypeError(f"{type(self).__name__}: expected one of its subclasses")
        kept = dict(values)
        self._learning_rate: LearningRate = kept.pop("learning_rate")
        vars(self).update(kept)
        self._excluded_variables: list[Any] = []
        self._excluded_names: list[str] = []
        self._excluded_addresses: frozenset[exclusions.Place] = frozenset()
        self._excluded_indices: list[int] = []
        self._connect()

    def _connect(self) -> None:
        rate = self._core_learning_rate(self._learning_rate)
        options = self._core_options(self._values(), rate)
        self._core: _core.Optimizer = _core.Optimizer(self._built_rule(), options)

    # Values on their way to the core

    def _assign(self, hyperparameter: Hyperparameter, value: Any) -> None:
        name = hyperparameter.name
        if "_core" not in vars(self):
            raise AttributeError(
                f"{name}: expected after {type(self).__name__}'s constructor, found before"
            )
        self._core.between_steps(lambda: self._reconfigure({name: value}))

    def _reconfigure(self, changes: Mapping[str, Any]) -> None:
        """Let checked values act, all of them or none."""
        values = self._values() | dict(changes)
        for name, value in changes.items():
            is_fixed = self._hyperparameters[name].shapes_state and self.built
            if is_fixed and value != vars(self)[name]:
                raise AttributeError(needs_build(name))
        try:
            self._core.set_rule(self._core_rule(values))
            try:
                self._core.set_options(self._core_options(values, None))
            except BaseException:
                self._core.set_rule(self._core_rule(self._values()))
                raise
        except _core.BuiltError as error:
            found = str(error).partition(":")[0]
            name = found if found in changes else ", ".join(changes)
            raise AttributeError(needs_build(name)) from None
        if self.built and changes.get("momentum") == 0.0:  # whose slot stays
            vars(self)["_slot_momentum"] = self._slot_momentum or vars(self)["momentum"]
        vars(self).update(changes)

    def _built_rule(self) -> _core.Rule:
        """Make a rule that needs all slots there are."""
        values = self._values()
        return self._core_rule(values | {"momentum": self._slot_momentum or values.get("momentum")})

    def _core_rule(self, values: Mapping[str, Any]) -> _core.Rule:
        """Make the core's rule of all values."""
        return _core.rule(self._rule_name, **self._rule_fields(values))

    def _rule_fields(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: self._for_core(name, values[name])
            for name, each in self._hyperparameters.items()
            if each.reaches_core and name in values and name not in RuleOptimizer._hyperparameters
        }

    def _core_options(
        self, values: Mapping[str, Any], learning_rate: float | Callable[[int], float] | None
    ) -> _core.Options:
        """Make the core's options of all values; without a learning rate it stays."""
        own = {name: values[name] for name in RuleOptimizer._hyperparameters if name != "name"}
        own["ema_overwrite_frequency"] = own["ema_overwrite_frequency"] or None
        return _core.Options(learning_rate=learning_rate, **own)

    # The core gets functions that look the user's ones up in this object. Were it to hold them itself, the
    # garbage collector could not see a cycle through it, and a function that reads its optimizer is one.

    def _core_learning_rate(self, rate: LearningRate) -> float | Callable[[int], float]:
        if isinstance(rate, float):
            return rate
        this = weakref.ref(self)

        def evaluate(step: int) -> float:
            rate: Any = this()._learning_rate  # type: ignore[union-attr]
            value: float = rate(step) if isinstance(rate, LearningRateSchedule) else rate()
            return value

        return evaluate

    def _for_core(self, name: str, value: Any) -> Any:
        if not callable(value):
            return value
        this = weakref.ref(self)
        return lambda step: getattr(this(), name)()

    def _set_learning_rate(self, new: LearningRate) -> None:
        if isinstance(new, float) and isinstance(self._learning_rate, LearningRateSchedule):
            raise TypeError(
                "learning_rate: expected a schedule or callable in the place of a schedule, "
                f"found {new!r}; assign a callable that returns it, lambda: {new!r}, or "
                "make a new optimizer with a number"
            )
        self._core.set_learning_rate(self._core_learning_rate(new))
        self._learning_rate = new

    # Building

    def _build_on(self, names: Sequence[str], arrays: Sequence[Any]) -> None:
        self._pass_exclusions(names, arrays)
        exclusions.warn_of_misses([self._exclusions(names, arrays)])
        self._core.build(arrays, names)
        self._note_built()

    def _exclude(self, variables: list[Any], patterns: list[str]) -> None:
        self._require_excludable(variables, patterns)
        if not self.built:
            self._excluded_names = patterns
        self._excluded_variables = variables

    def _require_excludable(self, variables: list[Any], patterns: list[str]) -> None:
        if not self.built:
            return
        built = {address(array) for array in self._core.checked_arrays()}
        if patterns or not variables or not built.isdisjoint(exclusions.places_of(variables)):
            raise ValueError(
                "exclude_from_weight_decay: expected before build, found the optimizer built; "
                "from now on give only variables that a later build adds"
            )

    def _exclusions(self, names: Sequence[str], arrays: Sequence[Any]) -> exclusions.Member:
        """Return what the next build leaves out, next to the variables that it gives to this optimizer."""
        return exclusions.Member(self._excluded_variables, self._excluded_names, names, arrays)

    def _pass_exclusions(self, names: Sequence[str], arrays: Sequence[Any]) -> None:
        """Tell the core which of these variables weight decay leaves out.

        Variables that are built already stay as they are.
        """
        built = [address(array) for array in self._core.checked_arrays()]
        matching = exclusions.matching(self._excluded_names, names, arrays, set(built))
        excluded = [*self._excluded_variables, *matching]
        self._core.exclude_from_weight_decay(excluded)
        self._excluded_addresses = exclusions.places_of(excluded) | {
            built[i] for i in self._excluded_indices
        }

    def _note_built(self) -> None:
        self._excluded_variables = []
        self._excluded_indices = [
            i
            for i, array in enumerate(self._core.arrays)
            if address(array) in self._excluded_addresses
        ]

    # Copies

    def _parts(self) -> Sequence[Optimizer]:
        return ()

    def _parts_replaced(self, new: Mapping[int, Any]) -> dict[str, Any]:  # noqa: ARG002
        return {}

    def _exclude_copies(self, objects: Sequence[Any]) -> None:
        """Leave out of weight decay what the original leaves out, of the copies of its variables."""
        self._core.exclude_from_weight_decay([objects[i] for i in self._excluded_indices])

    def _build_copy(self, objects: Sequence[Any], names: Sequence[str]) -> None:
        self._exclude_copies(objects)
        self._core.build(objects, names)
        self._reconfigure({})  # the present rule in the place of the built one

    def _rules(self) -> dict[str, set[str]]:
        return {"": {cls.__name__ for cls in type(self).__mro__}}

    def _signed_slots(self) -> set[str]:
        return set(_core.signed_slots(self._built_rule()))

    @property
    def _loss_scale(self) -> float | None:
        return self.loss_scale_factor
