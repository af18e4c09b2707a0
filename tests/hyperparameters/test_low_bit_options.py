"""The options `slot_dtype`, `slot_dtypes`, `seed` and `master`: their values, slips, and where they are told."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import RULES

OPTIONS: dict[str, Any] = {"slot_dtype": "float32", "slot_dtypes": None, "seed": 0, "master": True}
OTHERS: dict[str, Any] = {
    "slot_dtype": "bfloat16",
    "slot_dtypes": {"kernel": "bfloat16", "bias": "float32"},
    "seed": 2**63 - 1,
    "master": False,
}
NO_FLOAT8 = {
    "Adadelta": "ratio",
    "Adafactor": "row and column",
    "Ftrl": "anew from its slots",
    "ScheduleFreeAdamW": "holds weights",
}
FLOAT8 = sorted(set(RULES) - NO_FLOAT8.keys())


def weights() -> dict[str, Any]:
    return {"kernel": np.ones((5, 3), np.float32), "bias": np.ones(4, np.float16)}


@pytest.mark.parametrize("rule", RULES)
def test_defaults(rule: str) -> None:
    cls = getattr(fo, rule)
    optimizer = cls()
    parameters = inspect.signature(cls).parameters
    assert list(parameters)[-5:] == ["row_updates", *OPTIONS] or "rowwise" in parameters
    for name, default in OPTIONS.items():
        assert getattr(optimizer, name) == default == parameters[name].default
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert name not in optimizer.get_config()
        assert f"{name}=" not in repr(optimizer)
        assert f"\n{name} : " in (inspect.getdoc(cls) or "")
    cls(**OPTIONS)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", OPTIONS)
def test_others(rule: str, name: str) -> None:
    cls, value = getattr(fo, rule), OTHERS[name]
    optimizer = cls(**{name: value})
    assert getattr(optimizer, name) == value
    assert f"{name}={value!r}" in repr(optimizer)
    config = json.loads(json.dumps(optimizer.get_config()))
    assert config[name] == value
    for made in (
        cls.from_config(config),
        fo.deserialize(fo.serialize(optimizer)),
        copy.copy(optimizer),
        copy.deepcopy(optimizer),
        pickle.loads(pickle.dumps(optimizer)),
    ):
        assert getattr(made, name) == value
        assert made.get_config() == optimizer.get_config()


@pytest.mark.parametrize("rule", FLOAT8)
def test_rules_with_slots_of_8_bits(rule: str) -> None:
    optimizer = getattr(fo, rule)(slot_dtype="float8")
    optimizer.build(weights())
    assert optimizer.slot_dtype == "float8"


@pytest.mark.parametrize("rule", sorted(NO_FLOAT8))
def test_rules_without_slots_of_8_bits(rule: str) -> None:
    """They say why, and what is assigned is refused in the same words."""
    cls = getattr(fo, rule)
    texts = []
    for call in (
        lambda: cls(slot_dtype="float8"),
        lambda: setattr(cls(), "slot_dtype", "float8"),
        lambda: cls(slot_dtypes={"kernel": "float8"}),
        lambda: setattr(cls(), "slot_dtypes", {"kernel": "float8"}),
    ):
        with pytest.raises(ValueError, match=f"^slot_dtypes?.*({NO_FLOAT8[rule]})") as caught:
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
def test_rows_that_catch_up_refuse_it(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"row_updates|slot_dtype"):
        fo.Adam(row_updates="caught_up", **option)
    optimizer = fo.Adam(row_updates="caught_up")
    ((name, value),) = option.items()
    with pytest.raises(ValueError, match=r"row_updates|slot_dtype"):
        setattr(optimizer, name, value)
    assert getattr(optimizer, name) == OPTIONS[name]
    other = fo.Adam(**option)
    with pytest.raises(ValueError, match=r"row_updates|slot_dtype"):
        other.row_updates = "caught_up"
    assert other.row_updates == "lazy"
    fo.Adam(row_updates="caught_up", slot_dtypes={"w": "float32"})


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("bf16", "bfloat16"),
        ("BFLOAT16", "bfloat16"),
        ("bfloat-16", "bfloat16"),
        ("16-bit", "bfloat16"),
        ("fp8", "float8"),
        ("int8", "float8"),
        ("8bit", "float8"),
        ("float8_e4m3fn", "float8"),
        ("Float8", "float8"),
        ("fp32", "float32"),
        ("Float32", "float32"),
        ("float 32", "float32"),
    ],
)
def test_slips(value: Any, meant: str) -> None:
    expected = (
        f"expected 'float32', 'bfloat16' or 'float8', found {value!r}; did you mean {meant!r}?"
    )
    optimizer = fo.Adam()
    for call in (
        lambda: fo.Adam(slot_dtype=value),
        lambda: fo.Adam.from_config({"slot_dtype": value}),
        lambda: setattr(optimizer, "slot_dtype", value),
    ):
        with pytest.raises(ValueError, match="slot_dtype") as caught:
            call()
        assert str(caught.value) == f"slot_dtype: {expected}"
    with pytest.raises(ValueError, match="slot_dtypes") as caught:
        fo.Adam(slot_dtypes={"w": value})
    assert str(caught.value) == f"slot_dtypes['w']: {expected}"
    assert optimizer.slot_dtype == "float32"


@pytest.mark.parametrize("value", [None, 8, True, np.float32, np.dtype("float32")], ids=repr)
def test_other_types(value: Any) -> None:
    with pytest.raises(TypeError, match="slot_dtype: expected 'float32', 'bfloat16' or 'float8'"):
        fo.Adam(slot_dtype=value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("float8", "slot_dtypes: expected a dict by variable name, found 'float8'.*slot_dtype"),
        (["w"], "slot_dtypes: expected a dict by variable name"),
        ({1: "float8"}, "slot_dtypes: variable name: expected a string, found 1"),
        ({"w": 8}, r"slot_dtypes\['w'\]: expected 'float32', 'bfloat16' or 'float8', found 8"),
    ],
)
def test_other_types_for_single_variables(value: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        fo.Adam(slot_dtypes=value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("optim_bits", "slot_dtype"),
        ("state_dtype", "slot_dtype"),
        ("slots_dtype", "slot_dtype"),
        ("stochastic_rounding", "slot_dtype and master"),
        ("bf16_stochastic_round", "master"),
        ("master_weights", "master"),
        ("min_8bit_size", "slot_dtypes"),
        ("random_seed", "seed"),
    ],
)
def test_slips_of_the_name(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}: did you mean {meant}\?"):
        fo.Adam(**{name: 8})
    with pytest.raises(AttributeError, match=rf"did you mean {meant}\?"):
        setattr(fo.Adam(), name, 8)


@pytest.mark.parametrize(
    ("value", "error"), [(-1, ValueError), (2**63, ValueError), (0.5, ValueError), ("1", TypeError)]
)
def test_seeds_that_are_none(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="seed: expected an integer"):
        fo.Adam(seed=value)
    optimizer = fo.Adam(seed=3)
    with pytest.raises(error, match="seed: expected an integer"):
        optimizer.seed = value
    assert optimizer.seed == 3


def test_dict_of_single_variables_cannot_be_changed_in_silence() -> None:
    given = {"kernel": "bfloat16"}
    optimizer = fo.Adam(slot_dtypes=given)  # type: ignore[arg-type]
    given["bias"] = "float8"
    assert optimizer.slot_dtypes == {"kernel": "bfloat16"}
    with pytest.raises(TypeError):
        optimizer.slot_dtypes["kernel"] = "float8"  # type: ignore[index]
    optimizer.get_config()["slot_dtypes"]["kernel"] = "float8"
    assert optimizer.slot_dtypes == {"kernel": "bfloat16"}


@pytest.mark.parametrize("name", ["slot_dtype", "slot_dtypes", "master"])
def test_assigned_after_build(name: str) -> None:
    optimizer = fo.Adam()
    optimizer.build(weights())
    setattr(optimizer, name, OPTIONS[name])
    with pytest.raises(AttributeError, match=f"{name}: expected before build"):
        setattr(optimizer, name, OTHERS[name])
    assert getattr(optimizer, name) == OPTIONS[name]
    optimizer.apply({key: np.ones_like(w) for key, w in weights().items()})


def stepped(optimizer: Any, assigned: dict[str, Any] | None = None) -> list[bytes]:
    variables = weights()
    for name, value in (assigned or {}).items():
        setattr(optimizer, name, value)
    optimizer.build(variables)
    for step in range(3):
        optimizer.apply([np.full_like(w, 0.1 + step) for w in variables.values()])
    arrays = [*variables.values(), *optimizer.variables, *(a for _, a in optimizer._core.state())]
    return [array.tobytes() for array in arrays]


@pytest.mark.parametrize("name", OPTIONS)
def test_assigned_before_build_acts(name: str) -> None:
    base = {} if name == "slot_dtype" else {"slot_dtype": "bfloat16"}
    others = OTHERS | {"slot_dtypes": {"kernel": "float8"}}
    assigned = stepped(fo.Adam(**base), {name: others[name]})
    assert assigned == stepped(fo.Adam(**base, **{name: others[name]}))
    assert assigned != stepped(fo.Adam(**base))


def test_seed_acts_when_it_is_assigned() -> None:
    def run(first: int, then: int) -> list[bytes]:
        w = np.ones(100, np.float32)
        optimizer = fo.Adam(slot_dtype="bfloat16", seed=first)
        optimizer.build([w])
        optimizer.apply([np.linspace(0.1, 0.7, 100)])
        optimizer.seed = then
        assert optimizer.seed == then
        optimizer.apply([np.linspace(0.3, 0.1, 100)])
        return [w.tobytes(), *(array.tobytes() for array in optimizer.variables)]

    assert run(1, 1) == run(1, 1)
    assert run(1, 1) != run(1, 2)
    assert run(1, 2) != run(2, 2)


def test_name_that_no_variable_has() -> None:
    optimizer = fo.Adam(slot_dtypes={"kernle": "float8"})
    with pytest.raises(ValueError, match=r"slot_dtypes.*'?kernle"):
        optimizer.build(weights())
    assert not optimizer.built
    optimizer.slot_dtypes = {"kernel": "float8"}
    optimizer.build(weights())
    with pytest.raises(ValueError, match="slot_dtypes"):
        fo.Adam(slot_dtypes={"kernel": "float8"}).build(list(weights().values()))


def test_on_a_wrapper_they_are_the_inner_optimizers() -> None:
    for name, value in OTHERS.items():
        with pytest.raises(ValueError, match=f"{name}: expected on the inner optimizer"):
            fo.LossScaleOptimizer(fo.Adam(), **{name: value})
        with pytest.raises(ValueError, match="unknown argument"):
            fo.MultiOptimizer(fo.OptimizerMap(fo.Adam()), **{name: value})
        made: Any = fo.deserialize(fo.serialize(fo.LossScaleOptimizer(fo.Adam(**{name: value}))))
        assert getattr(made.inner_optimizer, name) == value


def test_copies_from_before_the_options() -> None:
    state = fo.Adam().__getstate__()
    for name in OPTIONS:
        del state["attributes"][name]
    old = fo.Adam.__new__(fo.Adam)
    old.__setstate__(state)
    assert {name: getattr(old, name) for name in OPTIONS} == OPTIONS
    old.build([np.ones(2)])
    old.apply([np.ones(2)])
