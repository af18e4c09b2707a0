"""Several optimizers as one over ranks: the bits of a single process, one file, one decision, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
import ranks
from ranks import Threads


def several(default: Any, others: dict[str, Any], **options: Any) -> Any:
    return fo.MultiOptimizer(fo.OptimizerMap(default, others), **options)


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "rules": lambda: several(
        fo.AdamW(0.01, weight_decay=0.1),
        {"kernel": fo.SGD(0.1, momentum=0.9), "gain|half": fo.Nadam(0.01)},
    ),
    "one norm": lambda: several(
        fo.Adam(0.01, gradient_accumulation_steps=2),
        {"table|bias": fo.SGD(0.1, momentum=0.9), "half": fo.Lion(0.01)},
        global_clipnorm=1.0,
    ),
    "norms of members": lambda: several(
        fo.RMSprop(0.01, clipnorm=0.5),
        {"kernel|half": fo.Adagrad(0.1, global_clipnorm=1.0), "table": fo.SGD(0.1)},
    ),
    "averages": lambda: several(
        fo.Adam(0.01, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2),
        {"kernel|gain": fo.SGD(0.1, use_ema=True), "half": fo.Adamax(0.01)},
    ),
    "one rank's": lambda: several(fo.Adam(0.01, clipnorm=0.1), {"gain": fo.SGD(0.1)}),
    "a scale": lambda: several(
        fo.Adam(0.01, clipvalue=0.5), {"table": fo.Yogi(0.01)}, loss_scale_factor=8.0
    ),
    "a dynamic scale": lambda: fo.LossScaleOptimizer(
        several(fo.Adam(0.01), {"kernel": fo.SGD(0.1, skip_nonfinite=True)}), 2.0, 2
    ),
    "variables that are not cut": lambda: several(
        fo.Lamb(0.01),
        {"kernel": fo.Muon(0.01), "half": fo.Adafactor(0.01), "table": fo.SGD(0.1, momentum=0.9)},
    ),
    "fewer bits": lambda: several(
        fo.Adam(0.01, slot_dtype="bfloat16"),
        {"kernel|half": fo.AdamW(0.01, slot_dtype="float8", master=False)},
        global_clipnorm=1.0,
    ),
    "nobody": lambda: several(fo.Adam(0.01), {"other": fo.Nadam(0.1)}, skip_nonfinite=True),
}
every_optimizer = pytest.mark.parametrize("new", OPTIMIZERS.values(), ids=OPTIMIZERS)
pytestmark = pytest.mark.filterwarnings("ignore:optimizer_map. no variable")

Act = Callable[[Any, dict[str, Any], Callable[[int], dict[str, Any]]], Any]


def alike(size: int, new: Callable[[], Any], act: Act) -> None:
    """Expect of each rank what a single process finds that gets the summed gradients."""

    def of_rank(threads: Threads) -> Any:
        variables = ranks.variables()
        optimizer = fo.Sharded(new(), threads)
        return act(optimizer, variables, lambda step: ranks.gradients(threads.rank, step))

    expected = act(new(), ranks.variables(), lambda step: ranks.summed(size, step))
    assert ranks.finished(ranks.run(size, of_rank)) == [expected] * size


def bits(variables: dict[str, Any]) -> list[bytes]:
    return [w.tobytes() for w in variables.values()]


@every_optimizer
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_bits(new: Callable[[], Any], size: int) -> None:
    def act(optimizer: Any, variables: Any, gradients: Any) -> Any:
        optimizer.build(variables)
        for step in range(4):
            optimizer.apply(gradients(step))
        return bits(variables), optimizer.global_norm, optimizer.iterations

    alike(size, new, act)


@pytest.mark.filterwarnings("ignore:No gradient for")
def test_calls_for_the_variables_of_some() -> None:
    """A member whose variables are not in a call does not step; None leaves a variable of one that does."""

    def act(optimizer: Any, variables: Any, gradients: Any) -> Any:
        optimizer.build(variables)
        for step, names in enumerate((["kernel", "half"], ["bias", "table"], ["gain", "kernel"])):
            optimizer.apply({name: gradients(step)[name] for name in names})
        optimizer.apply([None, gradients(3)["gain"]], [variables["half"], variables["gain"]])
        optimizer.apply([])
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        return bits(variables), [member.iterations for member in inner.optimizers]

    alike(3, OPTIMIZERS["rules"], act)


def test_one_skips_for_all() -> None:
    """A NaN in one rank's piece, of a variable whose optimizer looks for it, stops all of them on every rank."""

    def act(optimizer: Any, variables: Any, gradients: Any) -> Any:
        optimizer.build(variables)
        optimizer.apply(gradients(0))
        bad = gradients(1)
        bad["table"][3] = np.nan
        optimizer.apply(bad)
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        counts = [(member.skipped_steps, member.iterations) for member in inner.optimizers]
        assert counts == [(0, 1), (1, 1)]
        return bits(variables), counts, inner.skipped_steps, inner.iterations

    alike(2, lambda: several(fo.SGD(0.1, skip_nonfinite=True), {"kernel": fo.Adam(0.01)}), act)


