"""Classes whose hyperparameters are declared in their bodies: what follows from the declarations."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from fusedopt import arguments
from fusedopt.hyperparameters import Hyperparameter, required

__all__ = ["Declared", "dataclass_transform"]

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Callable[[type], type]:
        """Only type checkers need it: they read the declarations of a class as the arguments of its constructor."""
        return lambda cls: cls


@dataclass_transform(field_specifiers=(required,))
class Declared(ABC):
    """A class whose hyperparameters are declared in its body and in those of its bases.

    The arguments of the constructor stand in the order of the declarations, those of a derived class first.
    """

    _hyperparameters: ClassVar[Mapping[str, Hyperparameter]] = {}
    _inside: ClassVar[tuple[Mapping[str, Hyperparameter], str]] = ({}, "")
    """What optimizers inside this one have, and how messages call these."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Make the constructor and the documentation of a class that declares hyperparameters."""
        super().__init_subclass__(**kwargs)
        if not any(isinstance(value, Hyperparameter) for value in vars(cls).values()):
            return
        found: dict[str, Hyperparameter] = {}
        for base in cls.__mro__:
            for name, value in vars(base).items():
                if isinstance(value, Hyperparameter):
                    found.setdefault(name, value)
        ordered = sorted(found.values(), key=lambda each: (each.is_keyword, each.is_last))
        cls._hyperparameters = {each.name: each for each in ordered}
        if "__init__" not in vars(cls):
            cls.__init__ = _constructor(cls)  # type: ignore[method-assign]
            cls.__doc__ = _documentation(cls)

    @abstractmethod
    def _construct(self, values: Mapping[str, Any]) -> None:
        """Make the object from checked values."""

    @classmethod
    def _without_foreign(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Refuse arguments that were not declared, or leave out those without effect."""
        known = {name: value for name, value in given.items() if name in cls._hyperparameters}
        foreign = {name: value for name, value in given.items() if name not in known}
        arguments.none_left(foreign, cls._hyperparameters, *cls._inside, cls.__name__)
        return known

    @abstractmethod
    def _assign(self, hyperparameter: Hyperparameter, value: Any) -> None:
        """Let a checked value act, and keep it."""

    def _configuration(self) -> dict[str, Any]:
        """Return the arguments that make an equal object."""
        return {
            name: each.configured(self)
            for name, each in self._hyperparameters.items()
            if not (each.is_keyword and each.is_default(self))
        }

    def _repr_arguments(self) -> list[str]:
        """Show the arguments that are not the defaults."""
        return [
            f"{name}={each.kept(self)!r}"
            for name, each in self._hyperparameters.items()
            if not each.is_default(self)
        ]


def _warn_of_no_effect(known: Mapping[str, Hyperparameter], values: Mapping[str, Any]) -> None:
    for name, each in known.items():
        value = values[name]
        is_off = value == each.default or (each.default is None and not value)
        if each.needs and not is_off and values[each.needs] == known[each.needs].default:
            arguments.warn(f"{name}: no effect without {each.needs}, found {value!r}")


def _constructor(cls: type[Declared]) -> Callable[..., None]:
    parameters = [each.parameter() for each in cls._hyperparameters.values()]
    signature = inspect.Signature(parameters)

    def __init__(self: Declared, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        known = cls._without_foreign(kwargs)
        try:
            bound = signature.bind(*args, **known)
        except TypeError as error:
            raise TypeError(f"{cls.__name__}: {error}") from None
        bound.apply_defaults()
        values = {
            name: self._hyperparameters[name].checked(self, value)
            for name, value in bound.arguments.items()
        }
        self._construct(values)
        _warn_of_no_effect(cls._hyperparameters, values)

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    __init__.__signature__ = inspect.Signature([own, *parameters])  # type: ignore[attr-defined]
    __init__.__qualname__ = f"{cls.__qualname__}.__init__"
    __init__.__module__ = cls.__module__
    __init__.__doc__ = f"Make one; help({cls.__name__}) tells the arguments."
    return __init__


_RAISES = """
Raises
------
ValueError
    If an argument is out of its range, if more than one of the three clip arguments is given, or for an argument
    that does not exist. Keras 2's ``decay`` only warns, and is ignored, as in Keras 3.
TypeError
    If an argument is of another type.
"""
_WARNS = """
Warns
-----
UserWarning
    For an argument that has no effect without another one.
"""


def _documentation(cls: type[Declared]) -> str | None:
    """Put the text of every argument into a class's docstring, before what it raises or the examples."""
    if vars(cls).get("__doc__") is None:  # python -OO
        return None
    text = inspect.cleandoc(str(cls.__doc__))
    head, examples, tail = text.partition("\nExamples\n--------\n")
    raises = _RAISES if "\nRaises\n------\n" not in head else ""
    head, own_raises, cause = head.partition("\nRaises\n------\n")
    entries = "\n".join(each.documented() for each in cls._hyperparameters.values())
    needs = any(each.needs for each in cls._hyperparameters.values())
    warns = _WARNS if needs and "\nWarns\n-----\n" not in cause else ""
    own = f"{own_raises}{cause.rstrip()}" + ("\n" if cause else "")
    return f"{head}\nParameters\n----------\n{entries}\n{raises}{own}{warns}{examples}{tail}"
