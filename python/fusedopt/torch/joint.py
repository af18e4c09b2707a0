"""Copies of one optimizer, one for each group of parameters, that step as one."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from fusedopt import exclusions
from fusedopt.arrays import Array, address, as_array
from fusedopt.hyperparameters import Hyperparameter
from fusedopt.optimizer import Optimizer
from fusedopt.rules.low_bit import require_whole_slots
from fusedopt.rules.rule_optimizer import RuleOptimizer
from fusedopt.rules.schedule_free_adamw import ScheduleFreeAdamW
from fusedopt.runtime import _core

# What all gradients of a step share.
_SHARED = ("loss_scale_factor", "global_clipnorm")
_NUMBERS = ("float", "int", "bool")

Settings = dict[str, Any]
"""The learning rate and the numbers of one group, by Keras's names."""


class Entry(NamedTuple):
    """A live view of one array of state."""

    group: int
    name: str
    variable: int | None  # its position in the build; None for a number of the whole group
    array: Array


def template_of(optimizer: Any) -> RuleOptimizer:
    """Return a copy of an unbuilt optimizer; refuse anything else."""
    if not isinstance(optimizer, RuleOptimizer):
        advice = ""
        if isinstance(optimizer, Optimizer) and optimizer._parts():
            advice = "; give parameter groups instead of a MultiOptimizer, and PyTorch's GradScaler instead of a "
            advice += "LossScaleOptimizer"
        raise TypeError(
            "optimizer: expected an optimizer of fusedopt with one rule, such as fusedopt.Lion(), "
            f"found {optimizer!r}{advice}"
        )
    if optimizer.built:
        raise ValueError(
            "optimizer: expected one that is not built, because each parameter group gets a copy of it, "
            f"found {optimizer!r}"
        )
    require_whole_slots(optimizer, "PyTorch keeps the state as tensors over the slots' memory")
    return copy.copy(optimizer)


def numbers_of(template: RuleOptimizer) -> dict[str, Any]:
    """Return the hyperparameters that are numbers, without the learning rate. A function stays one."""
    return {
        name: each.kept(template)
        for name, each in template._hyperparameters.items()
        if each.kind.startswith(_NUMBERS) and each is not _rate(template)
    }


def rate_of(template: RuleOptimizer) -> Any:
    """Return the learning rate as it was given: a number, schedule or callable."""
    return _rate(template).kept(template)


def _rate(template: RuleOptimizer) -> Hyperparameter:
    return template._hyperparameters["learning_rate"]


def made(template: RuleOptimizer, settings: Settings, group: int) -> RuleOptimizer:
    """Return the optimizer of a group. All its options are checked together."""
    optimizer = copy.copy(template)
    with _named(group):
        _configure(optimizer, settings)
    return optimizer


