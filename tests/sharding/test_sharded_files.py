"""Ranks save one file, which is that of a single process, and any number of ranks loads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
import ranks
from ranks import Threads

pytest.importorskip("safetensors")

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "adamw": lambda: fo.AdamW(0.01, amsgrad=True, global_clipnorm=1.0),
    "nadam": lambda: fo.Nadam(0.01, use_ema=True),
    "accumulation": lambda: fo.SGD(0.1, momentum=0.9, gradient_accumulation_steps=2),
    "skipping": lambda: fo.Lion(0.01, skip_nonfinite=True),
    "rows and columns": lambda: fo.Adafactor(0.01, weight_decay=0.1),
    "norms": lambda: fo.Lamb(0.01, slot_dtype="float8"),
    "matrices": lambda: fo.Muon(0.01, exclude_layers=["half"], slot_dtype="bfloat16"),
    "rowwise": lambda: fo.Adam(0.01, rowwise=True, amsgrad=True, use_ema=True),
    "bfloat16": lambda: fo.Adam(0.01, slot_dtype="bfloat16", master=False),
    "float8": lambda: fo.AdamW(
        0.01,
        slot_dtypes={"kernel": "float8", "half": "float8", "bias": "float8"},
        gradient_accumulation_steps=2,
        seed=3,
    ),
    "loss scale": lambda: fo.LossScaleOptimizer(fo.Adam(0.01), 2.0, 2),
}
every_optimizer = pytest.mark.parametrize("new", OPTIMIZERS.values(), ids=OPTIMIZERS)


def steps(optimizer: Any, gradients: Callable[[int], dict[str, Any]], numbers: range) -> None:
    for step in numbers:
        optimizer.apply(gradients(step))


def shared(step: int) -> dict[str, Any]:
    """The sum over two ranks, which the first rank of any number gives while the others give zeros."""
    return ranks.summed(2, step)


def part(threads: Threads) -> Callable[[int], dict[str, Any]]:
    def gradients(step: int) -> dict[str, Any]:
        found = shared(step)
        return found if threads.rank == 0 else {name: np.zeros_like(g) for name, g in found.items()}

    return gradients


@every_optimizer
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_file_is_that_of_a_single_process(
    new: Callable[[], Any], size: int, tmp_path: Path
) -> None:
    def of_rank(threads: Threads) -> None:
        optimizer = fo.Sharded(new(), threads)
        optimizer.build(ranks.variables())
        steps(optimizer, part(threads), range(3))
        optimizer.save(tmp_path / "sharded", variables=True)

    ranks.finished(ranks.run(size, of_rank))
    single = new()
    single.build(ranks.variables())
    steps(single, shared, range(3))
    single.save(tmp_path / "single", variables=True)
    assert (tmp_path / "sharded").read_bytes() == (tmp_path / "single").read_bytes()


@every_optimizer
def test_from_4_ranks_to_3_to_1_process_to_4_ranks(new: Callable[[], Any], tmp_path: Path) -> None:
    path = tmp_path / "state"

    def stage(numbers: range) -> Callable[[Threads], Any]:
        def of_rank(threads: Threads) -> Any:
            optimizer = fo.Sharded(new(), threads)
            variables = ranks.variables()
            optimizer.build(variables)
            if numbers.start:
                optimizer.load(path)
            steps(optimizer, part(threads), numbers)
            optimizer.save(path, variables=True)
            return [w.tobytes() for w in variables.values()], optimizer.iterations

        return of_rank

    ranks.finished(ranks.run(4, stage(range(2))))
    ranks.finished(ranks.run(3, stage(range(2, 3))))
    alone = new()
    alone.build(ranks.variables())
    alone.load(path)
    steps(alone, shared, range(3, 5))
    alone.save(path, variables=True)
    found = ranks.finished(ranks.run(4, stage(range(5, 7))))

    single = new()
    variables = ranks.variables()
    single.build(variables)
    steps(single, shared, range(7))
    expected = [w.tobytes() for w in variables.values()], single.iterations
    assert found == [expected] * 4
    single.save(tmp_path / "single", variables=True)
    assert path.read_bytes() == (tmp_path / "single").read_bytes()


@pytest.mark.parametrize("slot_dtype", ["float32", "bfloat16", "float8"])
def test_slots_in_another_slot_dtype(slot_dtype: Any, tmp_path: Path) -> None:
    source = fo.Adam(0.01, slot_dtype="bfloat16")
    source.build(ranks.variables())
    steps(source, shared, range(2))
    source.save(tmp_path / "source", variables=True)

    def of_rank(threads: Threads) -> None:
        optimizer = fo.Sharded(fo.Adam(0.01, slot_dtype=slot_dtype), threads)
        optimizer.build(ranks.variables())
        optimizer.load(tmp_path / "source", convert_slots=True)
        steps(optimizer, part(threads), range(2, 4))
        optimizer.save(tmp_path / "sharded", variables=True)

    ranks.finished(ranks.run(3, of_rank))
    single = fo.Adam(0.01, slot_dtype=slot_dtype)
    single.build(ranks.variables())
    single.load(tmp_path / "source", convert_slots=True)
    steps(single, shared, range(2, 4))
    single.save(tmp_path / "single", variables=True)
    assert (tmp_path / "sharded").read_bytes() == (tmp_path / "single").read_bytes()


def test_a_file_without_variables_leaves_them(tmp_path: Path) -> None:
    def of_rank(threads: Threads) -> Any:
        optimizer = fo.Sharded(fo.Adam(), threads)
        variables = ranks.variables()
        optimizer.build(variables)
        optimizer.apply(ranks.gradients(threads.rank, 0))
        optimizer.save(tmp_path / "state")
        optimizer.apply(ranks.gradients(threads.rank, 1))
        before = [w.tobytes() for w in variables.values()]
        optimizer.load(tmp_path / "state")
        return optimizer.iterations, before == [w.tobytes() for w in variables.values()]

    assert ranks.finished(ranks.run(3, of_rank)) == [(1, True)] * 3


def untouched_after(
    error: Any, act: Callable[[Any, Threads], None], message: str, tmp_path: Path
) -> None:
    """All ranks raise, with the message; nothing has changed, and the next step is taken."""

    def of_rank(threads: Threads) -> None:
        optimizer = fo.Sharded(fo.Adam(), threads)
        variables = ranks.variables()
        optimizer.build(variables)
        optimizer.apply(ranks.gradients(threads.rank, 0))
        before = [array.tobytes() for array in [*variables.values(), *optimizer.variables]]
        with pytest.raises(error, match=message):
            act(optimizer, threads)
        assert before == [array.tobytes() for array in [*variables.values(), *optimizer.variables]]
        optimizer.apply(ranks.gradients(threads.rank, 1))

    ranks.finished(ranks.run(3, of_rank))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    def act(optimizer: Any, threads: Threads) -> None:
        optimizer.save(tmp_path / "nowhere" / "state")

    untouched_after((OSError, ValueError), act, "nowhere", tmp_path)


def test_a_file_that_one_rank_cannot_read(tmp_path: Path) -> None:
    def act(optimizer: Any, threads: Threads) -> None:
        optimizer.save(tmp_path / "state")
        optimizer.load(tmp_path / ("state" if threads.rank else "missing"))

    untouched_after((OSError, ValueError), act, "missing", tmp_path)


def test_files_that_differ(tmp_path: Path) -> None:
    def act(optimizer: Any, threads: Threads) -> None:
        other = fo.Adam()
        other.build(ranks.variables())
        other.apply(ranks.gradients(threads.rank, 3))
        other.save(tmp_path / str(threads.rank))
        optimizer.load(tmp_path / str(threads.rank))

    untouched_after(ValueError, act, "checksum of the file", tmp_path)


def test_another_rules_file(tmp_path: Path) -> None:
    def act(optimizer: Any, threads: Threads) -> None:
        other = fo.SGD(momentum=0.9)
        other.build(ranks.variables())
        other.save(tmp_path / str(threads.rank))
        optimizer.load(tmp_path / str(threads.rank))

    untouched_after(ValueError, act, "SGD", tmp_path)


def test_other_arguments_on_one_rank(tmp_path: Path) -> None:
    def act(optimizer: Any, threads: Threads) -> None:
        optimizer.save(tmp_path / "state", variables=threads.rank == 1)

    untouched_after(ValueError, act, "'variables=True' on rank 1", tmp_path)


def test_before_build(tmp_path: Path) -> None:
    def of_rank(threads: Threads) -> None:
        optimizer = fo.Sharded(fo.Adam(), threads)
        for call in (optimizer.save, optimizer.load):
            with pytest.raises(ValueError, match="not built"):
                call(tmp_path / "state")

    ranks.finished(ranks.run(2, of_rank))
