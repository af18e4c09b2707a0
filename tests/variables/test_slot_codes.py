"""Which slots are kept in fewer bits, what takes which memory, and building again."""

from __future__ import annotations

from typing import Any

import fusedopt as fo
import ml_dtypes
import numpy as np
import pytest
from cases import NO_FLOAT8, RULES

BLOCK = 64
LEAST = 4096
SHAPES: dict[str, tuple[tuple[int, ...], Any]] = {
    "large": ((64, 64), np.float32),
    "small": ((LEAST - 1,), np.float32),
    "half": ((65, 64), np.float16),
    "brain": ((2 * LEAST,), ml_dtypes.bfloat16),
    "double": ((65, 64), np.float64),
    "empty": ((0, 3), np.float32),
    "scalar": ((), np.float32),
}


def weights(names: Any = SHAPES) -> dict[str, Any]:
    rng = np.random.default_rng(2)
    return {
        name: np.array(rng.normal(size=SHAPES[name][0])).astype(SHAPES[name][1]) for name in names
    }


def built(rule: str, variables: dict[str, Any], **arguments: Any) -> Any:
    if rule in ("SGD", "RMSprop"):
        arguments.setdefault("momentum", 0.9)
    optimizer = getattr(fo, rule)(0.01, **arguments)
    optimizer.build(variables)
    return optimizer


def step(optimizer: Any, variables: dict[str, Any], count: int = 1) -> None:
    for number in range(count):
        rng = np.random.default_rng(number)
        optimizer.apply([np.array(rng.normal(size=w.shape)) for w in variables.values()])


def forms(optimizer: Any) -> dict[str, str]:
    """In what each variable's slots are, all of them alike, by what `save` would write."""
    found: dict[str, str] = {}
    for name, array in optimizer._core.state():
        kind, _, variable = name.partition("/")
        if variable and kind != "master" and not kind.endswith("_scale"):
            is_half = array.dtype.metadata is not None
            form = "bfloat16" if is_half else str(array.dtype).replace("uint8", "float8")
            assert found.setdefault(variable, form) == form
    return found


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in NO_FLOAT8])
def test_slots_of_8_bits(rule: str) -> None:
    assert forms(built(rule, weights(), slot_dtype="float8")) == {
        "large": "float8",
        "small": "float32",
        "half": "float8",
        "brain": "float8",
        "double": "float64",
        "empty": "float32",
        "scalar": "float32",
    }


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "Adafactor"])
def test_slots_of_16_bits(rule: str) -> None:
    found = forms(built(rule, weights(), slot_dtype="bfloat16"))
    assert found == {name: "float64" if name == "double" else "bfloat16" for name in SHAPES}


def test_single_variables_have_their_way() -> None:
    named: Any = {"large": "float32", "small": "float8", "scalar": "float8", "half": "bfloat16"}
    named |= {"double": "float8", "empty": "float8"}
    optimizer = built("Adam", variables := weights(), slot_dtype="float8", slot_dtypes=named)
    assert forms(optimizer) == {
        "large": "float32",
        "small": "float8",
        "half": "bfloat16",
        "brain": "float8",
        "double": "float64",
        "empty": "float8",
        "scalar": "float8",
    }
    step(optimizer, variables, 3)


def bytes_of(optimizer: Any, kinds: tuple[str, ...]) -> int:
    return sum(
        array.nbytes
        for name, array in optimizer._core.state()
        if name.partition("/")[0].removesuffix("_scale") in kinds
    )


def test_memory_is_what_the_document_says() -> None:
    size = 64 * 1024
    kinds = ("momentum", "velocity", "velocity_hat")
    for amsgrad, slots in ((False, 2), (True, 3)):
        found = {
            dtype: bytes_of(
                built("Adam", {"w": np.zeros(size, np.float32)}, amsgrad=amsgrad, slot_dtype=dtype),
                kinds,
            )
            / size
            for dtype in ("float32", "bfloat16", "float8")
        }
        assert found == {
            "float32": 4 * slots,
            "bfloat16": 2 * slots,
            "float8": (1 + 2 / BLOCK) * slots,
        }
    half = {"w": np.zeros(size, np.float16)}
    assert bytes_of(built("SGD", half), ("master",)) == 4 * size
    assert bytes_of(built("SGD", half, master=False), ("master",)) == 0


