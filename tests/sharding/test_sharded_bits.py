"""The weights of ranks have the bits that a single process gives them with the summed gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
import ranks
from cases import CASES, OPTIONS, ROWWISE, Case
from low_bit import of_option, with_codes
from ranks import Threads
from training import make

STEPS = 5


def trained(
    optimizer: Any, gradients: Callable[[int], dict[str, Any]], steps: int = STEPS
) -> dict[str, Any]:
    """Take some steps, and return what the variables and the optimizer hold then."""
    variables = ranks.variables()
    optimizer.build(variables)
    for step in range(steps):
        optimizer.apply(gradients(step))
    seen = {name: array.tobytes() for name, array in variables.items()}
    return seen | {"norm": optimizer.global_norm, "iterations": optimizer.iterations}


def same_bits(
    size: int,
    new: Callable[[], Any],
    dtype: str = "float32",
    average: bool = False,
) -> None:
    def of_rank(threads: Threads) -> dict[str, Any]:
        optimizer = fo.Sharded(new(), threads, average=average)
        return trained(optimizer, lambda step: ranks.gradients(threads.rank, step, dtype))

    divisor = size if average else 1
    expected = trained(new(), lambda step: ranks.summed(size, step, dtype, divisor))
    for found in ranks.finished(ranks.run(size, of_rank)):
        assert found == expected


def size_for(label: str) -> int:
    """Choose each of 1 to 5 ranks for a fifth of the cases."""
    return 1 + sum(map(ord, label)) % 5


@pytest.mark.parametrize("case", [*CASES, *ROWWISE], ids=str)
def test_every_rule_with_every_option(case: Case) -> None:
    same_bits(size_for(case.label), lambda: make(case))


@pytest.mark.maintainer
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("case", [*CASES, *ROWWISE], ids=str)
def test_every_rule_with_every_option_on_every_number_of_ranks(case: Case, size: int) -> None:
    same_bits(size, lambda: make(case))


@pytest.mark.parametrize(
    ("case", "code"), with_codes(of_option("everything"), ["bfloat16", "float8"])
)
def test_every_rule_with_slots_in_fewer_bits(case: Case, code: str) -> None:
    size = size_for(case.label + code)
    whole_blocks = {"half": code, "bias": code}  # and the rows of a matrix, if a rule goes by rows
    named = whole_blocks if case.arguments.get("rowwise") else {**whole_blocks, "kernel": code}
    same_bits(size, lambda: make(case, slot_dtypes=named, seed=7, master=size % 2 == 0))


WHOLE: dict[str, Callable[[], Any]] = {
    "rowwise": lambda: fo.Adam(
        0.01, rowwise=True, use_ema=True, weight_decay=0.1, gradient_accumulation_steps=2
    ),
    "muon": lambda: fo.Muon(0.01, exclude_layers=["half"], clipnorm=1.0, skip_nonfinite=True),
    "muon in bfloat16": lambda: fo.Muon(
        0.01, exclude_layers=["half"], slot_dtype="bfloat16", master=False
    ),
    "lamb in float8": lambda: fo.Lamb(0.01, slot_dtype="float8", global_clipnorm=1.0),
}
CODED: dict[str, Callable[[], Any]] = {
    "bfloat16": lambda: fo.Adam(0.01, slot_dtype="bfloat16", clipnorm=1.0),
    "float8": lambda: fo.Adam(0.01, slot_dtype="float8", skip_nonfinite=True),
    "no master": lambda: fo.SGD(0.01, momentum=0.9, master=False, use_ema=True),
}


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("new", (WHOLE | CODED).values(), ids=WHOLE | CODED)
def test_what_is_not_cut_or_coded(new: Callable[[], Any], size: int) -> None:
    same_bits(size, new)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_number_of_ranks(options: dict[str, Any], size: int) -> None:
    same_bits(size, lambda: fo.AdamW(0.01, **{"weight_decay": 0.01} | options))


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("size", [1, 3, 4])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_dtype_of_gradients(dtype: str, size: int, average: bool) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    same_bits(size, lambda: fo.Adam(0.01, global_clipnorm=1.0), dtype, average)


def test_a_dynamic_loss_scale_has_one_value_on_all_ranks() -> None:
    """Rank 1 overflows in step 1, and all skip it."""

    def gradients(rank: int, step: int, scale: float) -> dict[str, Any]:
        found = ranks.gradients(rank, step)
        if (rank, step) == (1, 1):
            found["table"][-1] = np.inf
        return {name: np.asarray(each * np.float32(scale)) for name, each in found.items()}

    def new() -> Any:
        return fo.LossScaleOptimizer(fo.Adam(0.01, clipnorm=2.0), 64.0, 2)

    def of_rank(threads: Threads) -> Any:
        inner = new()
        optimizer = fo.Sharded(inner, threads)

        def scaled(step: int) -> dict[str, Any]:
            return gradients(threads.rank, step, inner.dynamic_scale)

        return trained(optimizer, scaled), inner.dynamic_scale, inner.consecutive_skipped_steps

    single = new()

    def total(step: int) -> dict[str, Any]:
        of_ranks = [gradients(rank, step, single.dynamic_scale) for rank in range(3)]
        return {
            name: (of_ranks[0][name] + of_ranks[1][name]) + of_ranks[2][name]
            for name in ranks.NAMES
        }

    expected = trained(single, total), single.dynamic_scale, single.consecutive_skipped_steps
    assert expected[0]["iterations"] == STEPS - 1
    for found in ranks.finished(ranks.run(3, of_rank)):
        assert found == expected


def test_skipped_steps_are_counted_on_all_ranks() -> None:
    def of_rank(threads: Threads) -> Any:
        optimizer = fo.Sharded(fo.SGD(0.1, skip_nonfinite=True), threads)
        variables = ranks.variables()
        optimizer.build(variables)
        gradients = ranks.gradients(threads.rank, 0)
        if threads.rank == 0:
            gradients["bias"][2] = np.nan
        optimizer.apply(gradients)
        same = all(
            np.array_equal(w, v)
            for w, v in zip(variables.values(), ranks.variables().values(), strict=True)
        )
        return optimizer.skipped_steps, optimizer.iterations, same

    assert ranks.finished(ranks.run(3, of_rank)) == [(1, 0, True)] * 3


def test_missing_gradients_and_other_orders() -> None:
    """Variables without a gradient stand still; a call may name its variables."""

    def of_rank(threads: Threads) -> Any:
        optimizer = fo.Sharded(fo.AdamW(0.01, global_clipnorm=1.0), threads)
        variables = ranks.variables()
        optimizer.build(variables)
        first, second = (ranks.gradients(threads.rank, step) for step in range(2))
        chosen = ["bias", "kernel"] if threads.rank else ["kernel", "bias"]
        optimizer.apply({name: first[name] for name in chosen})
        optimizer.apply_gradients([(second[name], variables[name]) for name in ("half", "table")])
        optimizer.apply([])
        return [w.tobytes() for w in variables.values()]

    variables = ranks.variables()
    optimizer = fo.AdamW(0.01, global_clipnorm=1.0)
    optimizer.build(variables)
    first, second = (ranks.summed(2, step) for step in range(2))
    optimizer.apply({name: first[name] for name in ("kernel", "bias")})
    optimizer.apply({name: second[name] for name in ("half", "table")})
    expected = [w.tobytes() for w in variables.values()]
    assert ranks.finished(ranks.run(2, of_rank)) == [expected] * 2


def test_gradients_of_any_layout() -> None:
    def of_rank(threads: Threads) -> Any:
        optimizer = fo.Sharded(fo.SGD(0.1), threads)
        w = np.zeros((60, 50), np.float32)
        optimizer.build([w])
        gradient = ranks.gradients(threads.rank, 0)["kernel"].reshape(50, 80)[:, :60]
        optimizer.apply([gradient.T])
        return w.tobytes()

    total = sum(ranks.gradients(rank, 0)["kernel"].reshape(50, 80)[:, :60].T for rank in range(2))
    expected = np.zeros((60, 50), np.float32)
    optimizer = fo.SGD(0.1)
    optimizer.build([expected])
    optimizer.apply([np.ascontiguousarray(total)])
    assert ranks.finished(ranks.run(2, of_rank)) == [expected.tobytes()] * 2


def test_windows_are_many_if_a_model_is_large() -> None:
    """More elements than go in one exchange, of unequal types."""
    shapes = {"large": (3, 2**20 + 5), "odd": (2**20 + 3,)}

    def gradients(rank: int) -> dict[str, Any]:
        random = np.random.default_rng(rank)
        dtypes = {"large": np.float16, "odd": np.float64}
        return {n: random.random(s, np.float32).astype(dtypes[n]) for n, s in shapes.items()}

    def of_rank(threads: Threads) -> Any:
        optimizer = fo.Sharded(fo.Adam(0.01, global_clipnorm=1.0), threads)
        variables = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
        optimizer.build(variables)
        optimizer.apply(gradients(threads.rank))
        return variables

    variables = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    optimizer = fo.Adam(0.01, global_clipnorm=1.0)
    optimizer.build(variables)
    large = sum(gradients(rank)["large"].astype(np.float32) for rank in range(3))
    odd = sum(gradients(rank)["odd"] for rank in range(3))
    optimizer.apply({"large": large, "odd": odd})
    for found in ranks.finished(ranks.run(3, of_rank)):
        for name, w in variables.items():
            np.testing.assert_array_equal(found[name], w)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_each_rank_keeps_its_share_of_the_slots(size: int) -> None:
    def of_rank(threads: Threads) -> int:
        optimizer = fo.Sharded(fo.Adam(use_ema=True), threads)
        optimizer.build([np.zeros((1000, 999), np.float32), np.zeros(31, np.float32)])
        return sum(array.nbytes for array in optimizer.variables)

    whole = 3 * 4 * (1000 * 999 + 31)
    for found in ranks.finished(ranks.run(size, of_rank)):
        assert abs(found - whole / size) <= 3 * 4 * 1024 + 16


MATRICES = {f"matrix {i}": (80, 100) for i in range(7)}
UNEQUAL = {"small": (20, 100), "large": (300, 100), "middle": (100, 100), "tall": (1000, 10)}


@pytest.mark.parametrize(
    ("new", "shapes"),
    [
        (fo.Lamb, MATRICES | {"bias": (8000,)}),
        (lambda: fo.Adam(rowwise=True), MATRICES | {"table": (3, 5000), "bias": (33001,)}),
        (lambda: fo.Muon(exclude_layers=["table"]), MATRICES | {"table": (3, 20000)}),
        (fo.Muon, UNEQUAL | {"bias": (200_000,)}),
        (lambda: fo.Adam(slot_dtype="float8"), {"kernel": (1000, 128), "bias": (4096,)}),
    ],
    ids=["Lamb", "rowwise", "Muon", "unequal matrices", "float8"],
)
@pytest.mark.parametrize("size", [2, 4])
def test_ranks_have_equally_many_elements_if_some_are_not_cut(
    new: Callable[[], Any], shapes: dict[str, tuple[int, ...]], size: int
) -> None:
    """What can be cut fills up what cannot."""

    def of_rank(threads: Threads) -> int:
        optimizer = fo.Sharded(new(), threads)
        optimizer.build({name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
        state = dict(optimizer.inner_optimizer._core.state())
        return sum(a.size for name, a in state.items() if name.startswith("momentum/"))

    found = ranks.finished(ranks.run(size, of_rank))
    whole = sum(int(np.prod(shape)) for shape in shapes.values())
    assert sum(found) == whole
    assert all(abs(elements - whole / size) <= 1024 for elements in found)


def test_matrices_are_dealt_by_what_their_products_cost() -> None:
    """The long one has most elements, but costs least."""
    shapes = {"square": (100, 100), "long": (10, 3000), "other": (90, 90)}

    def of_rank(threads: Threads) -> set[str]:
        optimizer = fo.Sharded(fo.Muon(), threads)
        optimizer.build({name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
        state = optimizer.inner_optimizer._core.state()
        return {n.removeprefix("momentum/") for n, array in state if array.ndim and array.size}

    assert ranks.finished(ranks.run(2, of_rank)) == [{"square"}, {"long", "other"}]


def test_excluded_variables_do_not_decay() -> None:
    def new() -> Any:
        optimizer = fo.AdamW(0.01, weight_decay=0.5)
        optimizer.exclude_from_weight_decay(var_names=["kernel", "gain"])
        return optimizer

    same_bits(3, new)


@pytest.mark.parametrize(
    "new",
    [
        lambda: fo.Adam(0.1, use_ema=True),
        lambda: fo.Adafactor(0.1, use_ema=True),
        lambda: fo.SGD(0.1, momentum=0.9, use_ema=True, master=False, slot_dtype="float8"),
    ],
    ids=["cut", "whole", "without master copies"],
)
def test_averages_become_weights(new: Callable[[], Any]) -> None:
    def ended(optimizer: Any, gradients: Callable[[int], dict[str, Any]]) -> Any:
        variables = ranks.variables()
        optimizer.build(variables)
        for step in range(3):
            optimizer.apply(gradients(step))
        with optimizer.evaluation_weights() as lent:
            inside = [w.tobytes() for w in lent.values()]
        after = [w.tobytes() for w in variables.values()]
        optimizer.finalize_variable_values(variables.values())
        return inside, after, [w.tobytes() for w in variables.values()]

    def of_rank(threads: Threads) -> Any:
        optimizer = fo.Sharded(new(), threads)
        return ended(optimizer, lambda step: ranks.gradients(threads.rank, step))

    expected = ended(new(), lambda step: ranks.summed(3, step))
    assert ranks.finished(ranks.run(3, of_rank)) == [expected] * 3


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("slot_dtype", ["float32", "bfloat16"])
def test_the_x_of_a_schedule_free_rule_is_evaluated(slot_dtype: Any, size: int) -> None:
    def new() -> Any:
        return fo.ScheduleFreeAdamW(0.1, slot_dtype=slot_dtype)

    def inside(optimizer: Any, gradients: dict[str, Any]) -> Any:
        optimizer.build(ranks.variables())
        optimizer.apply(gradients)
        with optimizer.evaluation_weights() as lent:
            return [w.tobytes() for w in lent.values()]

    def of_rank(threads: Threads) -> Any:
        optimizer = fo.Sharded(new(), threads)
        return inside(optimizer, ranks.gradients(threads.rank, 0))

    expected = inside(new(), ranks.summed(size, 0))
    assert ranks.finished(ranks.run(size, of_rank)) == [expected] * size
