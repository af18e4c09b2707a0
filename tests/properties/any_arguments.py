"""What property tests draw: arguments of a rule, good and bad, variables between guards, gradients of any layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import reference
from cases import LAZY_ONLY, NO_FLOAT8
from hypothesis import strategies as st
from reference import Array
from sample_arrays import DTYPES, misaligned

NUMBERS: dict[str, list[Any]] = {
    "learning_rate": [0.01, 0.3, 0.0],
    "momentum": [0.9, 0.5, 0.0, 1.0],
    "rho": [0.9, 0.0, 0.5],
    "epsilon": [1e-7, 1e-3, 0.1],
    "beta_1": [0.9, 0.5, 0.1],
    "beta_2": [0.999, 0.5, 0.0],
    "weight_decay": [0.1, 0.0, 0.004],
    "initial_accumulator_value": [0.1, 1e-6, 2.0],
    "l1_regularization_strength": [0.0, 0.05],
    "l2_regularization_strength": [0.0, 0.1],
    "l2_shrinkage_regularization_strength": [0.0, 0.02],
    "beta": [0.0, 0.3],
    "warmup_steps": [0, 1, 4],
    "beta_2_decay": [-0.8, -0.5],
    "epsilon_1": [1e-30, 1e-6],
    "epsilon_2": [1e-3, 0.01],
    "clip_threshold": [1.0, 0.7],
    "adam_beta_1": [0.9, 0.5],
    "adam_beta_2": [0.999, 0.5],
    "adam_weight_decay": [0.004, None, 0.1],
    "adam_lr_ratio": [1, 0.5],
    "ns_steps": [2, 1, 3],
    "rms_rate": [0.2, None],
    "clipnorm": [None, 0.5, 3.0],
    "clipvalue": [None, 0.3],
    "global_clipnorm": [None, 0.7, 100.0],
    "ema_momentum": [0.9, 0.0, 1.0],
    "ema_overwrite_frequency": [None, 1, 2, 3],
    "loss_scale_factor": [None, 8.0, 1000.0],
    "gradient_accumulation_steps": [None, 2, 3],
    "seed": [0, 3, 2**62],
}
"""Of each hyperparameter some values in its range. What is missing here is true or false, or keeps its default."""

BAD_NUMBERS: list[Any] = [-1.0, float("nan"), float("inf"), "0.1", True, [0.1], 2**2000]

ONE_CLIP = ("clipnorm", "clipvalue", "global_clipnorm")


class Arguments(NamedTuple):
    """A rule and its arguments by name."""

    rule: str
    values: dict[str, Any]

    def with_values(self, **values: Any) -> Arguments:
        return Arguments(self.rule, {**self.values, **values})


@st.composite
def arguments(draw: st.DrawFn) -> Arguments:
    """Any rule with any of its options, all of which go together."""
    rule = draw(st.sampled_from(sorted(reference.RULES)))
    own = reference.RULES[rule].defaults
    values: dict[str, Any] = {}
    for name, default in own.items():
        if name in NUMBERS and draw(st.booleans()):
            values[name] = draw(st.sampled_from(NUMBERS[name]))
        elif isinstance(default, bool) and name != "relative_step" and draw(st.booleans()):
            values[name] = not default
    if values.get("centered"):
        values.pop("rowwise", None)
    if values.get("nesterov") and rule == "SGD":
        values.setdefault("momentum", 0.9)
    values |= {"ns_steps": values.get("ns_steps", 2)} if rule == "Muon" else {}
    if draw(st.booleans()):
        values["weight_decay"] = draw(st.sampled_from(NUMBERS["weight_decay"]))
    clip = draw(st.sampled_from([None, None, *ONE_CLIP]))
    if clip:
        values[clip] = draw(st.sampled_from(NUMBERS[clip]))
    if draw(st.booleans()):
        values["use_ema"] = True
        for name in ("ema_momentum", "ema_overwrite_frequency"):
            values[name] = draw(st.sampled_from(NUMBERS[name]))
    for name in ("loss_scale_factor", "gradient_accumulation_steps"):
        if draw(st.integers(0, 2)) == 2:
            values[name] = draw(st.sampled_from(NUMBERS[name]))
    values["skip_nonfinite"] = draw(st.booleans())
    if draw(st.integers(0, 2)) == 2:
        kinds = ["bfloat16"] if rule in NO_FLOAT8 else ["bfloat16", "float8"]
        kind = draw(st.sampled_from(kinds))
        values["slot_dtype"] = kind
        if kind == "float8":  # which needs rows of whole blocks, and slots that nothing subtracts
            values.pop("rowwise", None)
            values.pop("centered", None)
        values["seed"] = draw(st.sampled_from(NUMBERS["seed"]))
    elif rule not in LAZY_ONLY | {"Muon"} and not values.get("use_ema") and draw(st.booleans()):
        values["row_updates"] = "caught_up"
        values.pop("gradient_accumulation_steps", None)
    if draw(st.integers(0, 3)) == 3:
        values["master"] = False
    return Arguments(rule, values)


@st.composite
def bad_argument(draw: st.DrawFn, good: Arguments) -> tuple[str, Any]:
    """A hyperparameter of this rule, and a value that is out of its range or no number at all."""
    own = [name for name in reference.RULES[good.rule].defaults if name in NUMBERS]
    name = draw(st.sampled_from([*own, "clipnorm", "clipvalue", "global_clipnorm", "ema_momentum"]))
    bad = BAD_NUMBERS if name not in ("beta_2_decay", "muon_a") else BAD_NUMBERS[1:]
    return name, draw(st.sampled_from(bad))


SHAPES = [(), (0,), (1,), (5,), (3, 4), (2, 3, 2), (0, 3), (1, 1), (4, 64), (65,), (1025,), (7, 1)]
GUARD = 64


class Variable:
    """An array whose neighbours in memory are watched."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], shift: int, seed: int) -> None:
        size = int(np.prod(shape)) * dtype.itemsize
        self.memory = np.full(size + 4 * GUARD, 0xA5, np.uint8)
        first = -self.memory.ctypes.data % GUARD + GUARD + shift * dtype.itemsize
        self.array: Array = self.memory[first : first + size].view(dtype).reshape(shape)
        self.array[...] = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
        self._first, self._end = first, first + size

    def __repr__(self) -> str:
        return f"Variable{self.array.shape, self.array.dtype.name}"

    def neighbours_are_untouched(self) -> bool:
        around = [self.memory[: self._first], self.memory[self._end :]]
        return all((part == 0xA5).all() for part in around)


