"""The optimizers of all groups, bound to PyTorch's parameters and to the state that PyTorch sees."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from itertools import chain, repeat
from operator import is_
from typing import Any

import torch  # type: ignore[import-not-found, unused-ignore]

from fusedopt.arrays import Array
from fusedopt.torch.joint import Entry, Joint
from fusedopt.torch.memory import (
    Order,
    is_same,
    order_of,
    permuted,
    places_of,
    require_apart,
    require_updatable,
    restored,
    value_for,
)

__all__ = ["Binding", "dicts", "who_is"]

_Groups = Sequence[Mapping[str, Any]]
_State = MutableMapping[Any, Any]

# A master copy of zeros takes what the parameter holds. The others follow from the count, or are for information.
_DISPENSABLE = ("master", "product", "skipped_steps")


def who_is(group: int, position: int) -> str:
    """Name a parameter in a message."""
    return f"group {group}, parameter {position}"


def dicts(state: Mapping[Any, Any]) -> list[dict[str, Any]]:
    """Return the parameters' parts of the state."""
    return [own for own in state.values() if isinstance(own, dict)]


class Binding:
    """Optimizers on tensors.

    A parameter is built, and a member, when it first has a gradient or a state. So those that never train take no
    memory.
    """

    def __init__(self, joint: Joint, groups: _Groups) -> None:
        self.joint = joint
        self.sizes = [len(group["params"]) for group in groups]
        self.parameters = _all_parameters(groups)
        self.groups = [k for k, size in enumerate(self.sizes) for _ in range(size)]
        self.members: list[int] = []
        self.others = _once(self.parameters)
        self._names = [name for group in groups for name in group.get("param_names", [])]
        self._places = places_of(self.parameters)
        self._state_places: list[int] = []
        self._orders: list[Order] = []
        self._permuted: list[int] = []
        self._shared: dict[int, tuple[Any, ...]] = {}  # members whose memory the optimizers look up

    def fits(self, groups: _Groups, state: _State) -> bool:
        """Whether parameters and state are the same tensors, in the same memory."""
        found = _all_parameters(groups)
        return (
            [len(group["params"]) for group in groups] == self.sizes
            and all(map(is_, found, self.parameters))
            and self._finds(places_of(found))
            and _state_places(state) == self._state_places
        )

    def _finds(self, places: list[int]) -> bool:
        """Whether the optimizers know where the parameters lie now, or find them in their next step."""
        if places != self._places:
            moved = [i for i, place in enumerate(places) if place != self._places[i]]
            if not all(
                i in self._shared and self._shared[i] == _kind(self.parameters[i]) for i in moved
            ):
                return False
            self._places = places
        return True

    def join(self, new: Sequence[int]) -> None:
        """Build the optimizers on more parameters."""
        if not new:
            return
        members = sorted([*self.members, *new])
        for i in new:
            require_updatable(self.parameters[i], self._who(i))
        require_apart([(self.parameters[i], self._who(i)) for i in members])
        orders = [order_of(self.parameters[i]) for i in members]
        self.joint.build(
            [
                _as_built(self.parameters[i], order)
                for i, order in zip(members, orders, strict=True)
            ],
            [self._names[i] for i in members] if self._names else [],
            [self.groups[i] for i in members],
            self._names,
        )
        self.members, self._orders = members, orders
        self._shared = {
            i: _kind(self.parameters[i])
            for i, order in zip(members, orders, strict=True)
            if _is_shared(self.parameters[i], order)
        }
        self._permuted = [k for k, order in enumerate(orders) if order is not None]
        joined = set(members)
        self.others = [i for i in self.others if i not in joined]

    def apply(self, gradients: Sequence[torch.Tensor | None]) -> list[int]:
        """Take a step, with a gradient or None for each parameter. Returns which parameters were updated."""
        has_all = len(self.members) == len(gradients)
        found = list(gradients) if has_all else [gradients[i] for i in self.members]
        for k in self._permuted:
            if (gradient := found[k]) is not None:
                if gradient.layout != torch.strided:
                    i = self.members[k]
                    raise ValueError(
                        f"gradient of {self._who(i)}: expected a dense one, because the parameter is not C-contiguous "
                        f"but has the strides {self.parameters[i].stride()}, found layout {gradient.layout}; "
                        "give a .contiguous() parameter"
                    )
                found[k] = permuted(gradient, self._orders[k])
        updated: list[int] = self.members
        arrays: list[Array] | None = None
        if any(map(is_, found, repeat(None))):
            given = [k for k, gradient in enumerate(found) if gradient is not None]
            if not given:
                return []
            built = self.joint.arrays
            found, arrays = [found[k] for k in given], [built[k] for k in given]
            updated = [self.members[k] for k in given]
        with self._naming(self.members):
            is_taken = bool(found) and self.joint.apply(found, arrays)
        return updated if is_taken else []

    def position(self, parameter: torch.Tensor) -> int:
        """Return which of the parameters a tensor is."""
        for i, each in enumerate(self.parameters):
            if each is parameter:
                return i
        raise ValueError("catch_up: parameter: expected one of the optimizer's, found another")

    def catch_up(self, member: int | None, indices: Any) -> None:
        """Give rows of all members or of one what they have missed."""
        if not self.members:
            return
        place = None if member is None else self.members.index(member)
        if place is not None and indices is not None and self._orders[place] is not None:
            raise ValueError(
                f"catch_up: {self._who(self.members[place])}: expected C-contiguous memory with indices, found the "
                f"strides {self.parameters[self.members[place]].stride()}; leave the indices out"
            )
        with self._naming(self.members):
            self.joint.catch_up(None if place is None else self.joint.arrays[place], indices)

    # State

    def load(self, state: _State) -> None:
        """Copy the parameters' state into the optimizers."""
        if not self.members:
            return
        values: list[Array | None] = []
        for entry in self.joint.state():
            if entry is None or entry.name == "learning_rate":
                values.append(None)
                continue
            holders = self._holders(entry)
            found = [self._value(i, entry, state) for i in holders]
            for i, value in zip(holders, found, strict=True):
                if not _equal(value, found[0]):
                    raise ValueError(
                        f"state of {self._who(i)}: expected {entry.name!r} as in {self._who(holders[0])}, "
                        f"because a group has one, found {value} instead of {found[0]}"
                    )
            values.append(found[0] if found else None)
        self.joint.load(values)

    def _value(self, i: int, entry: Entry, state: _State) -> Array | None:
        own = state[self.parameters[i]]
        if entry.name in own:
            order = None if entry.variable is None else self._orders[entry.variable]
            return value_for(entry.array, entry.name, own[entry.name], order, self._who(i))
        if entry.name in _DISPENSABLE:
            return None
        raise ValueError(
            f"state of {self._who(i)}: expected {entry.name!r}, found only {', '.join(map(repr, own))}; "
            "load the state of an optimizer with the same rule and options"
        )

    def show(self, state: _State) -> None:
        """Put live views of the optimizers' state into that of the parameters."""
        for entry in self.joint.state():
            if entry is None or entry.name == "learning_rate":
                continue
            view = torch.from_numpy(entry.array)
            if entry.variable is not None:
                view = restored(view, self._orders[entry.variable])
            for i in self._holders(entry):
                own = state[self.parameters[i]]
                if not is_same(own.get(entry.name), view):
                    own[entry.name] = view
        self.note(state)

    def note(self, state: _State) -> None:
        """Take the state as it is for that of the optimizers."""
        self._state_places = _state_places(state)

    def _holders(self, entry: Entry) -> list[int]:
        """Return the parameters whose state an array belongs to."""
        if entry.variable is not None:
            return [self.members[entry.variable]]
        return [i for i in self.members if self.groups[i] == entry.group]

    @contextmanager
    def _naming(self, members: Sequence[int]) -> Iterator[None]:
        """Let errors say which parameter they are about."""
        try:
            yield
        except (TypeError, ValueError) as error:
            # A group's optimizer numbers its own variables, but the text behind is that of the whole build.
            texts = (
                [self._names[i] for i in members] if self._names else map(str, range(len(members)))
            )
            places = dict(zip(texts, members, strict=True))

            def name(found: re.Match[str]) -> str:
                text = found[2] or found[1]
                if text not in places:
                    return found[0]
                return self._who(places[text]) + (f" ({text!r})" if self._names else "")

            error.args = (re.sub(r"\bvariable (\d+)(?: \('(.*?)'\))?", name, str(error)),)
            raise

    def _who(self, i: int) -> str:
        group = self.groups[i]
        return who_is(group, i - sum(self.sizes[:group]))


