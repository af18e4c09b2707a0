"""The options `slot_dtype`, `slot_dtypes`, `seed` and `master`: what refuses them and why, and when they act."""

from __future__ import annotations

from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import NO_FLOAT8


def weights() -> dict[str, Any]:
    return {"kernel": np.ones((5, 3), np.float32), "bias": np.ones(4, np.float16)}


@pytest.mark.parametrize(("rule", "reason"), NO_FLOAT8.items())
def test_rules_without_slots_of_8_bits(rule: str, reason: str) -> None:
    """They say why, and what is assigned is refused in the same words."""
    cls = getattr(fo, rule)
    texts = []
    for call in (
        lambda: cls(slot_dtype="float8"),
        lambda: setattr(cls(), "slot_dtype", "float8"),
        lambda: cls(slot_dtypes={"kernel": "float8"}),
        lambda: setattr(cls(), "slot_dtypes", {"kernel": "float8"}),
    ):
        with pytest.raises(ValueError, match=f"^slot_dtypes?.*({reason})") as caught:
            call()
        texts.append(str(caught.value))
    assert "float8" in texts[0]
    assert (texts[0], texts[2]) == (texts[1], texts[3])
    cls(slot_dtype="bfloat16").build(weights())


def test_centered_rmsprop_has_no_slots_of_8_bits() -> None:
    with pytest.raises(ValueError, match=r"slot_dtype.*float8"):
        fo.RMSprop(slot_dtype="float8", centered=True)
    optimizer = fo.RMSprop(centered=True)
    with pytest.raises(ValueError, match="slot_dtype"):
        optimizer.slot_dtype = "float8"
    assert optimizer.slot_dtype == "float32"
    other = fo.RMSprop(slot_dtype="float8")
    with pytest.raises(ValueError, match="float8"):
        other.centered = True
    assert not other.centered
    fo.RMSprop(slot_dtype="bfloat16", centered=True)


@pytest.mark.parametrize("option", [{"slot_dtype": "bfloat16"}, {"slot_dtypes": {"w": "float8"}}])
def test_rows_that_catch_up_refuse_slots_of_fewer_bits(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"row_updates|slot_dtype"):
        fo.Adam(row_updates="caught_up", **option)
    optimizer = fo.Adam(row_updates="caught_up")
    ((name, value),) = option.items()
    default = getattr(optimizer, name)
    with pytest.raises(ValueError, match=r"row_updates|slot_dtype"):
        setattr(optimizer, name, value)
    assert getattr(optimizer, name) == default
    other = fo.Adam(**option)
    with pytest.raises(ValueError, match=r"row_updates|slot_dtype"):
        other.row_updates = "caught_up"
    assert other.row_updates == "lazy"
    fo.Adam(row_updates="caught_up", slot_dtypes={"w": "float32"})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("float8", "slot_dtypes: expected a dict by variable name, found 'float8'.*slot_dtype"),
        (["w"], "slot_dtypes: expected a dict by variable name"),
        ({1: "float8"}, "slot_dtypes: variable name: expected a string, found 1"),
        ({"w": 8}, r"slot_dtypes\['w'\]: expected 'float32', 'bfloat16' or 'float8', found 8"),
    ],
)
def test_dicts_of_other_types_are_refused(value: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        fo.Adam(slot_dtypes=value)


@pytest.mark.parametrize(
    ("value", "error"), [(-1, ValueError), (2**63, ValueError), (0.5, ValueError), ("1", TypeError)]
)
def test_a_seed_that_is_refused_changes_nothing(value: Any, error: type[Exception]) -> None:
    optimizer = fo.Adam(seed=3)
    with pytest.raises(error, match="seed: expected an integer"):
        optimizer.seed = value
    assert optimizer.seed == 3


def test_the_dict_cannot_be_changed_in_silence() -> None:
    given = {"kernel": "bfloat16"}
    optimizer = fo.Adam(slot_dtypes=given)  # type: ignore[arg-type]
    given["bias"] = "float8"
    assert optimizer.slot_dtypes == {"kernel": "bfloat16"}
    with pytest.raises(TypeError):
        optimizer.slot_dtypes["kernel"] = "float8"  # type: ignore[index]
    optimizer.get_config()["slot_dtypes"]["kernel"] = "float8"
    assert optimizer.slot_dtypes == {"kernel": "bfloat16"}


def stepped(optimizer: Any) -> list[bytes]:
    variables = weights()
    optimizer.build(variables)
    for step in range(3):
        optimizer.apply([np.full_like(w, 0.1 + step) for w in variables.values()])
    arrays = [*variables.values(), *optimizer.variables, *(a for _, a in optimizer._core.state())]
    return [array.tobytes() for array in arrays]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("slot_dtype", "float32"),
        ("slot_dtypes", {"kernel": "float8"}),
        ("seed", 2**63 - 1),
        ("master", False),
    ],
)
def test_assigned_before_build_acts(name: str, value: Any) -> None:
    base: dict[str, Any] = {"slot_dtype": "bfloat16"}
    optimizer = fo.Adam(**base)
    setattr(optimizer, name, value)
    assigned = stepped(optimizer)
    assert assigned == stepped(fo.Adam(**base | {name: value}))
    assert assigned != stepped(fo.Adam(**base))


def test_a_name_that_no_variable_has_is_refused() -> None:
    optimizer = fo.Adam(slot_dtypes={"kernle": "float8"})
    with pytest.raises(ValueError, match=r"slot_dtypes.*'?kernle"):
        optimizer.build(weights())
    assert not optimizer.built
    optimizer.slot_dtypes = {"kernel": "float8"}
    optimizer.build(weights())
    with pytest.raises(ValueError, match="slot_dtypes"):
        fo.Adam(slot_dtypes={"kernel": "float8"}).build(list(weights().values()))
