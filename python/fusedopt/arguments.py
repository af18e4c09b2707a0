"""Checks of argument types; ranges are the core's to check. Every message names the argument."""

from __future__ import annotations

import difflib
import inspect
import math
import numbers
import re
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np


def real(name: str, value: Any) -> float:
    """Any real number as a float; TypeError for everything else."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        way_out = "; leave the argument out if it has a default" if value is None else ""
        raise TypeError(f"{name}: expected a real number, found {value!r}{way_out}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name}: expected a number of double's range, found {value!r}") from None


def optional_real(name: str, value: Any) -> float | None:
    """Like `real`, but None is allowed."""
    return None if value is None else real(name, value)


def single(value: Any) -> Any:
    """Return the number in an array or tensor of one element; anything else as it is."""
    if isinstance(value, numbers.Number) or getattr(value, "shape", None) is None:
        return value
    if isinstance(value, type) or math.prod(value.shape) != 1:
        return value
    array = value if hasattr(value, "item") else np.asarray(value)
    return array.item()


def number_or_function(name: str, value: Any) -> Any:
    """Check a real number, or a callable without arguments; TypeError for everything else."""
    if not callable(value):
        return real(name, value)
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # of some built-in functions it is not known
        return value
    try:
        signature.bind()
    except TypeError:
        raise TypeError(
            f"{name}: expected a callable without arguments, found {value!r}, which takes {signature}; "
            "for a function of the step derive a class from fusedopt.schedules.LearningRateSchedule, "
            "or read the step yourself, as in lambda: function(optimizer.iterations)"
        ) from None
    return value


def integer(name: str, value: Any) -> int:
    """Any integer as an int; ValueError for a number that is none, as in Keras, else TypeError."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        kind = ValueError if isinstance(value, numbers.Real) else TypeError
        raise kind(f"{name}: expected an integer, found {value!r}")
    number = int(value)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{name}: expected an integer of 64 bits, found {value!r}")
    return number


def optional_integer(name: str, value: Any) -> int | None:
    """Like `integer`, but None is allowed."""
    return None if value is None else integer(name, value)


def flag(name: str, value: Any) -> bool:
    """A bool (or numpy.bool); TypeError for everything else."""
    if type(value).__name__ not in ("bool", "bool_"):
        raise TypeError(f"{name}: expected True or False, found {value!r}")
    return bool(value)


def text(name: str, value: Any) -> str:
    """A string; TypeError for everything else."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a string, found {value!r}")
    return value


def choice(
    name: str,
    value: Any,
    choices: Sequence[str],
    meant: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """One of some strings; ValueError for another string, TypeError for everything else.

    `meant` has the choices by other names for them.
    """
    known = f"{', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}"
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected {known}, found {value!r}")
    if value not in choices:
        alike = re.sub(r"[^a-z0-9]+", "_", value.lower())
        near = [meant[value.lower()]] if value.lower() in meant else []
        near = near or difflib.get_close_matches(alike, choices, n=1)
        way_out = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name}: expected {known}, found {value!r}{way_out}")
    return str(value)


def patterns(name: str, value: Any) -> list[str]:
    """Regular expressions as a list, empty for None; TypeError or ValueError for everything else."""
    if value is None:
        return []
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{name}: expected a list of strings, found {value!r}")
    checked = [text(name, pattern) for pattern in value]
    for pattern in checked:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"{name}: expected a regular expression, found {pattern!r} ({error})"
            ) from None
    return checked


def configuration(config: Any) -> dict[str, Any]:
    """Copy a configuration; TypeError for what is not a dict by argument name."""
    if not isinstance(config, Mapping) or not all(isinstance(name, str) for name in config):
        raise TypeError(f"config: expected a dict by argument name, found {config!r}")
    return dict(config)


def none_left(kwargs: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse arguments that no optimizer has; warn of Keras 2's decay, which Keras 3 ignores."""
    unknown = dict(kwargs)
    if unknown.pop("decay", None):
        warn(
            "decay: no longer supported, as in Keras 3, and ignored; for the same effect give "
            "schedules.InverseTimeDecay(learning_rate, decay_steps=1, decay_rate=decay) as learning_rate"
        )
    if unknown:
        raise unknown_arguments(unknown, known)


