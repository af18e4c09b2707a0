"""Slots in 16 and 8 bits, and variables without a master copy, against the NumPy reference: equal to the last bit."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import OPTIONS, VARIANTS, Case
from fusedopt import _core
from machine import LEVELS
from reference import NO_ROWS, Array, MultiReference, Reference, ScaledReference
from sample_arrays import NAMED_DTYPES, same_bits
from selection import first

pytestmark = [
    pytest.mark.filterwarnings("ignore:No gradient for"),
    pytest.mark.usefixtures("restore_runtime"),
]

NO_FLOAT8 = {"Adadelta", "Adafactor", "Ftrl", "ScheduleFreeAdamW"}
# Around a block, a tile and what is too small for float8; several dimensions; nothing.
SHAPES = [
    *((0,), (1,), (63,), (64,), (65,), (1023,), (1025,), (4095,), (4096,), (5000,)),
    *((), (7, 5, 3), (20, 31), (70, 64), (0, 4)),
]
# A rule that goes by rows has codes of 8 bits only if rows are whole blocks.
WHOLE_ROWS = [(0, 64), (5, 64), (3, 128), (2, 1088), (3, 2, 64), (40,), ()]
STEPS = 5


def has_float8(case: Case) -> bool:
    return case.rule not in NO_FLOAT8 and not case.arguments.get("centered", False)


def with_codes(cases: Sequence[Case], codes: Sequence[str], rest: Sequence[Case] = ()) -> list[Any]:
    """Return every case with every code; those of `rest` are left to maintainers."""
    return [
        pytest.param(case, code, id=f"{case}-{code}", marks=marks)
        for some, marks in ((cases, ()), (rest, pytest.mark.maintainer))
        for case, code in product(some, codes)
        if code != "float8" or has_float8(case)
    ]


def of_option(option: str) -> list[Case]:
    return [
        case._replace(
            arguments={**case.arguments, **OPTIONS[option]},
            label=f"{case.label.rpartition('-')[0]}-{option}",
        )
        for case in VARIANTS
    ]


def shapes_for(case: Case) -> list[tuple[int, ...]]:
    return WHOLE_ROWS if case.arguments.get("rowwise") else SHAPES


def named(arrays: Sequence[Any]) -> dict[str, Any]:
    return {f"v{i}": array for i, array in enumerate(arrays)}


def spread_out(shape: tuple[int, ...], seed: Sequence[int], factor: float = 1.0) -> Array:
    """Numbers of which some blocks are alike, some far apart, and some zero."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * factor
    flat = x.reshape(-1)
    blocks = -(-flat.size // 64)
    flat *= 10.0 ** np.repeat(rng.integers(-2, 2, blocks), 64)[: flat.size]
    wide = np.repeat(rng.random(blocks) < 0.4, 64)[: flat.size]
    flat *= np.where(wide, 10.0 ** rng.uniform(-4, 1, flat.size), 1.0)
    flat *= rng.random(flat.size) < np.repeat(rng.choice([1, 1, 0.3, 0], blocks), 64)[: flat.size]
    return x


@functools.cache
def initial_variables(shapes: tuple[tuple[int, ...], ...], dtype: np.dtype[Any]) -> list[Array]:
    rng = np.random.default_rng(0)
    return [np.array(rng.standard_normal(shape), dtype) for shape in shapes]


@functools.cache
def gradients(
    shapes: tuple[tuple[int, ...], ...], dtype: np.dtype[Any], step: int, factor: float
) -> list[Any]:
    most = 6e4 if dtype == np.float16 else np.inf
    grads: list[Any] = [
        np.array(np.clip(spread_out(shape, [step, i], factor), -most, most), dtype)
        for i, shape in enumerate(shapes)
    ]
    if step in (2, 3):
        grads[step % len(shapes)] = None
    return grads


def assert_equal(optimizer: Any, variables: Sequence[Array], reference: Reference) -> None:
    """Compare variables, what is listed of the state, and the codes."""
    for i, (mine, its) in enumerate(zip(variables, reference.stored(), strict=True)):
        assert same_bits(mine, its), f"variable {i}"
    for (name, mine), its in zip(
        optimizer.named_variables().items(), reference.variables(), strict=True
    ):
        assert same_bits(mine, its), name
    state = dict(optimizer._core.state())
    for name, its in reference.codes(list(named(variables))).items():
        assert same_bits(np.asarray(state[name]), its), name
    assert optimizer.global_norm == reference.global_norm


class Run:
    """One configuration on one set of variables, trained by the reference and by the library."""

    def __init__(
        self,
        case: Case,
        code: str,
        shapes: Sequence[tuple[int, ...]],
        dtype: str = "float32",
        **arguments: Any,
    ) -> None:
        self.rule, self.shapes, self.dtype = case.rule, tuple(shapes), NAMED_DTYPES[dtype]
        every = dict.fromkeys(named(self.shapes), code)
        self.arguments = {**case.arguments, "slot_dtypes": every, "seed": 7, **arguments}
        self.factor = self.arguments.get("loss_scale_factor", 1.0)

    def reference(self) -> Reference:
        reference = Reference(self.rule, **self.arguments)
        initial = initial_variables(self.shapes, self.dtype)
        reference.build(initial, excluded=(2,), names=list(named(initial)))
        return reference

    def optimizer(self) -> tuple[Any, list[Array]]:
        variables = [w.copy() for w in initial_variables(self.shapes, self.dtype)]
        optimizer = getattr(fo, self.rule)(**self.arguments)
        optimizer.exclude_from_weight_decay(variables[2:3])
        optimizer.build(named(variables))
        return optimizer, variables

    def train(
        self, optimizer: Any, dtype: str = "float32", steps: Sequence[int] = range(STEPS)
    ) -> None:
        for step in steps:
            optimizer.apply([*gradients(self.shapes, NAMED_DTYPES[dtype], step, self.factor)])

    def check(self, dtype: str = "float32", levels: Sequence[str] = LEVELS) -> None:
        reference = self.reference()
        self.train(reference, dtype)
        for level in levels:
            _core.set_level(level)
            optimizer, variables = self.optimizer()
            self.train(optimizer, dtype)
            assert_equal(optimizer, variables, reference)


@pytest.mark.parametrize(
    ("case", "code"),
    with_codes(
        of_option("accumulation_everything"),
        ["bfloat16", "float8"],
        rest=[*VARIANTS, *of_option("everything")],
    ),
)
def test_every_rule(case: Case, code: str) -> None:
    Run(case, code, shapes_for(case)).check()


def pairs_of_dtypes() -> list[Any]:
    parameters = []
    for pair in product(NAMED_DTYPES, NAMED_DTYPES):
        tells = pair in {("bfloat16", "float32"), ("float16", "float16")}
        marks = () if tells else pytest.mark.maintainer
        parameters.append(pytest.param(*pair, marks=marks))
    return parameters


@pytest.mark.parametrize(("variable_dtype", "gradient_dtype"), pairs_of_dtypes())
@pytest.mark.parametrize(
    ("case", "code"), with_codes(of_option("everything"), ["bfloat16", "float8"])
)
def test_every_pair_of_dtypes(
    case: Case, code: str, variable_dtype: str, gradient_dtype: str
) -> None:
    Run(case, code, shapes_for(case), variable_dtype).check(gradient_dtype, LEVELS[-1:])


@pytest.mark.parametrize("dtype", first(1, ["float16", "bfloat16"]))
@pytest.mark.parametrize(
    ("case", "code"),
    with_codes(
        of_option("accumulation_everything"),
        ["float32", "bfloat16", "float8"],
        rest=[*VARIANTS, *of_option("ema_overwrite")],
    ),
)
def test_without_a_master_copy(case: Case, code: str, dtype: str) -> None:
    Run(case, code, shapes_for(case), dtype, master=False).check(dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rule", ["Adam", "Lamb", "Muon", "SGD"])
def test_small_variables_keep_their_slots(rule: str, dtype: str) -> None:
    case = Case(rule, {"momentum": 0.9} if rule == "SGD" else {}, rule)
    names = list(named(SHAPES))
    own = {names[SHAPES.index((70, 64))]: "float32", names[SHAPES.index((1025,))]: "bfloat16"}
    run = Run(case, "", SHAPES, dtype, slot_dtype="float8", slot_dtypes=own)
    run.check()
    coded = [name for name, coded in zip(names, run.reference().coded, strict=True) if coded]
    found = [
        name for name in names if f"momentum_scale/{name}" in dict(run.optimizer()[0]._core.state())
    ]
    assert found == [names[SHAPES.index((4096,))], names[SHAPES.index((5000,))]]
    assert coded == sorted([*found, names[SHAPES.index((1025,))]], key=names.index)


LARGE = ((60_001,), (3,), (70, 1000), (1024,), (50_000,))


@pytest.mark.parametrize("dtype", first(1, ["float32", "bfloat16"]))
@pytest.mark.parametrize(
    ("case", "code"), with_codes(of_option("everything"), ["bfloat16", "float8"])
)
def test_threads_do_not_change_a_bit(case: Case, code: str, dtype: str) -> None:
    shapes = ((900, 128), (3,), (50_000,)) if case.arguments.get("rowwise") else LARGE
    run = Run(case, code, shapes, dtype, master=False)
    reference = run.reference()
    run.train(reference)
    for threads in (1, 2, 3, 7):
        fo.set_num_threads(threads)
        optimizer, variables = run.optimizer()
        run.train(optimizer)
        assert_equal(optimizer, variables, reference)


# Rows


TABLES = ((11, 64), (5, 1088), (3, 2, 64), (40, 128), (3000,), (4, 64))


@functools.cache
def row_gradients(shapes: tuple[tuple[int, ...], ...], step: int, factor: float) -> list[Any]:
    """Of rows, some of them twice, but dense ones for the last variable and for another one."""
    rng = np.random.default_rng(step)
    grads: list[Any] = []
    for i, shape in enumerate(shapes):
        indices = rng.integers(0, shape[0], (0, 3, shape[0])[(step + i) % 3])
        values = spread_out((len(indices), *shape[1:]), [step, i], factor).astype(np.float32)
        grads.append(fo.RowGradient(values, indices))
    for i in (len(shapes) - 1, step % len(shapes)):
        grads[i] = spread_out(shapes[i], [step, i], factor).astype(np.float32)
    return grads


def taking_rows(option: str) -> list[Case]:
    return [case for case in of_option(option) if case.rule not in NO_ROWS]


@pytest.mark.parametrize(
    ("dtype", "master"), [("float32", True), ("bfloat16", False), ("float16", False)]
)
@pytest.mark.parametrize(
    ("case", "code"),
    with_codes(
        taking_rows("everything"),
        ["bfloat16", "float8"],
        rest=[
            case
            for option in ("plain", "global_clipnorm", "ema_overwrite", "clipvalue")
            for case in taking_rows(option)
        ],
    ),
)
def test_gradients_of_rows(case: Case, code: str, dtype: str, master: bool) -> None:
    shapes = tuple(s for s in TABLES if case.rule != "Muon" or len(s) != 2)
    # Vectors have rows of one element.
    if code == "float8":
        shapes = tuple(s for s in shapes if len(s) > 1)
    elif case.rule != "Muon":
        shapes = ((9, 3), (4, 1500), *shapes)
    run = Run(case, code, shapes, dtype, master=master)
    reference = run.reference()
    for step in range(STEPS):
        reference.apply([*row_gradients(run.shapes, step, run.factor)])
    for threads, level in ((1, LEVELS[0]), (3, LEVELS[-1])):
        fo.set_num_threads(threads)
        _core.set_level(level)
        optimizer, variables = run.optimizer()
        for step in range(STEPS):
            optimizer.apply([*row_gradients(run.shapes, step, run.factor)])
        assert_equal(optimizer, variables, reference)


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
def test_seeds(code: str) -> None:
    """A seed acts from the step on that follows it, and makes another run of it."""
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
