"""Arguments that a constructor or setter refuses: the error names the argument, its range and what was found."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from subject import Subject
from training import arguments_of, classes

NUMBERS = [math.nan, math.inf, -math.inf, 10**400, Fraction(10**400)]
NO_NUMBERS = ["0.5", b"1", True, 1j, [0.5], np.array(0.5), object()]
NEGATIVE = [-1, -1e-300, np.float32(-0.5)]
FRACTION = [*NUMBERS, *NEGATIVE, 1.0, 1, 1.5, np.float64(2)]
FRACTION_OR_ONE = [*NUMBERS, *NEGATIVE, 1.0000001, 2]
POSITIVE = [*NUMBERS, *NEGATIVE, 0, 0.0, -0.0]
NOT_NEGATIVE = [*NUMBERS, *NEGATIVE]
NO_FLAGS = ["True", 1, 0, 1.0, None, [], np.array(True)]
NO_INTEGERS = ["2", [2], 2j, object(), np.array(2)]
# For each argument: values of the right type but out of range, and of a wrong type.
REFUSED: dict[str, tuple[list[Any], list[Any]]] = {
    "learning_rate": (NOT_NEGATIVE, ["0.5", b"1", True, 1j, [0.5], np.zeros(2), object(), None]),
    "momentum": (FRACTION_OR_ONE, [*NO_NUMBERS, None]),
    "rho": (FRACTION, [*NO_NUMBERS, None]),
    "beta_1": (FRACTION, [*NO_NUMBERS, None]),
    "beta_2": (FRACTION, [*NO_NUMBERS, None]),
    "epsilon": ([*POSITIVE, 1e-39], [*NO_NUMBERS, None]),
    "initial_accumulator_value": (NOT_NEGATIVE, [*NO_NUMBERS, None]),
    "learning_rate_power": ([*NUMBERS, 0.5, 1e-300], [*NO_NUMBERS, None]),
    "l1_regularization_strength": (NOT_NEGATIVE, [*NO_NUMBERS, None]),
    "l2_regularization_strength": (NOT_NEGATIVE, [*NO_NUMBERS, None]),
    "l2_shrinkage_regularization_strength": (NOT_NEGATIVE, [*NO_NUMBERS, None]),
    "beta": (NOT_NEGATIVE, [*NO_NUMBERS, None]),
    "warmup_steps": ([-1, 2.5, True, math.nan, 2**70], [*NO_INTEGERS, None]),
    "beta_2_decay": ([*NUMBERS, 0.5, 1e-300], [*NO_NUMBERS, None]),
    "epsilon_1": (NOT_NEGATIVE, [*NO_NUMBERS, None]),
    "epsilon_2": (NOT_NEGATIVE, [*NO_NUMBERS, None]),
    "clip_threshold": (POSITIVE, [*NO_NUMBERS, None]),
    "relative_step": ([], NO_FLAGS),
    "adam_beta_1": (FRACTION, [*NO_NUMBERS, None]),
    "adam_beta_2": (FRACTION, [*NO_NUMBERS, None]),
    "adam_weight_decay": (NOT_NEGATIVE, NO_NUMBERS),
    "adam_lr_ratio": (NOT_NEGATIVE, [*NO_NUMBERS, None]),
    "exclude_layers": ([["("], ["kernel", "a**"]], ["kernel", 5, [5], [None], [b"kernel"]]),
    "exclude_embeddings": ([], NO_FLAGS),
    "muon_a": (NUMBERS, [*NO_NUMBERS, None]),
    "muon_b": (NUMBERS, [*NO_NUMBERS, None]),
    "muon_c": (NUMBERS, [*NO_NUMBERS, None]),
    "ns_steps": ([0, -1, 2.5, True, math.nan, 2**70], [*NO_INTEGERS, None]),
    "rms_rate": (POSITIVE, NO_NUMBERS),
    "nesterov": ([], NO_FLAGS),
    "matrix_product": ([], ["bfloat16", 5, True, [np.matmul]]),
    "centered": ([], NO_FLAGS),
    "amsgrad": ([], NO_FLAGS),
    "rowwise": ([], NO_FLAGS),
    "weight_decay": (NOT_NEGATIVE, NO_NUMBERS),
    "clipnorm": (POSITIVE, NO_NUMBERS),
    "clipvalue": (POSITIVE, NO_NUMBERS),
    "global_clipnorm": (POSITIVE, NO_NUMBERS),
    "use_ema": ([], NO_FLAGS),
    "ema_momentum": (FRACTION_OR_ONE, [*NO_NUMBERS, None]),
    "ema_overwrite_frequency": ([-1, 2.5, True, math.nan, 2**70], NO_INTEGERS),
    "loss_scale_factor": (POSITIVE, NO_NUMBERS),
    "gradient_accumulation_steps": ([0, 1, -3, 2.5, 2.0, True, math.inf, 2**70], NO_INTEGERS),
    "name": ([], [5, b"adam", True]),
    "skip_nonfinite": ([], NO_FLAGS),
    "row_updates": (["", "catch_up", "LAZY"], [None, False, 1, b"lazy", ["lazy"], {"lazy"}]),
    "slot_dtype": (
        ["", "float16", "float64", "FLOAT8"],
        [None, True, 8, b"float8", np.float32, np.dtype("float32")],
    ),
    "slot_dtypes": ([], [True, 8, "float8", ["w"], object()]),
    "seed": ([-1, 0.5, True, 2**63, math.nan], [*NO_INTEGERS, None]),
    "master": ([], NO_FLAGS),
    "initial_scale": ([*POSITIVE, 2.0**-127, 2.0**127 * 1.5, 2.0**128], [*NO_NUMBERS, None]),
    "dynamic_growth_steps": ([0, -1, 2.5, True, math.nan, 2**70], [*NO_INTEGERS, None]),
    "inner_optimizer": (
        [],
        [None, "adam", 5, fo.Adam, fo.serialize(fo.Adam()), fo.LossScaleOptimizer(fo.Adam())],
    ),
}
# Where an argument means something of its own.
REFUSED_OF = {
    ("AdamW", "weight_decay"): ([*NOT_NEGATIVE, None], NO_NUMBERS),
    ("Lion", "beta_1"): ([*NUMBERS, *NEGATIVE, 0.0, 1.5], [*NO_NUMBERS, None]),
    ("ScheduleFreeAdamW", "beta_1"): ([*FRACTION, 0.0], [*NO_NUMBERS, None]),
}
ARGUMENTS = [(cls, name) for cls in classes() for name in arguments_of(cls)]


@pytest.mark.parametrize(("cls", "name"), ARGUMENTS)
def test_argument_out_of_range_or_of_another_type(cls: Any, name: str) -> None:
    own = {"inner_optimizer": fo.Adam()} if cls is fo.LossScaleOptimizer else {}
    assert name in REFUSED, f"no refused values are listed for {name}"
    out_of_range, other_types = REFUSED_OF.get((cls.__name__, name), REFUSED[name])
    for value, error in [(v, ValueError) for v in out_of_range] + [
        (v, TypeError) for v in other_types
    ]:
        with pytest.raises(error) as caught:
            cls(**{**own, name: value})
        assert type(caught.value) is error, f"{value!r}"
        assert str(caught.value).startswith(f"{name}: expected "), f"{value!r}: {caught.value}"
        assert "found " in str(caught.value), f"{value!r}"


@pytest.mark.parametrize(
    "value",
    [-0.1, math.nan, math.inf, -math.inf, pytest.param(10**400, id="huge")],
)
def test_learning_rate_assigned_out_of_range(subject: Subject, value: Any) -> None:
    with subject.refuses(ValueError, "learning_rate: expected"):
        subject.optimizer.learning_rate = value
    assert subject.optimizer.learning_rate == 0.1


@pytest.mark.parametrize("value", ["0.1", None, True, 1j, np.array([0.1, 0.2])], ids=repr)
def test_learning_rate_assigned_of_another_type(subject: Subject, value: Any) -> None:
    with subject.refuses(TypeError, "learning_rate: expected a real number", repr(value)):
        subject.optimizer.learning_rate = value


CLIPS = ["clipnorm", "clipvalue", "global_clipnorm"]


@pytest.mark.parametrize("cls", [cls for cls in classes() if cls is not fo.LossScaleOptimizer])
@pytest.mark.parametrize("left_out", [None, *CLIPS])
def test_two_clip_arguments(cls: Any, left_out: str | None) -> None:
    clips = {name: 1.0 for name in CLIPS if name != left_out}
    with pytest.raises(ValueError, match="clipnorm, clipvalue, global_clipnorm: expected at most"):
        cls(**clips)


@pytest.mark.parametrize("cls", classes())
@pytest.mark.parametrize("names", [["momentums"], ["lr", "jit_compile"]], ids=str)
def test_unknown_arguments(cls: Any, names: list[str]) -> None:
    own = [fo.Adam()] if cls is fo.LossScaleOptimizer else []
    with pytest.raises(ValueError, match="unknown argument") as caught:
        cls(*own, **dict.fromkeys(names, 0.1))
    assert names[0] in str(caught.value)