def test_what_is_assigned_acts_in_the_next_step() -> None:
    def act(optimizer: Any, variables: Any, gradients: Any) -> Any:
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        optimizer.build(variables)
        optimizer.apply(gradients(0))
        inner.optimizers[0].learning_rate = 0.5
        inner.optimizers[1].beta_1 = 0.5
        inner.global_clipnorm = 0.25
        optimizer.apply(gradients(1))
        return bits(variables), optimizer.global_norm

    alike(3, OPTIMIZERS["rules"], act)


def test_averages_become_weights() -> None:
    def act(optimizer: Any, variables: Any, gradients: Any) -> Any:
        optimizer.build(variables)
        for step in range(3):
            optimizer.apply(gradients(step))
        with optimizer.evaluation_weights() as lent:
            inside = bits(lent)
        after = bits(variables)
        optimizer.finalize_variable_values(variables.values())
        return inside, after, bits(variables)

    alike(3, OPTIMIZERS["averages"], act)


def test_excluded_variables_do_not_decay() -> None:
    def new() -> Any:
        default, other = (fo.AdamW(0.01, weight_decay=0.5) for _ in range(2))
        default.exclude_from_weight_decay(var_names=["bias"])
        return several(default, {"kernel|half": other})

    def act(optimizer: Any, variables: Any, gradients: Any) -> Any:
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        inner.optimizers[0].exclude_from_weight_decay([variables["half"], variables["gain"]])
        optimizer.build(variables)
        optimizer.apply(gradients(0))
        return bits(variables)

    alike(3, new, act)


@every_optimizer
def test_one_file_for_any_number_of_ranks(new: Callable[[], Any], tmp_path: Path) -> None:
    """From 3 ranks to 2, which read what the single process writes, and write it, too."""
    pytest.importorskip("safetensors")

    def stage(numbers: range) -> Callable[[Threads], Any]:
        def of_rank(threads: Threads) -> Any:
            optimizer = fo.Sharded(new(), threads)
            variables = ranks.variables()
            optimizer.build(variables)
            if numbers.start:
                optimizer.load(tmp_path / "state")
            for step in numbers:
                zeros = {name: np.zeros_like(g) for name, g in ranks.gradients(0, step).items()}
                optimizer.apply(zeros if threads.rank else ranks.gradients(0, step))
            optimizer.save(tmp_path / "state", variables=True)
            return bits(variables), optimizer.iterations

        return of_rank

    ranks.finished(ranks.run(3, stage(range(3))))
    found = ranks.finished(ranks.run(2, stage(range(3, 5))))
    single = new()
    variables = ranks.variables()
    single.build(variables)
    for step in range(5):
        single.apply(ranks.gradients(0, step))
    assert found == [(bits(variables), single.iterations)] * 2
    single.save(tmp_path / "single", variables=True)
    assert (tmp_path / "state").read_bytes() == (tmp_path / "single").read_bytes()


# Refusals

Guilty = Callable[[Any, dict[str, Any], bool], Any]


def assign(name: str, value: Any, member: int | None = None) -> Guilty:
    def act(optimizer: Any, variables: Any, bad: bool) -> None:
        multi = optimizer.inner_optimizer
        target = multi if member is None else multi.optimizers[member]
        before = getattr(target, name)
        setattr(target, name, value if bad else before)
        try:
            optimizer.apply(ranks.gradients(0, 1))
        finally:
            setattr(target, name, before)

    return act