def test_averages_accumulators_and_master_copies_stay_whole() -> None:
    optimizer = built(
        "Adam", weights(), slot_dtype="float8", use_ema=True, gradient_accumulation_steps=2
    )
    for name, array in optimizer._core.state():
        if name.partition("/")[0] in ("average", "gradient_accumulator", "master"):
            assert array.dtype == (np.float64 if name.endswith("double") else np.float32), name


@pytest.mark.parametrize("dtype", ["bfloat16", "float8"])
def test_one_number_per_row_stays_whole(dtype: Any) -> None:
    variables = weights(["large", "half"])
    optimizer = built("Adam", variables, slot_dtype=dtype, rowwise=True)
    state = dict(optimizer._core.state())
    assert state["velocity/large"].dtype == np.float32
    assert state["velocity/large"].shape == (64,)
    assert state["momentum/large"].dtype.itemsize == (2 if dtype == "bfloat16" else 1)
    step(optimizer, variables, 3)


def test_rows_of_blocks_that_are_not_whole_are_refused() -> None:
    optimizer = fo.Adam(slot_dtype="float8", rowwise=True)
    variables = {"w": np.ones((100, 50), np.float32)}
    with pytest.raises(ValueError, match=r"'w'.*64.*50.*bfloat16"):
        optimizer.build(variables)
    assert not optimizer.built
    optimizer.slot_dtypes = {"w": "bfloat16"}
    optimizer.build(variables)
    step(optimizer, variables)


def test_vectors_of_adafactor() -> None:
    variables = {"vector": np.ones(70, np.float32), "matrix": np.ones((7, 70), np.float32)}
    optimizer = built("Adafactor", variables, slot_dtype="bfloat16")
    state = dict(optimizer._core.state())
    assert state["velocity/vector"].dtype.metadata == {"fusedopt": "bfloat16"}
    assert state["r/matrix"].dtype == state["c/matrix"].dtype == np.float32
    step(optimizer, variables, 3)
    assert np.isfinite(optimizer.named_variables()["velocity/matrix"]).all()


# 16 bits without a copy


def test_without_a_master_copy_what_is_written_into_a_variable_counts() -> None:
    w = np.ones(100, np.float16)
    optimizer = fo.SGD(1.0, master=False)
    optimizer.build([w])
    optimizer.apply([np.zeros(100)])
    assert (w == 1).all()
    w[...] = 8
    optimizer.apply([np.full(100, 2.0)])
    assert (w == 6).all()


# Building again


@pytest.mark.parametrize("dtype", ["bfloat16", "float8"])
def test_building_again_keeps_codes(dtype: Any) -> None:
    variables = weights(["large", "half"])
    optimizer = built("Adam", variables, slot_dtype=dtype)
    step(optimizer, variables, 3)
    before = {name: array.tobytes() for name, array in optimizer._core.state()}
    variables = {"brain": weights()["brain"], **variables}
    optimizer.build(variables)
    after = {name: array.tobytes() for name, array in optimizer._core.state()}
    assert {name: after[name] for name in before} == before
    found = optimizer.named_variables()["momentum/brain"]
    assert found.shape == (2 * LEAST,)
    assert not found.any()
    step(optimizer, variables, 3)
    assert optimizer.named_variables()["momentum/brain"].any()


def test_building_again_asks_for_all_names() -> None:
    variables = weights(["large"])
    optimizer = built("Adam", variables, slot_dtypes={"large": "float8"})
    optimizer.build({**variables, "half": weights()["half"]})
    assert forms(optimizer) == {"large": "float8", "half": "float32"}


@pytest.mark.parametrize(
    ("rule", "dtype", "arguments"),
    [
        ("Adam", "bfloat16", {"use_ema": True}),
        ("Adam", "float8", {"use_ema": True}),
        ("ScheduleFreeAdamW", "bfloat16", {}),
    ],
)
def test_an_evaluation_leaves_codes_and_variables(
    rule: str, dtype: str, arguments: dict[str, Any]
) -> None:
    variables = weights(["large", "half"])
    optimizer = built(rule, variables, slot_dtype=dtype, master=False, **arguments)
    step(optimizer, variables, 3)
    before = [w.tobytes() for w in variables.values()]
    state = [array.tobytes() for _, array in optimizer._core.state()]
    with optimizer.evaluation_weights() as lent:
        assert [w.tobytes() for w in lent.values()] != before
        assert all(np.isfinite(w.astype(np.float32)).all() for w in lent.values())
    assert [w.tobytes() for w in variables.values()] == before
    assert [array.tobytes() for _, array in optimizer._core.state()] == state
