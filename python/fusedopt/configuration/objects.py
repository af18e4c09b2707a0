"""The dictionary form of an object, and the class such a dictionary names."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from inspect import isabstract
from typing import Any


def serialized(instance: Any, module: str) -> dict[str, Any]:
    """Return the dictionary Keras 3 writes for an object of `module`."""
    name = type(instance).__name__
    try:
        config = _with_schedules(instance.get_config())
    except RecursionError:
        raise ValueError(
            f"{name}.get_config: expected a configuration without cycles, found one nested too deeply"
        ) from None
    own = type(instance).__module__.split(".")[0] == "fusedopt"
    return {
        "module": module if own else None,
        "class_name": name,
        "config": config,
        "registered_name": None if own else name,
    }


def _with_schedules(config: Any) -> Any:
    """Serialise the schedules in a configuration."""
    if isinstance(config, Mapping):
        return {name: _with_schedules(value) for name, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(_with_schedules(value) for value in config)
    if hasattr(config, "get_config") and not isinstance(config, type):
        return serialized(config, "keras.optimizers.schedules")
    return config


_custom_objects: ContextVar[Mapping[str, Any] | None] = ContextVar("custom_objects", default=None)


def _known_objects(custom_objects: Mapping[str, Any] | None) -> dict[str, Any]:
    return {**(_custom_objects.get() or {}), **(custom_objects or {})}


@contextmanager
def custom_classes(custom_objects: Mapping[str, Any] | None) -> Iterator[None]:
    """Let `find_class` know these, even if it is called for an object inside another."""
    token = _custom_objects.set(_known_objects(custom_objects))
    try:
        yield
    finally:
        _custom_objects.reset(token)


def made_of(config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None, base: type) -> Any:
    """Make the object, of a subclass of `base`, that a dictionary stands for."""
    with custom_classes(custom_objects):
        cls, arguments = find_class(config, None, base)
        return cls.from_config(arguments)


def known_classes(base: type) -> dict[str, type]:
    """Return the library's subclasses of `base` by lower-case name."""
    classes: dict[str, type] = {}
    cls: type
    for cls in base.__subclasses__():
        if cls.__module__.split(".")[0] == "fusedopt":
            has_no_rule = vars(cls).get("_rule_name") == ""  # the base of all rules
            if not isabstract(cls) and not has_no_rule:
                classes[cls.__name__.lower()] = cls
            classes |= known_classes(cls)
    return classes


def find_class(
    config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None, base: type
) -> tuple[Any, dict[str, Any]]:
    """Return the class a dictionary names, which must be a subclass of `base`, and its arguments."""
    if not isinstance(config, Mapping) or not {"class_name", "config"} <= config.keys():
        raise TypeError(f"config: expected a dict with class_name and config, found {config!r}")
    name, arguments = config["class_name"], config["config"]
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        raise TypeError(f"config: expected a class_name string and a config dict, found {config!r}")
    cls = _known_objects(custom_objects).get(name) or known_classes(base).get(name.lower())
    if cls is None:
        known = ", ".join(sorted(found.__name__ for found in known_classes(base).values()))
        near = difflib.get_close_matches(name.lower(), known_classes(base), n=1)
        meant = f"did you mean {known_classes(base)[near[0]].__name__!r}? " if near else ""
        raise ValueError(
            f"class_name: expected one of {known or 'custom_objects'}, found {name!r}; "
            f"{meant}pass classes of your own in custom_objects"
        )
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise TypeError(f"{name}: expected a subclass of {base.__name__}, found {cls!r}")
    return cls, dict(arguments)
