# mypy: allow-subclassing-any, allow-untyped-decorators
"""What the optimizers have in common: construction, the step, and the parameters' averages.

One file, though long: it is one class, which PyTorch calls in all these places.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, TypeAlias

import torch

from fusedopt.runtime import _core
from fusedopt.torch.arguments import ARGUMENTS, ParamsT, check, documented
from fusedopt.torch.parameters import check_parameter
from fusedopt.torch.state import AVERAGE, MASTER, copied, filled, has_master, loaded, scalar
from fusedopt.torch.stepping import Stepping, note_changes

__all__ = ["FusedOptimizer", "Scalars", "Slots"]

Scalars: TypeAlias = Mapping[str, float]
Slots: TypeAlias = Mapping[str, str | None]


class FusedOptimizer(Stepping):
    """The base of the optimizers. Use one of its subclasses."""

    # A subclass says the core's rule, the numbers of a parameter's state and how they start, and the slots, each with
    # the option that it depends on.
    _rule: ClassVar[str]
    _scalars: ClassVar[Scalars] = {"step": 0.0}
    _slots: ClassVar[Slots]

    global_norm: float | None = None
    """The norm of all gradients before the last step clipped them; None without ``max_norm``."""

    _is_evaluating = False
    _loading: Mapping[str, Any] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Document the arguments of a class's constructor."""
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls) and cls.__module__.startswith("fusedopt."):
            cls.__doc__ = documented(cls)

    def __init__(
        self,
        params: ParamsT,
        *,
        max_norm: float | None,
        ema_decay: float | None,
        master_weights: bool,
        **defaults: Any,
    ) -> None:
        check(defaults)
        self.max_norm = max_norm
        self.ema_decay = ema_decay
        self._master_weights = master_weights
        super().__init__(params, defaults)
        self._connect()

    def _connect(self) -> None:
        self._core = _core.HostedStep(self._rule)
        known = {name: ARGUMENTS[name].core for name in self.defaults if name in ARGUMENTS}
        names = {name: core for name, core in known.items() if core}
        flags = [name for name in names if ARGUMENTS[name].kind == "bool"]
        self._flags = [(name, names.pop(name)) for name in flags]
        self._numbers = [*names.items()]

    @property
    def max_norm(self) -> float | None:
        """What the norm of all gradients together is clipped to; assigned, it acts from the next step on."""
        return self._max_norm

    @max_norm.setter
    def max_norm(self, max_norm: float | None) -> None:
        check({"max_norm": max_norm})
        self._max_norm = None if max_norm is None else float(max_norm)

    @property
    def ema_decay(self) -> float | None:
        """The decay of the moving averages; assigned, it acts from the next step on. None: they stand still."""
        return self._ema_decay

    @ema_decay.setter
    def ema_decay(self, ema_decay: float | None) -> None:
        check({"ema_decay": ema_decay})
        self._ema_decay = None if ema_decay is None else float(ema_decay)

    @property
    def master_weights(self) -> bool:
        """Whether 16-bit parameters have a float32 copy."""
        return self._master_weights

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, whose updates count from 1.

        Parameters
        ----------
        param_group : dict
            The parameters, under ``"params"``, and options that differ from the constructor's.

        Raises
        ------
        ValueError, TypeError
            As the constructor does. Nothing has changed then.
        """
        super().add_param_group(param_group)
        try:
            check(param_group)
            for i, parameter in enumerate(param_group["params"]):
                who = f"{type(self).__name__}: group {len(self.param_groups) - 1}, parameter {i}"
                check_parameter(who, parameter)
        except BaseException:
            self.param_groups.pop()
            raise

    # The step

    def _require_training(self) -> None:
        if self._is_evaluating:
            raise RuntimeError(
                "step: expected the parameters in training, found evaluation_weights at work; step after its block"
            )

    def _update(self, scale: float | None) -> None:
        unscale = 1.0 if scale is None else 1.0 / scale
        skip_nonfinite = scale is not None and vars(self).get("found_inf") is None
        groups = [(group["params"], self._settings(group)) for group in self.param_groups]

        def run() -> tuple[bool, float | None, list[Any]]:
            try:
                return self._core.run(
                    groups,
                    self.state,
                    max_norm=self._max_norm,
                    unscale=unscale,
                    skip_nonfinite=skip_nonfinite,
                    seed=self._seed(),
                    average_key=None if self._ema_decay is None else AVERAGE,
                    master_key=MASTER if self._master_weights else None,
                    on_update=note_changes,
                )
            except (TypeError, ValueError) as error:
                error.args = (self._in_words_of_pytorch(str(error)),)
                raise

        stepped, norm, missing = run()
        if missing:
            before = self._complete(missing)
            try:
                stepped, norm, _ = run()
            except BaseException:
                self._restore(before)
                raise
            if not stepped:
                self._restore(before)
        self.global_norm = norm
        if stepped:
            self._advance_seed()

    def _settings(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """Read all options of a group for the core, for they may have been written to."""
        settings = {core: group[name] for name, core in self._numbers}
        for name, core in self._flags:
            settings[core] = bool(group[name])
        if "betas" in group:
            settings["beta_1"], settings["beta_2"] = group["betas"]
        if self._ema_decay is not None:
            settings["ema_momentum"] = self._ema_decay
        return settings

    def _in_words_of_pytorch(self, message: str) -> str:
        """Let a message about an option of a group have the option's name here."""
        names = {"beta_1": "betas[0]", "beta_2": "betas[1]", "ema_momentum": "ema_decay"}
        names |= {str(core): name for name, core in (*self._numbers, *self._flags)}
        return re.sub(
            r"^(group \d+: )(\w+)",
            lambda found: found[1] + names.get(found[2], found[2]),
            message,
        )

    # The seed of stochastic rounding lies in the first group, so that every checkpoint has it.

    def _seed(self) -> int:
        if self._master_weights or not self.param_groups:
            return 0
        seed: int = self.param_groups[0].setdefault("rounding_seed", torch.initial_seed() % _SEEDS)
        return seed

    def _advance_seed(self) -> None:
        """Go to the next number of Knuth's generator MMIX, whose bits the core mixes."""
        if self._master_weights or not self.param_groups:
            return
        group = self.param_groups[0]
        group["rounding_seed"] = (
            group["rounding_seed"] * 6364136223846793005 + 1442695040888963407
        ) % _SEEDS

    # State

    def _complete(self, missing: list[torch.Tensor]) -> dict[torch.Tensor, dict[str, Any]]:
        """Make the state that parameters lack. Return what they had."""
        groups = {parameter: group for group in self.param_groups for parameter in group["params"]}
        before = {parameter: dict(self.state.get(parameter, {})) for parameter in missing}
        try:
            for parameter in missing:
                self.state[parameter].update(self._completed(parameter, groups[parameter]))
        except BaseException:
            self._restore(before)
            raise
        return before

    def _restore(self, before: Mapping[torch.Tensor, dict[str, Any]]) -> None:
        for parameter, state in before.items():
            self.state[parameter].clear()
            self.state[parameter].update(state)
            if not state:
                del self.state[parameter]

    @property
    def _start(self) -> float:
        """The value that slots start with."""
        return 0.0

    def _started(self, parameter: torch.Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
        """Return how the numbers and slots of a parameter start."""
        state = {name: scalar(start) for name, start in self._scalars.items()}
        for name, option in self._slots.items():
            if option is None or group[option]:
                state[name] = filled(parameter, self._start)
        return state

    def _completed(self, parameter: torch.Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
        """Return the whole state of a parameter: what it has, and how the rest starts."""
        state = self._started(parameter, group)
        if self._master_weights and has_master(parameter):
            state[MASTER] = copied(parameter, parameter.detach())
        if self._ema_decay is not None:
            state[AVERAGE] = copied(parameter, parameter.detach())
        had = self.state.get(parameter, {})
        return {**state, **{name: value for name, value in had.items() if value is not None}}

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and pickles hold."""
        own = ("_max_norm", "_ema_decay", "_master_weights")
        return {**super().__getstate__(), **{name: vars(self)[name] for name in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what a copy, a pickle or `load_state_dict` holds."""
        loading = self._loading
        if loading is not None:
            needed = [name for name, option in self._slots.items() if option is None]
            known = {*self._slots, AVERAGE, *([MASTER] if self._master_weights else [])}
            states = loaded(type(self).__name__, loading, state["param_groups"], needed, known)
            state = {**state, "state": states}
        super().__setstate__(state)
        self._connect()
        for group in self.param_groups:
            for name, default in self.defaults.items():
                group.setdefault(name, default)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a copy of the state of an optimizer of the same name, from here or from `torch.optim`.

        Tensors keep the type that updates are computed in, float64 for float64 parameters and float32 for others, and
        so their bits. What was saved with fewer is widened.

        Parameters
        ----------
        state_dict : dict
            What ``state_dict`` returned.

        Raises
        ------
        ValueError
            If it has other groups, other shapes, or the state of another kind of optimizer. Nothing has changed then.
        """

        # The base class would cast the state to the parameters' types.
        def take(_: Any, found: dict[str, Any]) -> dict[str, Any]:
            self._loading = found
            return {**found, "state": {}}

        handle = self.register_load_state_dict_pre_hook(take)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
            self._loading = None

    # Averages

    @property
    def averages(self) -> dict[torch.Tensor, torch.Tensor]:
        """The moving averages of the parameters, by parameter.

        An average starts as the parameter that the first step with ``ema_decay`` finds. Those of 16-bit parameters
        are float32.
        """
        return {
            parameter: self.state[parameter][AVERAGE]
            for group in self.param_groups
            for parameter in group["params"]
            if AVERAGE in self.state.get(parameter, {})
        }

    @contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        """Put the moving averages into the parameters, for a ``with`` block.

        After the block the parameters hold, bit for bit, what they held before, also if the block raises. What the
        block writes into them is lost. A parameter without an average stays as it is. The block takes as much memory
        again as the parameters, and no step can be taken in it.

        Raises
        ------
        ValueError
            Without ``ema_decay``, or inside another such block.

        Examples
        --------
        >>> import torch
        >>> from fusedopt.torch import SGD
        >>> w = torch.nn.Parameter(torch.zeros(1))
        >>> optimizer = SGD([w], lr=1.0, ema_decay=0.5)
        >>> w.grad = torch.ones(1)
        >>> optimizer.step()
        >>> with optimizer.evaluation_weights():
        ...     print(w.item())
        -0.5
        >>> w.item()
        -1.0
        """
        if self._ema_decay is None:
            raise ValueError("evaluation_weights: expected an optimizer with ema_decay")
        if self._is_evaluating:
            raise ValueError("evaluation_weights: expected no other such block around it")
        averages = self.averages
        with torch.no_grad():
            kept = {parameter: parameter.detach().clone() for parameter in averages}
        self._is_evaluating = True
        try:
            _write(averages)
            yield
        finally:
            _write(kept)
            self._is_evaluating = False


_SEEDS = 2**63


@torch.no_grad()
def _write(values: Mapping[torch.Tensor, torch.Tensor]) -> None:
    for parameter, value in values.items():
        parameter.copy_(value)