def warn(message: str) -> None:
    """Warn with the line outside this package that led here, from however deep inside."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] == "fusedopt":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def unknown_arguments(names: Iterable[str], known: Iterable[str]) -> ValueError:
    """Return the error that names arguments, with those that were meant."""
    known = list(known)
    ordered = sorted(names)
    ways_out = "".join(f"; {way_out}" for name in ordered if (way_out := _way_out(name, known)))
    return ValueError(f"unknown argument(s): {', '.join(ordered)}{ways_out}")


def _way_out(name: str, known: Iterable[str]) -> str:
    meant = hint(name, known)
    return f"{name}: {meant}" if meant else _GONE.get(name, "")


def hint(name: str, known: Iterable[str]) -> str:
    """Ask for the name that was meant; empty if none comes near."""
    known = list(known)
    meant = [each for each in _MEANT.get(name, ()) if each in known]
    meant = meant or difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f"did you mean {' and '.join(meant)}?" if meant else ""


def is_slip(name: str) -> bool:
    """Whether this is what another library calls a hyperparameter."""
    return name in _MEANT


_GONE = {
    "decay": "instead of decay give the inner optimizer a schedule",
    "is_legacy_optimizer": "leave is_legacy_optimizer out, as it changes nothing",
    "jit_compile": "leave jit_compile out, as nothing is compiled at run time",
    "momentum_decay": "leave momentum_decay out, as the momentum follows Keras's schedule",
    "lr_decay": "instead of lr_decay give a schedule",
    "maximize": "instead of maximize negate the gradients",
}

# The names of other libraries, and Keras's for the same.
_MEANT = {
    "lr": ("learning_rate",),
    "betas": ("beta_1", "beta_2", "adam_beta_1", "adam_beta_2"),
    "beta1": ("beta_1", "adam_beta_1"),
    "beta2": ("beta_2", "adam_beta_2"),
    "b1": ("beta_1", "adam_beta_1"),
    "b2": ("beta_2", "adam_beta_2"),
    "momentum": ("beta_1",),
    "eps": ("epsilon", "epsilon_1", "epsilon_2"),
    "alpha": ("rho",),
    "decay_rate": ("beta_2_decay",),
    "beta2_decay": ("beta_2_decay",),
    "wd": ("weight_decay",),
    "ns_coefficients": ("muon_a", "muon_b", "muon_c"),
    "lr_power": ("learning_rate_power",),
    "initial_accumulator": ("initial_accumulator_value",),
    "l1": ("l1_regularization_strength",),
    "l2": ("l2_regularization_strength", "weight_decay"),
    "d": ("clip_threshold",),
    "clip_norm": ("clipnorm",),
    "clip_value": ("clipvalue",),
    "global_clip_norm": ("global_clipnorm",),
    "max_grad_norm": ("global_clipnorm",),
    "ema": ("use_ema",),
    "ema_decay": ("ema_momentum",),
    "loss_scale": ("loss_scale_factor",),
    "accumulation_steps": ("gradient_accumulation_steps",),
    "lazy": ("row_updates",),
    "caught_up": ("row_updates",),
    "optim_bits": ("slot_dtype",),
    "state_dtype": ("slot_dtype",),
    "slot_type": ("slot_dtype",),
    "mu_dtype": ("slot_dtype",),
    "moments_dtype": ("slot_dtype",),
    "fp32_optimizer_states": ("slot_dtype",),
    "min_8bit_size": ("slot_dtypes",),
    "stochastic_rounding": ("slot_dtype", "master"),
    "bf16_stochastic_round": ("master",),
    "master_weights": ("master",),
    "random_seed": ("seed",),
    "rounding_seed": ("seed",),
}