class Joint:
    """The optimizers of all groups. Either all of them step or none.

    Parameters
    ----------
    template : RuleOptimizer
        What each group gets a copy of.
    settings : sequence of dict
        One for each group.
    """

    def __init__(self, template: RuleOptimizer, settings: Sequence[Settings]) -> None:
        self._template = template
        self._settings: Sequence[Settings] | None = settings
        self._scale = 1.0
        self.optimizers = [made(template, own, group) for group, own in enumerate(settings)]
        shared = _agreed(settings)
        for optimizer in self.optimizers:
            optimizer._reconfigure(dict.fromkeys(_SHARED))
        self._core = _core.MultiOptimizer(
            [optimizer._core for optimizer in self.optimizers], None, None, False
        )
        self._share(shared["loss_scale_factor"] or 1.0, shared["global_clipnorm"])

    # Hyperparameters

    def configure(self, settings: Sequence[Settings], scale: float = 1.0) -> None:
        """Let settings act, and divide the gradients by a scale, besides ``loss_scale_factor``.

        If it raises, no step may be taken before a call that does not.
        """
        if settings == self._settings and scale == self._scale:
            return
        old = self._settings or [{} for _ in settings]
        self._settings = None
        shared = _agreed(settings)
        factor = (shared["loss_scale_factor"] or 1.0) * scale
        # Without a norm of its own, each may get one.
        self._share(factor, None)
        for group, (optimizer, own) in enumerate(zip(self.optimizers, settings, strict=True)):
            changes = {name: v for name, v in own.items() if v != old[group].get(name, _UNKNOWN)}
            with _named(group):
                _configure(optimizer, {n: v for n, v in changes.items() if n not in _SHARED})
        self._share(factor, shared["global_clipnorm"])
        self._settings, self._scale = settings, scale

    def _share(self, factor: float, global_clipnorm: float | None) -> None:
        self._core.set_options(factor, global_clipnorm, False)
        for optimizer in self.optimizers:
            optimizer._note_loss_scale(factor)

    # Variables and state

    @property
    def arrays(self) -> list[Array]:
        """The arrays of the variables, in the order of the build."""
        return self._core.checked_arrays()

    def build(
        self,
        variables: Sequence[Any],
        names: Sequence[str],
        owners: Sequence[int],
        all_names: Sequence[str],
    ) -> None:
        """Take variables, of which some may be built already, each for the group that owns it."""
        excluded = self._excluded_among(variables)
        for pattern in self._template._excluded_names:
            exclusions.warn_of_pattern(pattern, all_names)
        for group, optimizer in enumerate(self.optimizers):
            own = [i for i, owner in enumerate(owners) if owner == group]
            optimizer._excluded_variables = excluded
            own_names = [names[i] for i in own] if names else []
            optimizer._pass_exclusions(own_names, [variables[i] for i in own])
        self._core.build(variables, names, owners)
        for optimizer in self.optimizers:
            optimizer._note_built()

    def _excluded_among(self, variables: Sequence[Any]) -> list[Any]:
        """Return those that weight decay leaves out; others may join later."""
        excluded = self._template._excluded_variables
        if not excluded:
            return []
        given = {address(as_array(variable, "build")) for variable in variables}
        who = "exclude_from_weight_decay"
        return [variable for variable in excluded if address(as_array(variable, who)) in given]

    def state(self) -> list[Entry | None]:
        """Return live views of all state; None for what is not a group's."""
        names = self._core.names or [str(i) for i in range(len(self._core.arrays))]
        positions = {name: i for i, name in enumerate(names)}
        return [_entry(name, array, positions) for name, array in self._core.state()]

    def load(self, values: Sequence[Array | None]) -> None:
        """Copy values into the state, in the order of `state`; what is None stays."""
        self._core.set_state(values)

    # Steps

    def apply(self, gradients: list[Any], variables: list[Array] | None) -> bool:
        """Take a step with all gradients, or with those of some variables. Returns whether it was taken."""
        return self._core.apply(gradients, variables)

    def catch_up(self, variable: Array | None, indices: Any) -> None:
        """Give rows of all variables or of one what they have missed."""
        self._core.catch_up(variable, indices)

    @property
    def global_norm(self) -> float | None:
        """The norm over all gradients of the last step, before clipping."""
        return self._core.global_norm

    def evaluates(self, group: int) -> bool:
        """Whether a group has other weights to evaluate with than those in training."""
        optimizer = self.optimizers[group]
        return optimizer.use_ema or isinstance(optimizer, ScheduleFreeAdamW)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Put the weights to evaluate with into the variables, for a ``with`` block."""
        self._core.begin_evaluation()
        try:
            yield
        finally:
            self._core.end_evaluation()


_UNKNOWN = object()


def _entry(name: str, array: Array, positions: Mapping[str, int]) -> Entry | None:
    group, is_of_group, rest = name.partition("/")
    if not is_of_group:
        return None
    slot, is_of_variable, variable = rest.partition("/")
    return Entry(int(group), slot, positions[variable] if is_of_variable else None, array)


def _configure(optimizer: RuleOptimizer, changes: Settings) -> None:
    """Check values and let them act. If it raises, the learning rate may not act, but the others may."""
    checked = {
        name: optimizer._hyperparameters[name].checked(optimizer, value)
        for name, value in changes.items()
    }
    rate = checked.pop("learning_rate", None)
    if checked:
        optimizer._core.between_steps(lambda: optimizer._reconfigure(checked))
    if rate is not None:
        _set_rate(optimizer, rate)


def _set_rate(optimizer: RuleOptimizer, rate: Any) -> None:
    # Unlike an assignment, this lets a number take the place of a schedule, and the reverse.
    optimizer._core.set_learning_rate(optimizer._core_learning_rate(rate))
    optimizer._learning_rate = rate


def require_agreement(settings: Sequence[Settings]) -> None:
    """Refuse groups that differ in what acts on all gradients together."""
    _agreed(settings)


def _agreed(settings: Sequence[Settings]) -> dict[str, float | None]:
    for name in _SHARED:
        for group, own in enumerate(settings):
            first = settings[0][name]
            if own[name] != first:
                raise ValueError(
                    f"{name}: expected the same in all parameter groups, because it acts on all gradients "
                    f"together, found {first!r} in group 0 and {own[name]!r} in group {group}"
                )
    return {name: settings[0][name] if settings else None for name in _SHARED}


@contextmanager
def _named(group: int) -> Iterator[None]:
    """Let errors say which group they are about."""
    try:
        yield
    except (AttributeError, TypeError, ValueError) as error:
        kind = next(k for k in (AttributeError, TypeError, ValueError) if isinstance(error, k))
        text = str(error).replace("learning_rate:", "lr:", 1)
        raise kind(f"group {group}: {text}") from None
