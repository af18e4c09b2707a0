"""The order, names and dtypes of `variables`."""

from __future__ import annotations

import re
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from sample_arrays import each_dtype

ORDER: list[tuple[str, dict[str, Any], list[str]]] = [
    ("SGD", {}, []),
    ("SGD", {"momentum": 0.9}, ["momentum/a", "momentum/b"]),
    ("RMSprop", {}, ["velocity/a", "velocity/b"]),
    ("RMSprop", {"momentum": 0.9}, ["velocity/a", "velocity/b", "momentum/a", "momentum/b"]),
    (
        "RMSprop",
        {"centered": True},
        ["velocity/a", "velocity/b", "average_gradient/a", "average_gradient/b"],
    ),
    (
        "RMSprop",
        {"momentum": 0.9, "centered": True},
        [f"{slot}/{w}" for slot in ("velocity", "momentum", "average_gradient") for w in "ab"],
    ),
    ("Adam", {}, ["momentum/a", "velocity/a", "momentum/b", "velocity/b"]),
    (
        "AdamW",
        {"amsgrad": True},
        [
            *("momentum/a", "velocity/a", "momentum/b", "velocity/b"),
            *("velocity_hat/a", "velocity_hat/b"),
        ],
    ),
]
COMMON: list[tuple[dict[str, Any], list[str]]] = [
    ({}, []),
    ({"use_ema": True}, ["average/a", "average/b"]),
    (
        {"gradient_accumulation_steps": 2},
        ["gradient_accumulator/a", "gradient_accumulator/b"],
    ),
    (
        {"use_ema": True, "gradient_accumulation_steps": 2},
        ["average/a", "average/b", "gradient_accumulator/a", "gradient_accumulator/b"],
    ),
]
OWN = [f"loss_scale/{name}" for name in ("iteration", "learning_rate")]
OWN += [f"loss_scale/{name}" for name in ("step_counter", "dynamic_scale")]


def names_of(optimizer: Any) -> list[str]:
    """The names of all variables, as the messages of `set_weights` give them."""
    names = []
    for position in range(len(optimizer.variables)):
        weights = [np.array(variable) for variable in optimizer.variables]
        weights[position] = weights[position][None]
        with pytest.raises(ValueError, match=f"array {position} ") as caught:
            optimizer.set_weights(weights)
        found = re.search(r"\((\S+)\)", str(caught.value))
        assert found is not None
        names.append(found[1])
    return names


@pytest.mark.parametrize("rate", [0.1, lambda: 0.1], ids=["number", "callable"])
@pytest.mark.parametrize("loss_scale", [False, True])
@pytest.mark.parametrize(("options", "common"), COMMON, ids=str)
@pytest.mark.parametrize(("rule", "arguments", "slots"), ORDER, ids=str)
def test_order_of_variables(
    rule: str,
    arguments: dict[str, Any],
    slots: list[str],
    options: dict[str, Any],
    common: list[str],
    loss_scale: bool,
    rate: Any,
) -> None:
    optimizer: Any = getattr(fo, rule)(learning_rate=rate, **arguments, **options)
    if loss_scale:
        optimizer = fo.LossScaleOptimizer(optimizer)
    a, b = np.zeros((2, 3), np.float32), np.zeros(4)
    optimizer.build({"a": a, "b": b})
    first = ["iteration"] if callable(rate) else ["iteration", "learning_rate"]
    expected = [*(OWN if loss_scale else []), *first, *common, *slots]
    assert names_of(optimizer) == expected
    for name, variable in zip(expected, optimizer.variables, strict=True):
        if name.endswith(("/a", "/b")):
            like = a if name.endswith("/a") else b
            assert (variable.shape, variable.dtype) == (like.shape, like.dtype)
        else:
            assert variable.shape == ()


@each_dtype
def test_dtype_of_the_state(dtype: np.dtype[Any]) -> None:
    optimizer = fo.Adam(amsgrad=True, use_ema=True, gradient_accumulation_steps=2)
    optimizer.build([np.zeros(3, dtype)])
    state = np.float64 if dtype == np.float64 else np.float32
    assert {v.dtype for v in optimizer.variables[2:]} == {np.dtype(state)}
    assert [v.dtype for v in optimizer.variables[:2]] == [np.dtype(np.int64), np.dtype(np.float64)]
    assert not any(variable.any() for variable in optimizer.variables[2:])
