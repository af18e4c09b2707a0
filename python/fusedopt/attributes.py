"""Attributes that an optimizer does not have, or that cannot be assigned: what is said of them."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fusedopt import arguments
from fusedopt.elsewhere import ATTRIBUTES, MEANT, READ_ONLY

_ELSEWHERE = {*ATTRIBUTES, *MEANT}


class _Elsewhere:
    """An attribute of other libraries' optimizers. Looking it up is an AttributeError that says what there is here.

    Python asks it only if nothing else has the name. `__getattr__` would make every other look-up slower.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type[Attributes]) -> Any:
        """Say what to do."""
        raise AttributeError(owner._no_attribute(self._name))


def _without_elsewhere(cls: type, names: Iterable[str]) -> list[str]:
    def is_elsewhere(name: str) -> bool:
        found = next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)
        return isinstance(found, _Elsewhere)

    return [name for name in names if name not in _ELSEWHERE or not is_elsewhere(name)]


class _Listed(ABCMeta):
    """Lists the attributes of a class without those of other libraries."""

    def __dir__(cls) -> list[str]:
        """Return what `dir` and `help` show."""
        return _without_elsewhere(cls, super().__dir__())


class Attributes(metaclass=_Listed):
    """What refuses names that mean nothing. It comes after all bases that have attributes."""

    def __dir__(self) -> list[str]:
        """Return what `dir` shows."""
        return _without_elsewhere(type(self), super().__dir__())

    if not TYPE_CHECKING:  # which would allow every name

        def __setattr__(self, name: str, value: Any) -> None:
            """Refuse a name that means nothing; subclasses may have attributes of their own."""
            if not name.startswith("_"):
                self._require_assignable(name)
            super().__setattr__(name, value)

    def _require_assignable(self, name: str) -> None:
        is_own = type(self).__module__.split(".")[0] == "fusedopt"
        if not hasattr(type(self), name) and (is_own or arguments.is_slip(name)):
            raise AttributeError(self._no_attribute(name))
        found = getattr(type(self), name, None)
        if isinstance(found, property) and found.fset is None:
            advice = f"; {READ_ONLY[name]}" if name in READ_ONLY else ""
            raise AttributeError(
                f"{name}: expected no assignment, as it can only be read, found one{advice}"
            )

    @classmethod
    def _no_attribute(cls, name: str) -> str:
        known = [each for each in dir(cls) if not each.startswith("_")]
        advice = ATTRIBUTES.get(name) or arguments.hint(name, known)
        return f"{cls.__name__!r} object has no attribute {name!r}" + (advice and f"; {advice}")


for _name in _ELSEWHERE:
    setattr(Attributes, _name, _Elsewhere(_name))
