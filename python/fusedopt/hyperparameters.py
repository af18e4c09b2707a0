"""Hyperparameters, each declared once, in the body of a class.

From the declaration follow the constructor's argument, the check of every value, the entry in the configuration and
the text in `help`.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from fusedopt import arguments

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Callable[[type], type]:
        """Only type checkers need it: they read the declarations of a class as the arguments of its constructor."""
        return lambda cls: cls


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
    ) -> None:
        self.default = default
        self.check = check
        self.kind = kind
        self.text = text
        self.shapes_state = shapes_state
        self.is_last = is_last
        self.is_keyword = is_keyword
        self.reaches_core = reaches_core
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
        if self.is_required:
            raise AttributeError(f"{self.name}: expected in the constructor, found an assignment")
        instance._assign(self, self.checked(instance, value))

    def checked(self, instance: Any, value: Any) -> Any:  # noqa: ARG002
        """Return the value to keep for what was given."""
        return self.check(self.name, value)

    @property
    def is_required(self) -> bool:
        """Whether the constructor must be given it, which then stays."""
        return self.default is inspect.Parameter.empty

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

    def is_default(self, instance: Any) -> bool:
        """Whether the value is what the constructor takes if nothing is given."""
        return not self.is_required and bool(
            self.configured(instance) == self.checked(instance, self.default)
        )

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


# The result is Any, so that a class can give each attribute its own type.


def hyperparameter(
    default: Any, check: Callable[[str, Any], Any], kind: str, text: str, **how: Any
) -> Any:
    """Declare a value with a check of its own."""
    return Hyperparameter(default, check, kind, text, **how)


def required(check: Callable[[str, Any], Any], kind: str, text: str) -> Any:
    """Declare an argument that must be given and cannot be assigned later."""
    return Hyperparameter(inspect.Parameter.empty, check, kind, text)


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


def decay(default: float, text: str, **how: Any) -> Any:
    """Declare a real number or a callable without arguments."""
    text += " A callable takes no arguments and is called exactly once in each update."
    return Hyperparameter(default, arguments.number_or_function, "float or callable", text, **how)


@dataclass_transform(field_specifiers=(required,))
class Declared:
    """A class whose hyperparameters are declared in its body and in those of its bases.

    The arguments of the constructor stand in the order of the declarations, those of a derived class first.
    """

    _hyperparameters: ClassVar[Mapping[str, Hyperparameter]] = {}

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

    def _construct(self, values: Mapping[str, Any]) -> None:
        """Make the object from checked values."""
        raise NotImplementedError

    @classmethod
    def _without_foreign(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Refuse arguments that were not declared, or leave out those without effect."""
        known = {name: value for name, value in given.items() if name in cls._hyperparameters}
        foreign = {name: value for name, value in given.items() if name not in known}
        arguments.none_left(foreign, cls._hyperparameters, stacklevel=4)
        return known

    def _assign(self, hyperparameter: Hyperparameter, value: Any) -> None:
        """Let a checked value act, and keep it."""
        raise NotImplementedError

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
        self._construct(
            {
                name: self._hyperparameters[name].checked(self, value)
                for name, value in bound.arguments.items()
            }
        )

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    __init__.__signature__ = inspect.Signature([own, *parameters])  # type: ignore[attr-defined]
    __init__.__qualname__ = f"{cls.__qualname__}.__init__"
    __init__.__module__ = cls.__module__
    __init__.__doc__ = f"Make an optimizer; help({cls.__name__}) tells the arguments."
    return __init__


_RAISES = """
Raises
------
ValueError
    If an argument is out of its range, if more than one of the three clip arguments is given, or for an argument
    that does not exist.
TypeError
    If an argument is of another type.
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
    return f"{head}\nParameters\n----------\n{entries}\n{raises}{own_raises}{cause}{examples}{tail}"
