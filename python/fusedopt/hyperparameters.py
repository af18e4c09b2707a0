"""Hyperparameters, each declared once, in the body of a class.

From the declaration follow the constructor's argument, the check of every value, the entry in the configuration and
the text in `help`.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from fusedopt import arguments

Decay = float | Callable[[], float]


class Hyperparameter:
    """A checked attribute of an optimizer, and an argument of its constructor.

    Parameters
    ----------
    default : object
        What the constructor takes if the argument is left out.
    check : callable
        ``check(name, value)`` returns the value to keep, or raises.
    kind : str
        The types that it takes, for `help`.
    text : str
        What it means, for `help`.
    shapes_state : bool
        It has its effect when the state is made, so that it cannot change after `build`.
    is_last : bool
        The argument stands after those that all optimizers have.
    is_keyword : bool
        The argument can only be given by keyword. Keras does not have it, so configurations hold it only if it is
        not the default.
    reaches_core : bool
        It is a field of the core's rule.
    needs : str
        The hyperparameter without which it has no effect: the constructor then warns.
    """

    def __init__(
        self,
        default: Any,
        check: Callable[[str, Any], Any],
        kind: str,
        text: str,
        *,
        shapes_state: bool = False,
        is_last: bool = False,
        is_keyword: bool = False,
        reaches_core: bool = True,
        needs: str = "",
    ) -> None:
        self.default = default
        self.check = check
        self.kind = kind
        self.text = text
        self.shapes_state = shapes_state
        self.is_last = is_last
        self.is_keyword = is_keyword
        self.reaches_core = reaches_core
        self.needs = needs
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        """Take the name of the attribute."""
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Return the value."""
        if instance is None:
            return self
        return self.kept(instance)

    def __set__(self, instance: Any, value: Any) -> None:
        """Check a value and let it act, or raise and leave everything as it was."""
        instance._assign(self, self.checked(instance, value))

    def checked(self, instance: Any, value: Any) -> Any:  # noqa: ARG002
        """Return the value to keep for what was given."""
        return self.check(self.name, value)

    def kept(self, instance: Any) -> Any:
        """Return what was given last."""
        try:
            return vars(instance)[self.name]
        except KeyError:
            raise AttributeError(
                f"{type(instance).__name__}.{self.name}: expected after the constructor, found before"
            ) from None

    def configured(self, instance: Any) -> Any:
        """Return the value for a configuration."""
        value = self.kept(instance)
        return list(value) if isinstance(value, list) else value

    def deserialized(
        self,
        value: Mapping[str, Any],
        custom_objects: Mapping[str, Any] | None,  # noqa: ARG002
    ) -> Any:
        """Return what a dictionary in a configuration stands for."""
        return value

    def is_default(self, instance: Any) -> bool:
        """Whether the value is what the constructor takes if nothing is given."""
        if self.default is inspect.Parameter.empty:
            return False
        return bool(self.configured(instance) == self.checked(instance, self.default))

    def parameter(self) -> inspect.Parameter:
        """Return the constructor's parameter."""
        kind = (
            inspect.Parameter.KEYWORD_ONLY
            if self.is_keyword
            else inspect.Parameter.POSITIONAL_OR_KEYWORD
        )
        return inspect.Parameter(self.name, kind, default=self.default)

    def documented(self) -> str:
        """Return the entry in a NumPy-style list of parameters."""
        lines = textwrap.fill(
            " ".join(self.text.split()), 100, initial_indent="    ", subsequent_indent="    "
        )
        return f"{self.name} : {self.kind}\n{lines}"


class Part(Hyperparameter):
    """An object with a configuration of its own, which the constructor must be given and which then stays."""

    def __init__(
        self,
        check: Callable[[str, Any], Any],
        kind: str,
        text: str,
        serialize: Callable[[Any], dict[str, Any]],
        deserialize: Callable[[Mapping[str, Any], Mapping[str, Any] | None], Any],
    ) -> None:
        super().__init__(inspect.Parameter.empty, check, kind, text)
        self._serialize = serialize
        self._deserialize = deserialize

    def __set__(self, instance: Any, value: Any) -> None:
        """Refuse another part."""
        raise AttributeError(f"{self.name}: expected in the constructor, found an assignment")

    def configured(self, instance: Any) -> dict[str, Any]:
        """Return it as a dictionary."""
        return self._serialize(self.kept(instance))

    def deserialized(
        self, value: Mapping[str, Any], custom_objects: Mapping[str, Any] | None
    ) -> Any:
        """Make it of a dictionary."""
        return self._deserialize(value, custom_objects)

    def is_default(self, instance: Any) -> bool:  # noqa: ARG002
        """Nothing is."""
        return False


# The result is Any, so that a class can give each attribute its own type.


def hyperparameter(
    default: Any, check: Callable[[str, Any], Any], kind: str, text: str, **how: Any
) -> Any:
    """Declare a value with a check of its own."""
    return Hyperparameter(default, check, kind, text, **how)


def required(
    check: Callable[[str, Any], Any],
    kind: str,
    text: str,
    *,
    serialize: Callable[[Any], dict[str, Any]],
    deserialize: Callable[[Mapping[str, Any], Mapping[str, Any] | None], Any],
) -> Any:
    """Declare a part with a configuration of its own. It must be given and cannot be assigned later."""
    return Part(check, kind, text, serialize, deserialize)


def real(default: float, text: str, **how: Any) -> Any:
    """Declare a real number."""
    return Hyperparameter(default, arguments.real, "float", text, **how)


def optional_real(default: float | None, text: str, **how: Any) -> Any:
    """Declare a real number or None."""
    return Hyperparameter(default, arguments.optional_real, "float, optional", text, **how)


def integer(default: int, text: str, **how: Any) -> Any:
    """Declare an integer."""
    return Hyperparameter(default, arguments.integer, "int", text, **how)


def optional_integer(default: int | None, text: str, **how: Any) -> Any:
    """Declare an integer or None."""
    return Hyperparameter(default, arguments.optional_integer, "int, optional", text, **how)


def flag(default: bool, text: str, **how: Any) -> Any:
    """Declare True or False."""
    return Hyperparameter(default, arguments.flag, "bool", text, **how)


def choice(
    default: str,
    choices: Sequence[str],
    text: str,
    *,
    meant: Mapping[str, str] = MappingProxyType({}),
    **how: Any,
) -> Any:
    """Declare one of some strings. `meant` has them by other names for the same."""
    kind = "{" + ", ".join(f'"{each}"' for each in choices) + "}"
    check = partial(arguments.choice, choices=choices, meant=meant)
    return Hyperparameter(default, check, kind, text, **how)


def decay(default: float, text: str, **how: Any) -> Any:
    """Declare a real number or a callable without arguments."""
    text += " A callable takes no arguments and is called exactly once in each update."
    return Hyperparameter(default, arguments.number_or_function, "float or callable", text, **how)


def needs_build(name: str) -> str:
    """Return why a built optimizer cannot take another value."""
    return (
        f"{name}: expected before build, as it shapes the state, found the optimizer built; "
        "make a new optimizer with it"
    )
