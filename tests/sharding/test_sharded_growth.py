"""Building again with more variables: the bits and the state of a single process that does the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
import ranks
from ranks import Threads

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "adamw": lambda: fo.AdamW(0.01, weight_decay=0.1, global_clipnorm=1.0),
    "averages": lambda: fo.Nadam(0.01, use_ema=True, ema_momentum=0.5, clipnorm=1.0),
    "accumulation": lambda: fo.SGD(0.1, momentum=0.9, gradient_accumulation_steps=3),
    "a scale": lambda: fo.LossScaleOptimizer(fo.Adam(0.01), 2.0, 2),
    "muon": lambda: fo.Muon(0.01, weight_decay=0.1),
    "fewer bits": lambda: fo.Adam(0.01, slot_dtype="bfloat16", master=False),
    "several": lambda: fo.MultiOptimizer(
        fo.OptimizerMap(fo.Adam(0.01), {"table|half": fo.SGD(0.1, momentum=0.9)}),
        global_clipnorm=1.0,
    ),
}
every_optimizer = pytest.mark.parametrize("new", OPTIMIZERS.values(), ids=OPTIMIZERS)
BUILDS = [["table", "bias"], ["half", "table", "kernel", "bias"], [*reversed(ranks.NAMES)]]


def grown(optimizer: Any, gradients: Callable[[int], dict[str, Any]]) -> Any:
    """Take some steps after each build, and return what the variables hold."""
    variables = ranks.variables()
    for number, names in enumerate(BUILDS):
        optimizer.build({name: variables[name] for name in names})
        for step in range(2 * number, 2 * number + 2):
            optimizer.apply({name: gradients(step)[name] for name in names})
    return [w.tobytes() for w in variables.values()], optimizer.global_norm, optimizer.iterations


@every_optimizer
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_bits(new: Callable[[], Any], size: int) -> None:
    def of_rank(threads: Threads) -> Any:
        return grown(fo.Sharded(new(), threads), lambda step: ranks.gradients(threads.rank, step))

    expected = grown(new(), lambda step: ranks.summed(size, step))
    assert ranks.finished(ranks.run(size, of_rank)) == [expected] * size


@every_optimizer
def test_the_file_is_that_of_a_single_process(new: Callable[[], Any], tmp_path: Path) -> None:
    """Ranks that are built at once load it, though they have cut the variables elsewhere."""
    pytest.importorskip("safetensors")

    def of_rank(threads: Threads) -> None:
        optimizer = fo.Sharded(new(), threads)
        grown(optimizer, lambda step: ranks.gradients(threads.rank, step))
        optimizer.save(tmp_path / "sharded")

    def of_other_rank(threads: Threads) -> None:
        optimizer = fo.Sharded(new(), threads)
        variables = ranks.variables()
        optimizer.build({name: variables[name] for name in BUILDS[-1]})
        optimizer.load(tmp_path / "sharded")
        optimizer.save(tmp_path / "loaded")

    ranks.finished(ranks.run(3, of_rank))
    ranks.finished(ranks.run(2, of_other_rank))
    single = new()
    grown(single, lambda step: ranks.summed(3, step))
    single.save(tmp_path / "single")
    expected = (tmp_path / "single").read_bytes()
    assert (tmp_path / "sharded").read_bytes() == expected
    assert (tmp_path / "loaded").read_bytes() == expected


@pytest.mark.parametrize("size", [2, 4])
def test_new_variables_are_shared_out_and_old_state_stays_where_it_is(size: int) -> None:
    def of_rank(threads: Threads) -> int:
        optimizer = fo.Sharded(fo.Adam(), threads)
        first, second = (np.ones((100, 999), np.float32) for _ in range(2))
        optimizer.build({"first": first})
        optimizer.apply({"first": first.copy()})
        view = optimizer.named_variables()["momentum/first"]
        optimizer.build({"second": second, "first": first})
        now = optimizer.named_variables()
        assert now["momentum/first"].ctypes.data == view.ctypes.data
        return sum(now[f"velocity/{name}"].size for name in ("first", "second"))

    for found in ranks.finished(ranks.run(size, of_rank)):
        assert abs(found - 2 * 100 * 999 / size) <= 2 * 1024


def test_old_variables_keep_their_decay() -> None:
    def grown_without_decay(optimizer: Any, gradients: Callable[[int], dict[str, Any]]) -> Any:
        variables = ranks.variables()
        optimizer.exclude_from_weight_decay([variables["table"]])
        optimizer.build({"table": variables["table"], "half": variables["half"]})
        with pytest.raises(ValueError, match="found the optimizer built"):
            optimizer.exclude_from_weight_decay([variables["half"]])
        optimizer.exclude_from_weight_decay([variables["kernel"]])
        optimizer.build(variables)
        optimizer.apply(gradients(0))
        return [w.tobytes() for w in variables.values()]

    def of_rank(threads: Threads) -> Any:
        optimizer = fo.Sharded(fo.AdamW(0.1, weight_decay=0.5), threads)
        return grown_without_decay(optimizer, lambda step: ranks.gradients(threads.rank, step))

    expected = grown_without_decay(
        fo.AdamW(0.1, weight_decay=0.5), lambda step: ranks.summed(3, step)
    )
    assert ranks.finished(ranks.run(3, of_rank)) == [expected] * 3


BAD_BUILDS: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "missing": (lambda all_: {n: w for n, w in all_.items() if n != "table"}, "missing"),
    "fewer": (
        lambda all_: {n: w for n, w in all_.items() if n != "more"},
        "'new variables' on rank 0 and 'the same variables again' on rank 1",
    ),
    "values": (lambda all_: all_ | {"more": np.zeros(3)}, "checksum of the values"),
    "order": (lambda all_: dict(reversed(all_.items())), "on rank 1"),
    "layout": (lambda all_: all_ | {"more": np.ones(6)[::2]}, "C-contiguous"),
}


@pytest.mark.parametrize(("spoil", "part"), BAD_BUILDS.values(), ids=BAD_BUILDS)
def test_what_one_rank_refuses(
    spoil: Callable[[dict[str, Any]], dict[str, Any]], part: str
) -> None:
    """All go on with the variables of before."""

    def of_rank(threads: Threads) -> Any:
        optimizer = fo.Sharded(fo.Adam(0.01, global_clipnorm=1.0), threads)
        variables = ranks.variables()
        optimizer.build(variables)
        optimizer.apply(ranks.gradients(threads.rank, 0))
        more = {**variables, "more": np.ones(3)}
        with pytest.raises(ValueError) as caught:  # noqa: PT011, the message is compared below
            optimizer.build(spoil(more) if threads.rank == 1 else more)
        optimizer.apply(ranks.gradients(threads.rank, 1))
        return str(caught.value), [w.tobytes() for w in variables.values()]

    def untouched(threads: Threads) -> list[bytes]:
        optimizer = fo.Sharded(fo.Adam(0.01, global_clipnorm=1.0), threads)
        variables = ranks.variables()
        optimizer.build(variables)
        for step in range(2):
            optimizer.apply(ranks.gradients(threads.rank, step))
        return [w.tobytes() for w in variables.values()]

    expected = ranks.finished(ranks.run(3, untouched))
    found = ranks.finished(ranks.run(3, of_rank))
    assert [after for _, after in found] == expected
    assert all(part in message for message, _ in found)
