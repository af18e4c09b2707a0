"""Optimizers and schedules as plain dictionaries, in the format Keras 3 uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusedopt import arguments
from fusedopt.configuration.objects import find_class, serialized
from fusedopt.optimizer import Optimizer


def checked(name: str, value: Any) -> Optimizer:
    """Return what is an optimizer; TypeError for everything else."""
    if isinstance(value, Optimizer):
        return value
    advice = arguments.make_one(value, Optimizer)
    if isinstance(value, str):
        advice = f"; make one, fusedopt.get({value!r})"
    elif isinstance(value, Mapping) and "class_name" in value:
        advice = "; make one of the configuration, fusedopt.deserialize(...)"
    raise TypeError(f"{name}: expected an Optimizer, found {value!r}{advice}")


def serialize(optimizer: Optimizer) -> dict[str, Any]:
    """Return an optimizer's class and configuration as a dictionary.

    Parameters
    ----------
    optimizer : Optimizer
        Its state is not part of the result.

    Returns
    -------
    dict
        ``module``, ``class_name``, ``config`` and ``registered_name``, as ``keras.optimizers.serialize``
        writes them.

    Raises
    ------
    TypeError
        If it is not an optimizer, or its schedule has no ``get_config``.

    Examples
    --------
    >>> import fusedopt as fo
    >>> fo.serialize(fo.SGD(momentum=0.9))["class_name"]
    'SGD'
    """
    return serialized(checked("optimizer", optimizer), "keras.optimizers")


def deserialize(
    config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
) -> Optimizer:
    """Make an optimizer from what `serialize` returned, here or in Keras.

    Parameters
    ----------
    config : dict
        With ``class_name`` and ``config``.
    custom_objects : dict, optional
        Classes by name, for schedules of your own.

    Raises
    ------
    ValueError
        If a class is unknown or an argument is refused.
    TypeError
        If the configuration is not of this form.

    Examples
    --------
    >>> import fusedopt as fo
    >>> fo.deserialize(fo.serialize(fo.SGD(momentum=0.9))).get_config()["momentum"]
    0.9
    """
    cls, own = find_class(config, custom_objects, Optimizer)
    optimizer: Optimizer = cls.from_config(own, custom_objects=custom_objects)
    return optimizer


def get(identifier: Optimizer | str | Mapping[str, Any]) -> Optimizer:
    """Return the optimizer an identifier stands for.

    Parameters
    ----------
    identifier : Optimizer, str or dict
        An optimizer is returned as it is; a name such as ``"adamw"``, in any case, gives one with
        default arguments; a dictionary is deserialised.

    Raises
    ------
    ValueError
        If the name is unknown.
    TypeError
        If the identifier is of another kind.

    Examples
    --------
    >>> import fusedopt as fo
    >>> fo.get("rmsprop").get_config()["rho"]
    0.9
    """
    if isinstance(identifier, Optimizer):
        return identifier
    if isinstance(identifier, str):
        return deserialize({"class_name": identifier, "config": {}})
    if isinstance(identifier, Mapping):
        return deserialize(identifier)
    advice = arguments.make_one(identifier, Optimizer)
    raise TypeError(
        f"identifier: expected an Optimizer, a name or a dict, found {identifier!r}{advice}"
    )
