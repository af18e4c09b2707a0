"""Slots in fewer bits over a run: saved and loaded, other seeds, more variables, several optimizers, any number."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import Case
from fusedopt import _core
from low_bit import (
    STEPS,
    Run,
    assert_equal,
    gradients,
    initial_variables,
    named,
    spread_out,
    with_codes,
)
from machine import LEVELS
from reference import MultiReference, Reference, ScaledReference
from sample_arrays import same_bits

pytestmark = [
    pytest.mark.filterwarnings("ignore:No gradient for"),
    pytest.mark.usefixtures("restore_runtime"),
]


# A run in parts


RESUMED = [
    Case("AdamW", {"amsgrad": True}, "AdamW"),
    Case("SGD", {"momentum": 0.9, "use_ema": True}, "SGD"),
    Case("Adamax", {"gradient_accumulation_steps": 2}, "Adamax"),
]
FEW = ((70, 64), (5000,), (65,), ())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("case", "code"), with_codes(RESUMED, ["float32", "bfloat16", "float8"]))
def test_a_saved_run_goes_on(case: Case, code: str, dtype: str, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    run = Run(case, code, FEW, dtype, master=False)
    reference = run.reference()
    run.train(reference)
    begun, _ = run.optimizer()
    run.train(begun, steps=range(3))
    begun.save(tmp_path / "state.safetensors", variables=True)
    run.arguments["seed"] = 0  # that of the file is taken
    for optimizer, variables in (run.optimizer(), run.optimizer()):
        run.train(optimizer, steps=range(4))
        optimizer.load(tmp_path / "state.safetensors")
        run.train(optimizer, steps=range(3, STEPS))
        assert_equal(optimizer, variables, reference)


@pytest.mark.parametrize("code", ["bfloat16", "float8"])
def test_a_seed_acts_from_the_next_step_on(code: str) -> None:
    """It makes another run of it."""
    run = Run(Case("Adam", {}, "Adam"), code, FEW, "float16", master=False)
    reference, (optimizer, variables) = run.reference(), run.optimizer()
    reached = set()
    for seed in (0, 1, 2**63 - 1):
        optimizer.seed = reference.a["seed"] = seed
        run.train(reference, "float16", [0, 1])
        run.train(optimizer, "float16", [0, 1])
        assert_equal(optimizer, variables, reference)
        run.arguments["seed"] = seed
        other, its = run.optimizer()
        run.train(other, "float16", [0, 1])
        state = dict(other._core.state())
        reached.add(
            (its[0].tobytes(), state["momentum/v0"].tobytes(), state["velocity/v1"].tobytes())
        )
    assert len({weights for weights, _, _ in reached}) == 3
    assert len({codes for _, codes, _ in reached}) == 3
    assert len({codes for _, _, codes in reached}) == 3


@pytest.mark.parametrize("code", ["bfloat16", "float8"])
def test_more_variables_later(code: str) -> None:
    run = Run(Case("Yogi", {}, "Yogi"), code, FEW)
    del run.arguments["slot_dtypes"]
    run.arguments["slot_dtype"] = code
    initial = initial_variables(run.shapes, run.dtype)
    reference = Reference(run.rule, **run.arguments)
    variables = [w.copy() for w in initial]
    optimizer = fo.Yogi(**run.arguments)
    for count in (1, 2, 4):
        reference.build(initial[:count])
        optimizer.build(named(variables[:count]))
        for step in (0, 1):
            grads = gradients(run.shapes, run.dtype, step, 1.0)[:count]
            reference.apply([*grads])
            optimizer.apply([*grads])
        assert_equal(optimizer, variables[:count], reference)


def members_of(maker: Any, code: str) -> list[Any]:
    return [
        maker("Adam", slot_dtype=code, seed=3),
        maker("SGD", slot_dtype=code, momentum=0.9, seed=4, master=False),
    ]


@pytest.mark.parametrize("code", ["bfloat16", "float8"])
def test_several_optimizers_with_a_loss_scale(code: str) -> None:
    shapes = ((70, 64), (5000,), (4097,), (66, 64))
    owners = [0, 1, 1, 0]
    initial = initial_variables(shapes, np.dtype(np.float16))
    references = members_of(Reference, code)
    members = members_of(lambda rule, **arguments: getattr(fo, rule)(**arguments), code)
    for number, reference in enumerate(references):
        reference.build([w for w, owner in zip(initial, owners, strict=True) if owner == number])
    expected = ScaledReference(MultiReference(references, owners, 3.0), 256.0, 2)
    variables = named([w.copy() for w in initial])
    optimizer = fo.LossScaleOptimizer(
        fo.MultiOptimizer(fo.OptimizerMap(members[0], {"v[12]": members[1]}), global_clipnorm=3.0),
        initial_scale=256.0,
        dynamic_growth_steps=2,
    )
    optimizer.build(variables)
    for step in range(6):
        grads = [*gradients(shapes, np.dtype(np.float32), step, 256.0)]
        if step == 1:
            grads[1] = np.full((5000,), np.nan, np.float32)
        optimizer.apply([*grads])
        expected.apply([*grads])
        assert optimizer.dynamic_scale == expected.scale
    for number, (member, reference) in enumerate(zip(members, references, strict=True)):
        own = [w for w, owner in zip(variables.values(), owners, strict=True) if owner == number]
        for mine, its in zip(own, reference.stored(), strict=True):
            assert same_bits(mine, its)
        for mine, its in zip(member.variables, reference.variables(), strict=True):
            assert same_bits(mine, its)


# Numbers that are loaded


@pytest.mark.parametrize("code", ["bfloat16", "float8"])
@pytest.mark.parametrize("rule", ["Adam", "Adamax", "Adagrad", "Lion", "RMSprop"])
def test_loaded_numbers_become_the_nearest_codes(rule: str, code: str) -> None:
    run = Run(Case(rule, {}, rule), code, FEW)
    reference, (optimizer, variables) = run.reference(), run.optimizer()
    run.train(optimizer)
    run.train(reference)
    named_values = {name: np.array(x) for name, x in optimizer.named_variables().items()}
    for i, coded in enumerate(reference.coded):
        values = {}
        assert coded is not None
        for k, (slot, is_signed) in enumerate(coded.signs.items()):
            x = spread_out(coded.shape, [9, i, k]).astype(np.float32)
            values[slot] = named_values[f"{slot}/v{i}"] = x if is_signed else x * x
        reference.load_slots(i, values)
    optimizer.set_weights(list(named_values.values()))
    assert_equal(optimizer, variables, reference)
    # Numbers of codes of 8 bits are not always on the same steps again.
    optimizer.set_weights(optimizer.variables)
    for i, slots in enumerate(reference.slots):
        reference.load_slots(i, slots)
    assert_equal(optimizer, variables, reference)
    run.train(optimizer, steps=[0])
    run.train(reference, steps=[0])
    assert_equal(optimizer, variables, reference)


# Special numbers


def test_codes_of_any_number() -> None:
    """SGD's momentum takes any number as it is, and Adagrad's accumulator takes squares."""
    rng = np.random.default_rng(3)
    bits = rng.integers(0, 2**32, 64 * 200, dtype=np.uint64).astype(np.uint32)
    x = bits.view(np.float32)
    x[np.isfinite(x) & (np.abs(x) < np.finfo(np.float32).smallest_normal)] = 0
    # Blocks within few binades, from the smallest to the largest ones.
    near = np.repeat(rng.integers(1, 255, 200).astype(np.uint32), 64) << np.uint32(23)
    near = np.clip(near.astype(np.int64) - (rng.integers(0, 12, near.size) << 23), 1 << 23, None)
    y = (near.astype(np.uint32) | (bits & np.uint32(0x807FFFFF))).view(np.float32)
    y[::97] = 0
    z = y.copy()
    z[64 * 7 + 5 :: 64 * 9] = np.inf
    z[64 * 8 + 5 :: 64 * 10] = np.nan
    for g in (x, y, z):
        g = np.where(np.isnan(g), np.float32(np.nan), g)
        for code, level in product(("bfloat16", "float8"), LEVELS):
            _core.set_level(level)
            for seed in range(3):
                arguments: dict[str, Any] = {"slot_dtypes": {"v0": code}, "seed": seed}
                reference = Reference("SGD", learning_rate=1.0, momentum=0.5, **arguments)
                w = np.zeros(g.size, np.float32)
                reference.build([w], names=["v0"])
                optimizer = fo.SGD(learning_rate=1.0, momentum=0.5, **arguments)
                optimizer.build({"v0": w})
                with np.errstate(all="ignore"):
                    reference.apply([g])
                optimizer.apply([g])
                assert_equal(optimizer, [w], reference)


@pytest.mark.parametrize("bits", [0x7F4FFFFF, 0x7F5FFFFF, 0x7F6FFFFF, 0x7F7FFFFF])
def test_no_finite_number_becomes_infinite(bits: int) -> None:
    """Not even the largest ones, of which some are rounded up."""
    x = np.full(64 * 1000, bits, np.uint32).view(np.float32)
    optimizer = fo.SGD(learning_rate=1.0, momentum=0.5, slot_dtypes={"w": "float8"})
    optimizer.build({"w": np.zeros(x.size, np.float32)})
    optimizer.apply([x])
    found = optimizer.named_variables()["momentum/w"]
    assert np.isfinite(found).all()
    assert (found < -0.9 * x).all()
