# mypy: allow-subclassing-any, allow-untyped-decorators
"""Any of fusedopt's optimizers for PyTorch's parameters, with fusedopt's numbers.

One file, though long: it is one class, and half of it says what PyTorch calls and what a caller may rely on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch  # type: ignore[import-not-found, unused-ignore]

from fusedopt import arguments
from fusedopt.optimizer import Optimizer as FusedoptOptimizer
from fusedopt.rules.adafactor import Adafactor
from fusedopt.torch.binding import Binding, dicts, who_is
from fusedopt.torch.joint import (
    Joint,
    Settings,
    made,
    numbers_of,
    rate_of,
    require_agreement,
    template_of,
)
from fusedopt.torch.memory import require_apart, require_updatable
from fusedopt.torch.stepping import Stepping, note_changes

if TYPE_CHECKING:
    from torch.optim.optimizer import (  # type: ignore[import-not-found, unused-ignore]
        ParamsT,
        StateDict,
    )

__all__ = ["Optimizer"]

# Under this key the state keeps the weights in training while a parameter holds those to evaluate.
_IN_TRAINING = "training_weight"
_COUNT = "iteration"  # that of the optimizer, in the state of every parameter that has been updated


class _Exact:
    """A value on its way through PyTorch's load_state_dict, which casts tensors to the parameter's type."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Optimizer(Stepping):
    r"""Any of fusedopt's optimizers on PyTorch's parameters, with fusedopt's numbers.

    A step computes, bit for bit, what the given optimizer computes on NumPy arrays of the same values. So the formula
    and the meaning of every hyperparameter stand in the docstring of its class, such as `fusedopt.Lion`. Everything
    happens in one sweep over memory: unscaling, accumulation, clipping, weight decay, the rule and moving averages.
    For PyTorch's own numbers take `fusedopt.torch.AdamW` and so on.

    Each parameter group has a copy of the optimizer, with its own hyperparameters and its own count of updates.

    - A group holds the rate under PyTorch's ``"lr"``, and every other hyperparameter that is a number under its name
      in fusedopt, such as ``"beta_1"``, ``"weight_decay"`` or ``"clipvalue"``. A group can override each of them. What
      is written into a group acts in the next step.
    - ``global_clipnorm`` and ``loss_scale_factor`` must be the same in all groups. The norm is that of all gradients of
      all groups.
    - If the optimizer was given a schedule or a callable as learning rate, ``"lr"`` is None, and the schedule counts
      the updates of its group. A number that is written there takes its place, and None brings it back. PyTorch's
      schedulers need a number to begin with. The same holds for a ``beta_1`` or ``beta_2`` that is a callable.
      `learning_rates` tells the numbers.

    A parameter takes part from its first gradient on, like a variable with which an optimizer is built again. Until
    then it takes no memory, and later it stands still if its ``.grad`` is None. If no parameter of a group has a
    gradient, the group's count stands still, too. A zero gradient is a step.

    The state of a parameter holds tensors under fusedopt's names, such as ``"momentum"``, and its group's count of
    calls, ``"iteration"``. They share memory with the optimizer. ``state_dict`` holds tensors and numbers alone, of
    exact types, and training resumes with the same bits. ``deepcopy`` and ``pickle`` go on with the same bits, too.

    float16 and bfloat16 parameters have a float32 copy, ``"master"``, unless the optimizer has ``master=False``. A
    parameter whose dimensions lie in memory in another order, such as a channels_last weight, is updated where it
    lies, except by `fusedopt.Adafactor` and with ``rowwise``.

    Parameters
    ----------
    params : iterable
        Parameters, pairs of name and parameter, or dicts that define groups. Names serve messages, and the patterns of
        ``exclude_layers`` and ``exclude_from_weight_decay``.
    optimizer : fusedopt.Optimizer
        An optimizer with one rule, not built. It is copied, and stays as it is. `fusedopt.LossScaleOptimizer` and
        `fusedopt.MultiOptimizer` are refused, because PyTorch has ``torch.amp.GradScaler`` and parameter groups. A
        ``slot_dtype`` of fewer bits is refused, because the state is tensors that share memory with the slots.

    Raises
    ------
    TypeError
        If the optimizer is another object, or a parameter is not a tensor of float16, bfloat16, float32 or float64.
    ValueError
        If a group has a value out of its range, or one that another library means by its name, or if the optimizer
        keeps slots in fewer bits. Also if a parameter is on another device, sparse, or overlaps itself or another one.
        The message names the group and the parameter.

    Examples
    --------
    >>> import torch
    >>> import fusedopt as fo
    >>> import fusedopt.torch
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = fusedopt.torch.Optimizer(
    ...     [
    ...         {"params": [model.weight]},
    ...         {"params": [model.bias], "lr": 0.01, "weight_decay": None},
    ...     ],
    ...     fo.Lion(learning_rate=0.001, weight_decay=0.1, global_clipnorm=1.0),
    ... )
    >>> scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    >>> model(torch.ones(4, 2)).square().mean().backward()
    >>> optimizer.step()
    >>> scheduler.step()
    >>> optimizer.learning_rates
    [0.0005, 0.005]
    >>> list(optimizer.state[model.weight])
    ['iteration', 'momentum']
    """

    def __init__(self, params: ParamsT, optimizer: FusedoptOptimizer) -> None:
        self._template = template_of(optimizer)
        self._connect()
        numbers = {
            name: None if callable(value) else value
            for name, value in numbers_of(self._template).items()
        }
        rate = rate_of(self._template)
        super().__init__(params, {"lr": rate if isinstance(rate, float) else None, **numbers})

    def _connect(self) -> None:
        self._binding: Binding | None = None
        self._is_evaluating = False
        self._functions = {
            name: value
            for name, value in {"lr": rate_of(self._template), **numbers_of(self._template)}.items()
            if callable(value)
        }
        self._names = ["lr", *numbers_of(self._template)]

    # Groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters. Its updates count from 1, and the others go on.

        Parameters
        ----------
        param_group : dict
            The parameters, under ``"params"``, and hyperparameters that differ from the optimizer's.

        Raises
        ------
        TypeError, ValueError
            As the constructor does. Nothing has changed then.
        """
        super().add_param_group(param_group)
        try:
            self._check_last_group()
        except BaseException:
            self.param_groups.pop()
            raise

    def _check_last_group(self) -> None:
        number = len(self.param_groups) - 1
        group = self.param_groups[-1]
        for name in group.keys() - {*self._names, "params"}:
            self._refuse_slip(name, group[name], number)
        settings = self._settings(group, number)
        made(self._template, settings, number)
        require_agreement([*map(self._settings, self.param_groups[:1], [0]), settings])
        names = [name for each in self.param_groups for name in each.get("param_names", [])]
        if len(set(names)) < len(names):
            raise ValueError(
                f"group {number}: expected names that no other parameter has, found one twice"
            )
        for i, parameter in enumerate(group["params"]):
            require_updatable(parameter, who_is(number, i))
            means = self._means_over()
            if means and not parameter.is_contiguous():
                raise ValueError(
                    f"{who_is(number, i)}: expected C-contiguous memory, because {means}, "
                    f"found the strides {parameter.stride()}; give a .contiguous() copy"
                )
        found = {
            id(parameter): (parameter, who_is(k, i))
            for k, each in enumerate(self.param_groups)
            for i, parameter in enumerate(each["params"])
        }
        require_apart(list(found.values()))

    def _means_over(self) -> str:
        """Tell what of a parameter its optimizer takes means over, if it does."""
        if isinstance(self._template, Adafactor):
            return "Adafactor takes means over rows and columns"
        return "rowwise takes means over rows" if getattr(self._template, "rowwise", False) else ""

    def _refuse_slip(self, name: str, value: Any, group: int) -> None:
        """Refuse what a group holds under a name that means something else here, or nothing."""
        if name in ("capturable", "differentiable", "maximize"):
            if value:
                raise ValueError(f"group {group}: {name}: expected False, found {value!r}")
            return
        advice = arguments.hint(name, self._names) if arguments.is_slip(name) else ""
        if name == "learning_rate":
            advice = "did you mean lr?"
        elif name in self._template._hyperparameters and name != "name":
            advice = "give it to the optimizer itself"
        if advice:
            raise ValueError(
                f"group {group}: expected hyperparameters that are numbers, by fusedopt's names, found {name!r}; "
                f"{advice}"
            )

    def _settings(self, group: Mapping[str, Any], number: int) -> Settings:
        """Read all hyperparameters of a group, for they may have been written to."""
        settings = {}
        for name in self._names:
            value = group[name]
            if type(value) not in _PLAIN:
                value = arguments.single(value)
                if callable(value):
                    raise TypeError(
                        f"group {number}: {name}: expected a number, found {value!r}; "
                        "give a function or schedule to the optimizer itself"
                    )
            settings[name] = self._functions.get(name) if value is None else value
        rate = settings.pop("lr")
        if rate is None:
            raise TypeError(
                f"group {number}: lr: expected a number, because the optimizer has no schedule, found None"
            )
        if group["lr"] is None and group.get("initial_lr", rate) is None:
            raise ValueError(
                f"group {number}: lr: expected one schedule, found the optimizer's and a scheduler of PyTorch; "
                "give the optimizer a number, or leave the scheduler out and delete 'initial_lr'"
            )
        settings["learning_rate"] = rate
        return settings

    @property
    def learning_rates(self) -> list[float]:
        """The learning rate of each group's next update. A schedule is evaluated."""
        return [float(one.learning_rate) for one in self._ready().joint.optimizers]

    @property
    def global_norm(self) -> float | None:
        """The norm over all gradients of the last update, before clipping; None without ``global_clipnorm``."""
        return None if self._binding is None else self._binding.joint.global_norm

    # Steps

    def _update(self, scale: float | None) -> None:
        binding = self._ready(1.0 if scale is None else scale)
        gradients = [parameter.grad for parameter in binding.parameters]
        new = [i for i in binding.others if gradients[i] is not None]
        before = [(p, self.state.get(p)) for p in (binding.parameters[i] for i in new)]
        try:
            if new:
                self._join(binding, new)
            updated = binding.apply(gradients)
        except BaseException:
            self._part_from(before)
            raise
        if updated:
            overwrites = any(group["ema_overwrite_frequency"] for group in self.param_groups)
            written = binding.members if overwrites else updated
            note_changes([binding.parameters[i] for i in written])

    def catch_up(
        self, parameter: torch.Tensor | None = None, indices: torch.Tensor | None = None
    ) -> None:
        """Give rows what they have missed, before a forward pass or an evaluation reads them.

        With ``row_updates="caught_up"`` a row that sparse gradients have left out is updated only when it is needed.
        Call this before the model looks rows up, and before its parameters are evaluated or saved. Inside a closure it
        comes before the forward pass. `state_dict`, copies and `eval` do it for all rows. With ``row_updates="lazy"``
        nothing changes. See `fusedopt.Optimizer.catch_up`.

        Parameters
        ----------
        parameter : torch.Tensor, optional
            One of the parameters. Default: all of them.
        indices : torch.Tensor, optional
            int32 or int64 of one dimension, such as a flattened batch. The rows that will be read, in any order, also
            several times. Default: all rows.

        Raises
        ------
        ValueError, TypeError
            If the tensor is not one of the parameters, indices are given without one or are not those of its rows, or
            between `eval` and `train`. Nothing has changed then.

        Examples
        --------
        >>> import torch
        >>> import fusedopt as fo
        >>> import fusedopt.torch
        >>> table = torch.nn.Embedding(3, 1, sparse=True)
        >>> _ = torch.nn.init.zeros_(table.weight)
        >>> rule = fo.SGD(1.0, momentum=0.5, row_updates="caught_up")
        >>> optimizer = fusedopt.torch.Optimizer(table.parameters(), rule)
        >>> for row in (0, 1, 1):
        ...     optimizer.zero_grad()
        ...     table(torch.tensor([row])).sum().backward()
        ...     optimizer.step()
        >>> table.weight.T.tolist()
        [[-1.0, -2.5, 0.0]]
        >>> optimizer.catch_up(table.weight, torch.tensor([0]))
        >>> table.weight.T.tolist()
        [[-1.75, -2.5, 0.0]]
        """
        self._require_training("catch_up")
        if parameter is None and indices is not None:
            raise ValueError(
                "catch_up: indices: expected with a parameter, found without; give the parameter too"
            )
        binding = self._ready()
        chosen = binding.members if parameter is None else [binding.position(parameter)]
        changed = [i for i in chosen if i in binding.members]  # others have had no gradient
        if changed:
            binding.catch_up(None if parameter is None else changed[0], indices)
            if self._catches_up:
                note_changes([binding.parameters[i] for i in changed])

    def _join(self, binding: Binding, new: list[int]) -> None:
        for i in new:
            self.state[binding.parameters[i]] = dict(self.state.get(binding.parameters[i], {}))
        binding.join(new)
        binding.show(self.state)

    def _part_from(self, before: list[tuple[torch.Tensor, Any]]) -> None:
        """Give parameters that joined in vain their old state back."""
        for parameter, own in before:
            if own is None:
                self.state.pop(parameter, None)
            else:
                self.state[parameter] = own
        if before:
            self._binding = None

    def _ready(self, scale: float = 1.0) -> Binding:
        """Return the optimizers, built on the tensors as they are now, with the groups' hyperparameters."""
        settings = [self._settings(group, k) for k, group in enumerate(self.param_groups)]
        binding = self._binding
        if binding is None or not binding.fits(self.param_groups, self.state):
            self._settle()
            binding = self._bound(settings)
            self._binding = binding
        binding.joint.configure(settings, scale)
        return binding

    def _bound(self, settings: list[Settings]) -> Binding:
        """Make the optimizers anew, on the parameters that have a state, which goes on."""
        binding = Binding(Joint(self._template, settings), self.param_groups)
        binding.join([i for i in binding.others if _has_state(self.state, binding.parameters[i])])
        binding.load(self.state)
        binding.show(self.state)
        return binding

    # State

    @property
    def _catches_up(self) -> bool:
        return self._template.row_updates == "caught_up"

    def _settle(self) -> None:
        """Give all rows what they have missed, before the state is read or goes on in another optimizer."""
        if self._binding is not None and self._catches_up and not self._is_evaluating:
            self._binding.catch_up(None, None)

    def state_dict(self) -> StateDict:
        """Return the hyperparameters and the state, as PyTorch's optimizers do.

        With ``row_updates="caught_up"`` all rows are caught up first.
        """
        self._settle()
        return super().state_dict()

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Take the hyperparameters and the state of another optimizer of the same rule and options.

        The types of the state stay exact.

        Parameters
        ----------
        state_dict : dict
            What ``state_dict`` returned.

        Raises
        ------
        ValueError, TypeError
            If groups, hyperparameters or state do not fit. Nothing has changed then.
        """
        kept = {name: vars(self)[name] for name in _LOADED}
        handles = [
            self.register_load_state_dict_pre_hook(_protect),
            self.register_load_state_dict_post_hook(_check_loaded, prepend=True),
        ]
        try:
            super().load_state_dict(state_dict)
        except BaseException:
            self.__dict__.update(kept)
            raise
        finally:
            for handle in handles:
                handle.remove()

    def _check_loaded(self) -> None:
        for number, group in enumerate(self.param_groups):
            for name in group.keys() - {*self._names, "params"}:
                self._refuse_slip(name, group[name], number)
            for i, parameter in enumerate(group["params"]):
                own = self.state.get(parameter, {})
                if any(map(torch.is_tensor, own.values())) and not _has_state(
                    self.state, parameter
                ):
                    raise ValueError(
                        f"state of {who_is(number, i)}: expected {_COUNT!r}, found only "
                        f"{', '.join(map(repr, own))}; load the state of an optimizer with the same rule and options"
                    )
        self._ready()

    def __getstate__(self) -> dict[str, Any]:
        """Return what `copy.deepcopy` and `pickle` take along."""
        self._settle()
        return {**super().__getstate__(), "_template": self._template}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become a copy, or take the state that was loaded."""
        _unprotect(state["state"])
        super().__setstate__(state)
        self._connect()
        for group in self.param_groups:
            for name in self._names:  # an older version may have had fewer
                group.setdefault(name, self.defaults[name])
        self._is_evaluating = any(_IN_TRAINING in own for own in dicts(self.state))

    # Weights to evaluate with

    def eval(self) -> None:
        r"""Put the weights to evaluate with into the parameters, until `train` is called.

        With ``use_ema`` these are the moving averages. For `fusedopt.ScheduleFreeAdamW` without ``use_ema`` they are
        :math:`x = z + (w - z) / \beta_1`. Other parameters stay as they are, and a second call does nothing.

        Steps are refused meanwhile. The state keeps the weights in training under ``"training_weight"``, so that a
        checkpoint that is written meanwhile goes on bit for bit, after it was loaded and `train` was called.

        Examples
        --------
        >>> import torch
        >>> import fusedopt as fo
        >>> import fusedopt.torch
        >>> w = torch.nn.Parameter(torch.zeros(1))
        >>> optimizer = fusedopt.torch.Optimizer([w], fo.SGD(1.0, use_ema=True, ema_momentum=0.5))
        >>> for _ in range(2):
        ...     w.grad = torch.ones(1)
        ...     optimizer.step()
        >>> optimizer.eval()
        >>> w.item()
        -1.5
        >>> optimizer.train()
        >>> w.item()
        -2.0
        """
        if self._is_evaluating:
            return
        binding = self._ready()
        self._settle()
        chosen = [
            binding.parameters[i]
            for i in binding.members
            if binding.joint.evaluates(binding.groups[i])
        ]
        if not chosen:
            return
        with torch.no_grad():
            with binding.joint.evaluation():
                weights = [parameter.clone() for parameter in chosen]
            for parameter in chosen:
                self.state[parameter][_IN_TRAINING] = parameter.clone()
            for parameter, weight in zip(chosen, weights, strict=True):
                parameter.copy_(weight)
        self._is_evaluating = True
        binding.note(self.state)

    def train(self) -> None:
        """Put the weights in training back into the parameters, bit for bit. Without `eval` before it does nothing.

        Raises
        ------
        ValueError
            If a parameter has another shape or type than its weights in training. Nothing has changed then.
        """
        if not self._is_evaluating:
            return
        lent = [p for p, own in self.state.items() if isinstance(own, dict) and _IN_TRAINING in own]
        for parameter in lent:
            weight = self.state[parameter][_IN_TRAINING]
            if weight.shape != parameter.shape or weight.dtype != parameter.dtype:
                raise ValueError(
                    f"train: expected the weights in training as {parameter.dtype} of shape "
                    f"{tuple(parameter.shape)}, found {weight.dtype} of shape {tuple(weight.shape)}"
                )
        with torch.no_grad():
            for parameter in lent:
                parameter.copy_(self.state[parameter].pop(_IN_TRAINING))
        self._is_evaluating = False
        if self._binding is not None:
            self._binding.note(self.state)

    def _require_training(self, who: str = "step") -> None:
        if self._is_evaluating:
            raise ValueError(
                f"{who}: expected the weights in training, found those to evaluate; call train() first"
            )


_PLAIN = (float, int, bool, type(None))
_LOADED = ("state", "param_groups", "_binding", "_is_evaluating")


def _has_state(state: Mapping[Any, Any], parameter: torch.Tensor) -> bool:
    return _COUNT in state.get(parameter, ())


def _check_loaded(optimizer: Any) -> None:
    optimizer._check_loaded()


def _protect(_: torch.optim.Optimizer, state_dict: StateDict) -> StateDict:
    def protected(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: protected(each) for key, each in value.items()}
        return _Exact(value)

    return {**state_dict, "state": protected(state_dict["state"])}


def _unprotect(state: dict[Any, Any]) -> None:
    """Take the values out again. A copy has no such values."""
    for key, value in state.items():
        if isinstance(value, _Exact):
            state[key] = value.value
        elif isinstance(value, dict):
            _unprotect(value)