def _all_parameters(groups: _Groups) -> list[torch.Tensor]:
    return [parameter for group in groups for parameter in group["params"]]


def _once(parameters: Sequence[torch.Tensor]) -> list[int]:
    """Return the position of each parameter, without empty ones, of which there is nothing to update."""
    positions: dict[int, int] = {}
    for i, parameter in enumerate(parameters):
        if parameter.numel() > 0:
            positions.setdefault(id(parameter), i)
    return list(positions.values())


def _state_places(state: Mapping[Any, Any]) -> list[int]:
    return places_of(chain.from_iterable(own.values() for own in dicts(state)))


def _as_built(parameter: torch.Tensor, order: Order) -> torch.Tensor:
    if _is_shared(parameter, order):
        return parameter
    return permuted(parameter.detach().as_subclass(torch.Tensor), order)


def _is_shared(parameter: torch.Tensor, order: Order) -> bool:
    return order is None and type(parameter) in (torch.Tensor, torch.nn.Parameter)


def _kind(parameter: torch.Tensor) -> tuple[Any, ...]:
    return parameter.dtype, parameter.device, parameter.shape, parameter.stride()


def _equal(value: Array | None, other: Array | None) -> bool:
    if value is None or other is None:
        return value is other
    return value.tobytes() == other.tobytes()
