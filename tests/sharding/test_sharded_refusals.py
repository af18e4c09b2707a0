"""What one rank refuses all refuse, within the same call, and nothing has changed on any."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
import ranks
from ranks import Threads

SIZE = 3
GUILTY = 1


def built(threads: Threads, inner: Any = None) -> tuple[Any, dict[str, Any]]:
    rule = fo.AdamW(0.01, global_clipnorm=1.0, use_ema=True) if inner is None else inner
    optimizer = fo.Sharded(rule, threads)
    variables = ranks.variables()
    optimizer.build(variables)
    optimizer.apply(ranks.gradients(threads.rank, 0))
    return optimizer, variables


def everything(optimizer: Any, variables: dict[str, Any]) -> list[Any]:
    arrays = [*variables.values(), *optimizer.variables]
    return [*(array.tobytes() for array in arrays), optimizer.global_norm, optimizer.iterations]


def refused(
    act: Callable[[Any, dict[str, Any], bool], Any], inner: Callable[[], Any] | None = None
) -> list[str]:
    """Return what the ranks raise if only one of them errs; afterwards all take the next step alike."""

    def of_rank(threads: Threads) -> Any:
        optimizer, variables = built(threads, inner and inner())
        before = everything(optimizer, variables)
        with pytest.raises((ValueError, TypeError, RuntimeError, UserWarning)) as caught:
            act(optimizer, variables, threads.rank == GUILTY)
        assert everything(optimizer, variables) == before
        if threads.rank != GUILTY:
            assert type(caught.value) is ValueError
        optimizer.apply(ranks.gradients(threads.rank, 1))
        return str(caught.value), [w.tobytes() for w in variables.values()]

    def untouched(threads: Threads) -> list[bytes]:
        optimizer, variables = built(threads, inner and inner())
        optimizer.apply(ranks.gradients(threads.rank, 1))
        return [w.tobytes() for w in variables.values()]

    found = ranks.finished(ranks.run(SIZE, of_rank))
    expected = ranks.finished(ranks.run(SIZE, untouched))
    assert [bits for _, bits in found] == expected
    return [message for message, _ in found]


def gradients_with(bad: bool, **changes: Any) -> dict[str, Any]:
    return ranks.gradients(0, 1) | (changes if bad else {})


BAD_GRADIENTS = {
    "shape": ({"kernel": np.ones((3, 3), np.float32)}, "expected shape (40, 100), found (3, 3)"),
    "dtype": ({"kernel": np.ones((40, 100), np.int32)}, "int32"),
    "kind": ({"kernel": "gradient"}, "kernel"),
    "mask": ({"bias": np.ma.masked_array(np.ones(5), [1, 0, 0, 0, 0])}, "mask"),
    "name": ({"kernels": np.ones((40, 100))}, "kernels"),
    "rows": (
        {"kernel": fo.RowGradient(np.ones((1, 100), np.float32), np.array([3]))},
        "expected a dense one, as the optimizer is sharded",
    ),
}


@pytest.mark.parametrize(("changes", "part"), BAD_GRADIENTS.values(), ids=BAD_GRADIENTS)
def test_a_bad_gradient(changes: dict[str, Any], part: str) -> None:
    messages = refused(lambda optimizer, _, bad: optimizer.apply(gradients_with(bad, **changes)))
    for rank, message in enumerate(messages):
        assert part in message
        assert message.startswith(f"rank {GUILTY}: ") == (rank != GUILTY)


def test_a_gradient_in_the_memory_of_a_variable() -> None:
    """It is refused as often as it comes."""

    def act(optimizer: Any, variables: dict[str, Any], bad: bool) -> None:
        given = gradients_with(bad, kernel=variables["kernel"])
        with pytest.raises(ValueError, match="overlapping variable 0"):
            optimizer.apply(given)
        optimizer.apply(given)

    assert all("overlapping variable 0 ('kernel')" in message for message in refused(act))


def test_a_variable_in_another_order_of_its_memory() -> None:
    def of_rank(threads: Threads) -> Any:
        optimizer = fo.Sharded(fo.SGD(0.1), threads)
        w = np.ones((3, 3), np.float32)
        optimizer.build([w])
        with pytest.raises(ValueError, match="variables given to build"):
            optimizer.apply([np.ones((3, 3), np.float32)], [w.T])
        return w.tolist()

    assert ranks.finished(ranks.run(2, of_rank)) == [np.ones((3, 3)).tolist()] * 2


def test_a_wrong_number_of_gradients() -> None:
    def act(optimizer: Any, _: Any, bad: bool) -> None:
        found = list(ranks.gradients(0, 1).values())
        optimizer.apply(found[:-1] if bad else found)

    assert all("expected 6 gradients" in message for message in refused(act))


def test_other_dtypes_and_other_variables_are_named() -> None:
    wide = {"kernel": np.ones((40, 100))}
    messages = refused(lambda optimizer, _, bad: optimizer.apply(gradients_with(bad, **wide)))
    expected = (
        "apply: expected the same on all ranks, found 'gradient of variable 0: float32' on rank 0 "
        "and 'gradient of variable 0: float64' on rank 1"
    )
    assert messages == [expected] * SIZE

    def act(optimizer: Any, _: Any, bad: bool) -> None:
        found = ranks.gradients(0, 1)
        optimizer.apply({n: g for n, g in found.items() if not (bad and n == "bias")})

    messages = refused(act)
    assert all("'gradient of variable 5: none' on rank 1" in message for message in messages)


class Broken:
    """A learning rate that can be told to fail."""

    def __init__(self) -> None:
        self.fails = False

    def __call__(self) -> float:
        if self.fails:
            raise RuntimeError("no rate today")
        return 0.01


def test_a_rate_function_that_raises() -> None:
    def act(optimizer: Any, _: Any, bad: bool) -> None:
        rate = optimizer.inner_optimizer._learning_rate
        rate.fails = bad
        try:
            optimizer.apply(ranks.gradients(0, 1))
        finally:
            rate.fails = False

    messages = refused(act, lambda: fo.AdamW(Broken(), clipnorm=1.0))
    assert all("no rate today" in message for message in messages)
    assert messages[0].startswith("rank 1: RuntimeError: no rate today")


def test_learning_rates_that_differ() -> None:
    def act(optimizer: Any, _: Any, bad: bool) -> None:
        if bad:
            optimizer.learning_rate = 0.02
        try:
            optimizer.apply(ranks.gradients(0, 1))
        finally:
            optimizer.learning_rate = 0.01

    messages = refused(act)
    assert all("learning_rate" in message and "on rank 1" in message for message in messages)


def test_options_that_were_assigned_on_one_rank() -> None:
    def act(optimizer: Any, _: Any, bad: bool) -> None:
        if bad:
            optimizer.inner_optimizer.global_clipnorm = 2.0
        try:
            optimizer.apply(ranks.gradients(0, 1))
        finally:
            optimizer.inner_optimizer.global_clipnorm = 1.0

    messages = refused(act)
    assert all("'global_clipnorm: 1' on rank 0" in message for message in messages)


def test_a_matrix_product_that_raises_on_the_rank_of_its_matrix() -> None:
    class Product:
        fails = False

        def __call__(self, a: Any, b: Any, out: Any) -> None:
            if self.fails and out.shape[1] == 100:
                raise RuntimeError("no product today")
            np.matmul(a, b, out)

    def of_rank(threads: Threads) -> Any:
        product = Product()
        optimizer, variables = built(threads, fo.Muon(0.01, matrix_product=product))
        before = everything(optimizer, variables)
        product.fails = True
        with pytest.raises((ValueError, RuntimeError)) as caught:
            optimizer.apply(ranks.gradients(0, 1))
        assert everything(optimizer, variables) == before
        return type(caught.value), str(caught.value)

    found = ranks.finished(ranks.run(SIZE, of_rank))
    assert all("no product today" in message for _, message in found)
    assert sorted(error.__name__ for error, _ in found) == ["RuntimeError", *["ValueError"] * 2]


def test_seeds_that_differ() -> None:
    def act(optimizer: Any, _: Any, bad: bool) -> None:
        optimizer.inner_optimizer.seed = int(bad)
        try:
            optimizer.apply(ranks.gradients(0, 1))
        finally:
            optimizer.inner_optimizer.seed = 0

    messages = refused(act, lambda: fo.Adam(slot_dtype="bfloat16", seed=0))
    assert all("seed of what is rounded at random" in message for message in messages)


@pytest.mark.filterwarnings("error:No gradient")
def test_a_warning_that_is_an_error() -> None:
    def act(optimizer: Any, _: Any, bad: bool) -> None:
        optimizer.apply(gradients_with(bad, bias=None))

    assert all("No gradient for" in message for message in refused(act))


def test_other_calls_are_named() -> None:
    def act(optimizer: Any, variables: Any, bad: bool) -> None:
        if bad:
            optimizer.finalize_variable_values(variables.values())
        else:
            optimizer.apply(ranks.gradients(0, 1))

    messages = refused(act)
    assert all("'a call of finalize_variable_values' on rank 1" in message for message in messages)


def test_building_the_same_again_changes_nothing() -> None:
    def of_rank(threads: Threads) -> bool:
        optimizer, variables = built(threads)
        before = everything(optimizer, variables)
        optimizer.build(variables)
        return everything(optimizer, variables) == before

    assert ranks.finished(ranks.run(2, of_rank)) == [True, True]


# Building

BAD_BUILDS: dict[str, tuple[Callable[[bool], tuple[Any, Any]], str]] = {
    "rule": (lambda bad: (fo.SGD() if bad else fo.Adam(), ranks.variables()), "'SGD' on rank 1"),
    "hyperparameter": (
        lambda bad: (fo.Adam(beta_1=0.8 if bad else 0.9), ranks.variables()),
        "'beta_1 = 0.8",
    ),
    "option": (lambda bad: (fo.Adam(use_ema=bad), ranks.variables()), "'use_ema = true' on rank 1"),
    "exclusions": (
        lambda bad: (fo.Muon(exclude_layers=["half" if bad else "kernel"]), ranks.variables()),
        "'branch of the rule of variable 0: 1' on rank 0",
    ),
    "row size": (
        lambda bad: (fo.Adam(rowwise=True, slot_dtypes={"kernel": "float8"}), ranks.variables()),
        "expected rows of a multiple of 64",
    ),
    "dtype": (
        lambda bad: (fo.Adam(), ranks.variables() | ({"bias": np.ones(5)} if bad else {})),
        "variable 5 ('bias'): float64 of shape (5,)' on rank 1",
    ),
    "values": (
        lambda bad: (fo.Adam(), ranks.variables() | ({"gain": np.array(7.0)} if bad else {})),
        "checksum of the values of variable 1",
    ),
    "memory": (
        lambda bad: (fo.Adam(), {"w": np.ones((4, 4), np.float32)[:, :: 2 if bad else 1]}),
        "C-contiguous",
    ),
    "kind": (lambda bad: (fo.Adam(), "variables" if bad else ranks.variables()), "found"),
}


@pytest.mark.parametrize(("make", "part"), BAD_BUILDS.values(), ids=BAD_BUILDS)
def test_a_bad_build(make: Callable[[bool], tuple[Any, Any]], part: str) -> None:
    def of_rank(threads: Threads) -> str:
        inner, variables = make(threads.rank == GUILTY)
        optimizer = fo.Sharded(inner, threads)
        with pytest.raises((ValueError, TypeError)) as caught:
            optimizer.build(variables)
        assert not optimizer.built
        return str(caught.value)

    for message in ranks.finished(ranks.run(SIZE, of_rank)):
        assert part in message


def test_a_build_by_apply_may_fail_before_and_after_it() -> None:
    """The other ranks notice a failure in the same call, even if they have built in it."""

    def of_rank(threads: Threads) -> str:
        optimizer = fo.Sharded(fo.SGD(), threads)
        w = np.ones(3, np.float32)
        with pytest.raises((ValueError, TypeError)) as caught:
            optimizer.apply(["text" if threads.rank == GUILTY else w.copy()], [w])
        assert optimizer.built
        np.testing.assert_array_equal(w, 1)
        with pytest.raises(ValueError, match="expected 1 gradients"):
            optimizer.apply([w.copy()] * (1 + (threads.rank == GUILTY)))
        return str(caught.value)

    messages = ranks.finished(ranks.run(SIZE, of_rank))
    assert messages[0].startswith("rank 1: TypeError: ")


def test_a_call_in_another_thread() -> None:
    """Two threads of a rank would not take their turns as those of another rank do."""

    def of_rank(threads: Threads) -> Any:
        optimizer = fo.Sharded(fo.SGD(0.1), threads)
        w = np.ones(3, np.float32)
        optimizer.build([w])

        def step() -> str:
            with pytest.raises(ValueError, match="found another thread") as caught:
                optimizer.apply([np.ones(3, np.float32)])
            return str(caught.value)

        with ThreadPoolExecutor(1) as executor:
            message = executor.submit(step).result() if threads.rank == 1 else step()
        assert (w == 1).all()
        optimizer.apply([np.ones(3, np.float32)])
        return message, w.tolist()

    first, second = ranks.finished(ranks.run(2, of_rank))
    assert second[0].startswith("apply: expected in the thread that built the sharded optimizer")
    assert first == (f"rank 1: {second[0]}", second[1])


# What cannot be sharded

UNSHARABLE = {
    "row_updates": (lambda: fo.SGD(row_updates="caught_up"), ValueError, "row_updates"),
    "a member": (
        lambda: fo.MultiOptimizer(
            fo.OptimizerMap(fo.Adam(), {"w": fo.SGD(row_updates="caught_up")})
        ),
        ValueError,
        "row_updates",
    ),
    "text": (lambda: "adam", TypeError, "expected an Optimizer"),
}


@pytest.mark.parametrize(("make", "error", "part"), UNSHARABLE.values(), ids=UNSHARABLE)
def test_what_cannot_be_sharded(make: Callable[[], Any], error: Any, part: str) -> None:
    with pytest.raises(error, match=part):
        fo.Sharded(make(), Threads(ranks.Group(1), 0))


def test_options_that_came_after_the_constructor() -> None:
    inner = fo.Adam()
    optimizer = fo.Sharded(inner, Threads(ranks.Group(1), 0))
    inner.row_updates = "caught_up"
    with pytest.raises(ValueError, match="row_updates"):
        optimizer.build([np.ones(3, np.float32)])


def test_a_built_or_sharded_optimizer() -> None:
    inner = fo.Adam()
    fo.Sharded(inner, Threads(ranks.Group(1), 0))
    with pytest.raises(ValueError, match="sharded already"):
        fo.Sharded(inner, Threads(ranks.Group(1), 0))
    inner = fo.Adam()
    inner.build([np.ones(3)])
    with pytest.raises(ValueError, match="expected before build"):
        fo.Sharded(inner, Threads(ranks.Group(1), 0))


def test_wrappers_around() -> None:
    def sharded() -> Any:
        return fo.Sharded(fo.Adam(), Threads(ranks.Group(1), 0))

    with pytest.raises(TypeError, match="put Sharded around"):
        fo.LossScaleOptimizer(sharded())
    with pytest.raises(TypeError, match="found Sharded"):
        fo.Sharded(sharded(), Threads(ranks.Group(1), 0))
    with pytest.raises((TypeError, ValueError)):
        fo.MultiOptimizer(fo.OptimizerMap(sharded()))


class Without:
    """A communicator that lacks something."""

    def __init__(self, missing: str) -> None:
        for name in {"rank", "size", "alltoallv", "allgatherv"} - {missing}:
            setattr(self, name, 0 if name == "rank" else 1 if name == "size" else print)


@pytest.mark.parametrize("missing", ["rank", "size", "alltoallv", "allgatherv"])
def test_a_communicator_that_lacks_something(missing: str) -> None:
    with pytest.raises(TypeError, match=f"communicator: .* without {missing}"):
        fo.Sharded(fo.Adam(), Without(missing))


@pytest.mark.parametrize(("rank", "size"), [(-1, 2), (2, 2), (0, 0)])
def test_a_rank_outside(rank: int, size: int) -> None:
    communicator = Without("")
    vars(communicator).update(rank=rank, size=size)
    with pytest.raises(ValueError, match="from 0 to size - 1"):
        fo.Sharded(fo.Adam(), communicator)


def test_copies_and_configurations() -> None:
    optimizer = fo.Sharded(fo.Adam(), Threads(ranks.Group(1), 0))
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="communicator belongs to its process"):
            copied(optimizer)
    with pytest.raises(TypeError, match="inner_optimizer"):
        optimizer.get_config()
    with pytest.raises(TypeError, match="stateless_apply"):
        optimizer.stateless_apply([], [], [])
    with pytest.raises(AttributeError, match="average"):
        optimizer.average = True
    assert "rank 0 of 1" in repr(optimizer)


@pytest.mark.parametrize("size", [2, 3])
def test_weights_that_could_not_be_exchanged(size: int) -> None:
    """The error is the communicator's; later calls are refused on all ranks."""

    class Fragile(Threads):
        fails = False
        swaps = 0

        def alltoallv(self, *arguments: Any) -> None:
            self.swaps += 1
            if self.fails and self.swaps > 1:
                raise ConnectionError("the network is gone")
            super().alltoallv(*arguments)

        def allgatherv(self, send: Any, receive: Any, counts: list[int]) -> None:
            if self.fails and receive.size > 1000:
                raise ConnectionError("the network is gone")
            super().allgatherv(send, receive, counts)

    def of_rank(threads: Threads) -> str:
        fragile = Fragile(threads._group, threads.rank)
        optimizer = fo.Sharded(fo.SGD(), fragile)
        optimizer.build([np.ones(5000, np.float32)])
        fragile.fails = True
        with pytest.raises(ConnectionError):
            optimizer.apply([np.ones(5000, np.float32)])
        with pytest.raises(ValueError, match="found them torn") as caught:
            optimizer.apply([np.ones(5000, np.float32)])
        return str(caught.value)

    ranks.finished(ranks.run(size, of_rank))
