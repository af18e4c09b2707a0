"""Exclusions from weight decay, by variable and by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from reference import Array
from subject import OPTIMIZERS, Subject
from training import wrapped_or_not


def decayed(optimizer: Any, build: Callable[[Any, dict[str, Array]], Any]) -> list[str]:
    """The names of the variables that decay."""
    variables = {
        name: np.ones(2) for name in ("dense/kernel", "dense/bias", "norm/gamma", "bias_like")
    }
    build(optimizer, variables)
    optimizer.apply([np.zeros(2)] * 4)
    return [name for name, w in variables.items() if w[0] != 1.0]


def by_name(optimizer: Any, variables: dict[str, Array]) -> None:
    optimizer.build(variables)


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ([], ["dense/kernel", "dense/bias", "norm/gamma", "bias_like"]),
        (["bias"], ["dense/kernel", "norm/gamma"]),
        (["bias$"], ["dense/kernel", "norm/gamma", "bias_like"]),
        (["^dense", "gamma"], ["bias_like"]),
        (("a", "e"), []),
        (("norm",), ["dense/kernel", "dense/bias", "bias_like"]),
    ],
    ids=str,
)
@wrapped_or_not
def test_exclusion_by_name(wrap: Callable[[Any], Any], patterns: Any, names: list[str]) -> None:
    optimizer = wrap(fo.AdamW())
    optimizer.exclude_from_weight_decay(var_names=iter(patterns))
    assert decayed(optimizer, by_name) == names


@wrapped_or_not
def test_exclusion_by_variable(wrap: Callable[[Any], Any]) -> None:
    def build(optimizer: Any, variables: dict[str, Array]) -> None:
        optimizer.exclude_from_weight_decay([variables["dense/bias"][:], variables["bias_like"]])
        optimizer.build(list(variables.values()))

    assert decayed(wrap(fo.AdamW()), build) == ["dense/kernel", "norm/gamma"]


def test_exclusion_by_both() -> None:
    def build(optimizer: Any, variables: dict[str, Array]) -> None:
        optimizer.exclude_from_weight_decay([variables["dense/bias"]], ["bias", "gamma"])
        optimizer.build(variables)

    assert decayed(fo.AdamW(), build) == ["dense/kernel"]


def test_second_exclusion_replaces_the_first() -> None:
    def build(optimizer: Any, variables: dict[str, Array]) -> None:
        optimizer.exclude_from_weight_decay([variables["dense/bias"]], ["dense"])
        optimizer.exclude_from_weight_decay(var_names=["gamma"])
        optimizer.build(variables)

    assert decayed(fo.AdamW(), build) == ["dense/kernel", "dense/bias", "bias_like"]


def test_empty_exclusion_replaces_the_first() -> None:
    optimizer = fo.AdamW()
    optimizer.exclude_from_weight_decay(var_names=["dense"])
    optimizer.exclude_from_weight_decay()
    assert len(decayed(optimizer, by_name)) == 4


# Refused


def test_exclusion_after_build(subject: Subject) -> None:
    with subject.refuses(ValueError, "before build", "built"):
        subject.optimizer.exclude_from_weight_decay([subject.variables[0]])
    with subject.refuses(ValueError, "before build", "built"):
        subject.optimizer.exclude_from_weight_decay(var_names=["bias"])


@pytest.mark.parametrize("kind", ["adamw", "loss_scale"])
@pytest.mark.parametrize(
    ("variable", "error", "parts"),
    [
        (np.ones((3, 5)), ValueError, ["given to build", "shape (3, 5)"]),
        (1.5, TypeError, ["variable 0", "found float"]),
        (None, TypeError, ["variable 0", "found NoneType"]),
        (np.float32(1), TypeError, ["variable 0", "shares its memory"]),
    ],
    ids=["unknown", "float", "none", "scalar"],
)
def test_exclusion_of_what_is_no_variable(
    kind: str, variable: Any, error: type[Exception], parts: list[str]
) -> None:
    w = np.ones(2)
    optimizer = OPTIMIZERS[kind]()
    optimizer.exclude_from_weight_decay([variable])
    with pytest.raises(error) as caught:
        optimizer.build([w])
    for part in ("exclude_from_weight_decay", *parts):
        assert part in str(caught.value)
    assert not optimizer.built
    optimizer.exclude_from_weight_decay([w])
    optimizer.build([w])
    assert w.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("names", "error", "found"),
    [
        ("bias", TypeError, "'bias'"),
        ([5], TypeError, "5"),
        ([b"bias"], TypeError, "b'bias'"),
        ([None], TypeError, "None"),
        (["bi(as"], ValueError, "'bi(as'"),
    ],
)
def test_bad_names_of_an_exclusion(names: Any, error: type[Exception], found: str) -> None:
    optimizer = fo.AdamW()
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    with pytest.raises(error, match="var_names: expected") as caught:
        optimizer.exclude_from_weight_decay(var_names=names)
    assert f"found {found}" in str(caught.value)
    w = {"kernel": np.ones(1), "bias": np.ones(1)}
    optimizer.build(w)
    optimizer.apply([np.zeros(1)] * 2)
    assert w["bias"] == 1.0, "the earlier exclusion holds"
    assert w["kernel"] < 1.0


def test_pattern_that_matches_nothing_warns() -> None:
    optimizer = fo.AdamW()
    optimizer.exclude_from_weight_decay(var_names=["bias", "norm$"])
    with pytest.warns(UserWarning, match="no variable's name matches") as caught:
        optimizer.build({"bias": np.ones(1), "normal": np.ones(1)})
    assert len(caught) == 1
    assert "'norm$'" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert optimizer.built


@pytest.mark.filterwarnings("error")
def test_pattern_warning_raised_as_an_error_stops_the_build() -> None:
    optimizer = fo.AdamW()
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    with pytest.raises(UserWarning, match="'bias'"):
        optimizer.build([np.ones(1)])
    assert not optimizer.built