def apply_without_gain(optimizer: Any, variables: Any, bad: bool) -> None:
    found = ranks.gradients(0, 1)
    optimizer.apply({name: g for name, g in found.items() if not (bad and name == "gain")})


def apply_a_bad_shape(optimizer: Any, variables: Any, bad: bool) -> None:
    optimizer.apply(ranks.gradients(0, 1) | ({"half": np.ones(3)} if bad else {}))


REFUSED: dict[str, tuple[Guilty, str]] = {
    "a gradient": (apply_a_bad_shape, "gradient of variable 4 ('half'): expected shape"),
    "a gradient that is missing": (apply_without_gain, "'gradient of variable 1: none' on rank 1"),
    "the rate of a member": (
        assign("learning_rate", 0.5, 0),
        "'optimizer 0: factor on the variables, by learning_rate and weight_decay: 0.999",
    ),
    "the clip of a member": (assign("clipnorm", 1.0, 1), "'optimizer 1: clipnorm: 1' on rank 1"),
    "the common clip": (assign("global_clipnorm", 1.0), "'global_clipnorm: 1' on rank 1"),
    "who skips": (assign("skip_nonfinite", True), "'skips gradients that are not finite: 1'"),
}


@pytest.mark.parametrize(("act", "part"), REFUSED.values(), ids=REFUSED)
def test_what_one_rank_refuses(act: Guilty, part: str) -> None:
    def of_rank(threads: Threads) -> Any:
        optimizer = fo.Sharded(
            several(fo.SGD(0.1), {"kernel": fo.AdamW(0.01, weight_decay=0.1)}), threads
        )
        variables = ranks.variables()
        optimizer.build(variables)
        optimizer.apply(ranks.gradients(threads.rank, 0))
        before = [*bits(variables), *(array.tobytes() for array in optimizer.variables)]
        with pytest.raises(ValueError) as caught:  # noqa: PT011, the message is compared below
            act(optimizer, variables, threads.rank == 1)
        assert [*bits(variables), *(array.tobytes() for array in optimizer.variables)] == before
        optimizer.apply(ranks.gradients(threads.rank, 1))
        return str(caught.value), bits(variables)

    found = ranks.finished(ranks.run(3, of_rank))
    assert all(part in message for message, _ in found)
    assert found[0][1] == found[1][1] == found[2][1]


def test_maps_that_differ() -> None:
    def of_rank(threads: Threads) -> str:
        key = "kernel" if threads.rank else "table"
        optimizer = fo.Sharded(several(fo.Adam(), {key: fo.SGD()}), threads)
        with pytest.raises(ValueError, match="of optimizer") as caught:
            optimizer.build(ranks.variables())
        assert not optimizer.built
        return str(caught.value)

    for message in ranks.finished(ranks.run(2, of_rank)):
        assert "of shape (40, 100), of optimizer 1' on rank 0" in message


def test_members_take_no_calls() -> None:
    def of_rank(threads: Threads) -> None:
        multi = several(fo.Adam(use_ema=True), {"kernel": fo.SGD()})
        optimizer = fo.Sharded(multi, threads)
        variables = ranks.variables()
        member = multi.optimizers[1]
        with pytest.raises(ValueError, match="on the MultiOptimizer around"):
            member.build({"w": np.ones(3)})
        optimizer.build(variables)
        gradients = ranks.gradients(threads.rank, 0)
        rest = [gradients[name] for name in variables if name != "kernel"]
        calls: list[Callable[[], Any]] = [
            lambda: member.apply(rest),
            lambda: member.finalize_variable_values(variables.values()),
            lambda: member.evaluation_weights().__enter__(),
        ]
        for call in calls:
            with pytest.raises(ValueError, match="on the MultiOptimizer around"):
                call()
        optimizer.apply(gradients)

    ranks.finished(ranks.run(2, of_rank))


def test_an_optimizer_that_is_shared_out_is_no_member() -> None:
    inner = fo.Adam()
    fo.Sharded(inner, Threads(ranks.Group(1), 0))
    with pytest.raises(ValueError, match="neither built nor sharded"):
        fo.Sharded(several(inner, {}), Threads(ranks.Group(1), 0))