variables = st.lists(
    st.builds(
        Variable,
        st.sampled_from(SHAPES),
        st.sampled_from(DTYPES),
        st.integers(0, 3),
        st.integers(0, 99),
    ),
    min_size=1,
    max_size=4,
)

LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "as it is": lambda g: g,
    "Fortran": np.asfortranarray,
    "reversed": lambda g: np.flip(np.flip(g).copy()),
    "every second": lambda g: np.repeat(g, 2, axis=-1)[..., ::2],
    "misaligned": misaligned,
    "transposed": lambda g: np.ascontiguousarray(g.T).T,
}
"""The same numbers in another layout."""

WRONG: dict[str, Callable[[Array], Any]] = {
    "foreign bytes": lambda w: np.ones(w.shape, ">f4"),
    "integers": lambda w: np.ones(w.shape, np.int32),
    "complex": lambda w: np.ones(w.shape, np.complex64),
    "another shape": lambda w: np.ones((*w.shape, 2), np.float32),
    "masked": lambda w: np.ma.masked_array(np.ones((3, 4)), mask=True),
    "text": lambda w: "ones",
    "objects": lambda w: np.full(w.shape, None),
}
"""Gradients that no variable takes."""


def gradient(w: Array, dtype: np.dtype[Any], layout: str, factor: float, seed: int) -> Array:
    """Numbers that nobody may write."""
    with np.errstate(over="ignore"):
        values = np.random.default_rng(seed).standard_normal(w.shape) * factor
        made = np.asarray(np.asarray(values, np.float64).astype(dtype))
    if made.ndim:
        made = LAYOUTS[layout](made)
    made = made.view()
    made.flags.writeable = False
    return made


WRONG_VARIABLES: dict[str, Callable[[Array], Any]] = {
    "of another one's memory": lambda w: w.reshape(-1)[-1:],
    "read-only": lambda w: np.broadcast_to(np.float32(1), (3,)),
    "with gaps": lambda w: np.ones(6)[::2],
    "misaligned": lambda w: misaligned(np.ones(2)),
    "foreign bytes": lambda w: np.ones(2, ">f8"),
    "integers": lambda w: np.ones(2, np.int64),
    "masked": lambda w: np.ma.masked_array(np.ones(2), mask=[True, False]),
    "a list": lambda w: [1.0, 2.0],
}
"""What no optimizer may be built on, beside a variable that it has."""
