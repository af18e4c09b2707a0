"""Exchanges that go on while a rank computes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
import ranks
from ranks import Later, Threads

# More than three windows of two ranks, with borders of variables within windows.
SHAPES = {"large": (3, 2**18 + 5), "small": (5000,), "odd": (2**18 + 3,), "unused": (77,)}


def gradients(rank: int, step: int) -> dict[str, Any]:
    dtypes = {"large": np.float32, "small": np.float16, "odd": np.float64}
    random = np.random.default_rng([rank, step])
    return {n: random.random(SHAPES[n], np.float32).astype(d) for n, d in dtypes.items()}


def trained(optimizer: Any, of_step: Any) -> list[bytes]:
    variables = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
    variables["small"] = variables["small"].astype(np.float16)
    optimizer.build(variables)
    for step in range(3):
        optimizer.apply(of_step(step))
    return [w.tobytes() for w in variables.values()]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"global_clipnorm": 1.0},
        {"skip_nonfinite": True},
        {"gradient_accumulation_steps": 2},
        {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [2, 3])
def test_windows_under_way_change_no_bit(options: dict[str, Any], size: int) -> None:
    def of_rank(later: Later) -> list[bytes]:
        optimizer = fo.Sharded(fo.Adam(0.01, **options), later)
        found = trained(optimizer, lambda step: gradients(later.rank, step))
        assert later.under_way == 0
        assert later.most_under_way >= 2
        return found

    def summed(step: int) -> dict[str, Any]:
        wide = {"large": np.float32, "small": np.float32, "odd": np.float64}
        return {
            name: sum(gradients(rank, step)[name].astype(dtype) for rank in range(size))
            for name, dtype in wide.items()
        }

    expected = trained(fo.Adam(0.01, **options), summed)
    assert ranks.finished(ranks.run(size, of_rank, Later)) == [expected] * size


def test_an_exchange_returns_none_or_what_waits() -> None:
    class Number(Threads):
        def allgatherv(self, *arguments: Any) -> Any:
            super().allgatherv(*arguments)
            return 3

    def of_rank(number: Number) -> None:
        fo.Sharded(fo.SGD(), number).build([np.ones(3, np.float32)])

    for error in ranks.run(2, of_rank, Number):
        assert isinstance(error, TypeError)
        assert "expected None or an object with wait() from an exchange, found 3" in str(error)


def test_a_wait_that_fails_in_a_step_is_the_last_one() -> None:
    class Broken(Threads):
        is_broken = False

        def alltoallv(self, *arguments: Any) -> Any:
            super().alltoallv(*arguments)

            def wait() -> None:
                if self.is_broken:
                    raise ConnectionError("the network is gone")

            return SimpleNamespace(wait=wait)

    def of_rank(broken: Broken) -> Any:
        optimizer = fo.Sharded(fo.SGD(0.1), broken)
        w = np.ones(3, np.float32)
        optimizer.build([w])
        optimizer.apply([w * 1])
        broken.is_broken = True
        with pytest.raises(ConnectionError, match="the network is gone"):
            optimizer.apply([w * 1])
        broken.is_broken = False
        with pytest.raises(ValueError, match="expected whole weights, found them torn"):
            optimizer.apply([w * 1])
        return None

    ranks.finished(ranks.run(2, of_rank, Broken))
