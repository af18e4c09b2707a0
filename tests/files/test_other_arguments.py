"""A load into an optimizer with other arguments than those of the file: one warning, and none if they are the same."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
import ranks
from cases import RULES

pytest.importorskip("safetensors")
COSINE = fo.schedules.CosineDecay


def built(optimizer: Any) -> Any:
    optimizer.build({"kernel": np.ones((3, 2), np.float32), "bias": np.ones(2, np.float32)})
    return optimizer


def multi(momentum: float = 0.9, decay: float = 0.1, scale: float | None = None) -> Any:
    members = {"bias": fo.SGD(COSINE(0.1, 10), momentum=momentum)}
    return fo.MultiOptimizer(fo.OptimizerMap(fo.AdamW(weight_decay=decay), members), scale)


def moved(path: Path, first: Any, second: Any, **how: Any) -> list[str]:
    """Save one, load the file into the other, and return what the warning says of each argument."""
    built(first).save(path)
    with pytest.warns(UserWarning) as caught:
        built(second).load(path, **how)
    (warning,) = caught
    assert warning.filename == __file__
    text = str(warning.message)
    start = (
        f"load: {path!r} was saved with other arguments; those of this optimizer stay in force: "
    )
    assert text.startswith(start)
    return text.removeprefix(start).split(", ")


def test_each_argument_is_named(tmp_path: Path) -> None:
    second = fo.AdamW(COSINE(0.5, 1000), weight_decay=0.9, beta_1=0.1, global_clipnorm=0.01)
    assert moved(tmp_path / "s", fo.AdamW(COSINE(0.1, 10)), second) == [
        "learning_rate.initial_learning_rate 0.5 (in the file 0.1)",
        "learning_rate.decay_steps 1000 (in the file 10)",
        "weight_decay 0.9 (in the file 0.004)",
        "beta_1 0.1 (in the file 0.9)",
        "global_clipnorm 0.01 (in the file None)",
    ]
    assert second.weight_decay == 0.9


def test_another_schedule(tmp_path: Path) -> None:
    second = fo.Adam(fo.schedules.ExponentialDecay(0.1, 10, 0.5))
    assert moved(tmp_path / "s", fo.Adam(COSINE(0.1, 10)), second) == [
        "learning_rate 'ExponentialDecay' (in the file 'CosineDecay')"
    ]


def test_an_option_that_only_configurations_with_it_have(tmp_path: Path) -> None:
    path, caught_up = tmp_path / "s", {"row_updates": "caught_up"}
    assert moved(path, fo.Adam(), fo.Adam(**caught_up)) == [
        "row_updates 'caught_up' (in the file 'lazy')"
    ]
    assert moved(path, fo.Adam(**caught_up), fo.Adam()) == [
        "row_updates 'lazy' (in the file 'caught_up')"
    ]


class Mine(fo.Adam):
    """An optimizer of one's own."""


class Constant(fo.schedules.LearningRateSchedule):
    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate

    def __call__(self, step: int) -> float:
        return self.learning_rate

    def get_config(self) -> dict[str, Any]:
        return {"learning_rate": self.learning_rate}


def test_classes_of_your_own(tmp_path: Path) -> None:
    first, second = Mine(Constant(0.1)), Mine(Constant(0.5), clipnorm=0.5)
    assert moved(tmp_path / "s", first, second) == [
        "learning_rate.learning_rate 0.5 (in the file 0.1)",
        "clipnorm 0.5 (in the file None)",
    ]


def test_inside_wrappers(tmp_path: Path) -> None:
    path = tmp_path / "s"
    assert moved(path, multi(), multi(0.8, 0.2)) == [
        "optimizer_map['bias'].momentum 0.8 (in the file 0.9)",
        "default_optimizer.weight_decay 0.2 (in the file 0.1)",
    ]
    first = fo.LossScaleOptimizer(multi(), initial_scale=8.0)
    second = fo.LossScaleOptimizer(multi(0.8), dynamic_growth_steps=5)
    assert moved(path, first, second) == [
        "inner_optimizer.optimizer_map['bias'].momentum 0.8 (in the file 0.9)",
        "dynamic_growth_steps 5 (in the file 2000)",
    ]


def same(**arguments: Any) -> Callable[[], Any]:
    return lambda: fo.AdamW(**arguments)


class Plateau(fo.schedules.LearningRateSchedule):
    def __init__(self, rates: Any, inner: Any = None) -> None:
        self.rates, self.inner = rates, inner

    def __call__(self, step: int) -> float:
        return 0.1

    def get_config(self) -> dict[str, Any]:
        return {"rates": self.rates, "inner": self.inner}


def shared(member: Any) -> Any:
    return fo.MultiOptimizer(fo.OptimizerMap(fo.SGD(), {"bias": member, "kernel": member}))


SAME: dict[str, Callable[[], Any]] = {
    **{rule: getattr(fo, rule) for rule in RULES},
    "schedule": same(
        learning_rate=COSINE(np.float32(0.1), np.int64(7), warmup_target=1, warmup_steps=2)
    ),
    "own schedule": same(learning_rate=Plateau((0.1, np.float32(2)), COSINE(0.1, 3))),
    "callables": lambda: fo.Adam(lambda: 0.1, beta_1=lambda: 0.5),
    "products": lambda: fo.Muon(matrix_product=lambda a, b, out: np.matmul(a, b, out=out)),
    "options": same(use_ema=True, ema_momentum=0.5, clipvalue=np.float64(0.1), amsgrad=True),
    "keywords": same(skip_nonfinite=True, slot_dtype="bfloat16", seed=3),
    "rows": same(row_updates="caught_up"),
    "accumulation": same(gradient_accumulation_steps=4, loss_scale_factor=8.0),
    "multi": lambda: multi(scale=4.0),
    "loss scale": lambda: fo.LossScaleOptimizer(multi(), initial_scale=4.0),
    "one for two keys": lambda: shared(fo.Adam()),
}


@pytest.mark.parametrize("make", SAME.values(), ids=SAME)
def test_the_same_arguments(make: Callable[[], Any], tmp_path: Path) -> None:
    first = built(make())
    first.apply([np.ones((3, 2), np.float32), np.ones(2, np.float32)])
    first.save(tmp_path / "s")
    built(make()).load(tmp_path / "s")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (fo.Adam(0.1, name="a"), fo.Adam(0.5, name="b")),  # the file has the rate
        (fo.Adam(0.1, weight_decay=0.0), fo.Adam(0.1)),
        (fo.Adam(0.1, ema_overwrite_frequency=0), fo.Adam(0.1)),
        (fo.Adam(COSINE(0.1, 10, name="a")), fo.Adam(COSINE(0.1, 10))),
        (fo.Adam(COSINE(0.1, 10)), fo.Adam(lambda: 0.1)),
        (fo.Adam(beta_1=lambda: 0.5), fo.Adam()),
        (fo.LossScaleOptimizer(fo.SGD(), 4.0), fo.LossScaleOptimizer(fo.SGD())),
        (fo.Adam(slot_dtype="bfloat16", seed=1), fo.Adam(slot_dtype="bfloat16", seed=2)),
    ],
)
def test_what_is_not_compared(first: Any, second: Any, tmp_path: Path) -> None:
    built(first).save(tmp_path / "s")
    built(second).load(tmp_path / "s")


def test_what_is_converted_is_not_compared(tmp_path: Path) -> None:
    path = tmp_path / "s"
    built(fo.Adam(slot_dtype="bfloat16")).save(path)
    built(fo.Adam()).load(path, convert_slots=True)
    built(fo.Adam(beta_1=0.5)).load(path, strict=False)


def test_a_description_without_an_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As files of other versions have it."""
    path = tmp_path / "s"
    first = built(fo.Adam())
    whole = first._description()
    for config in (
        {name: value for name, value in whole["config"].items() if name != "epsilon"},
        {**whole["config"], "new": 5},
        None,
    ):
        monkeypatch.setattr(first, "_description", lambda c=config: {**whole, "config": c})
        first.save(path)
        built(fo.Adam()).load(path)


def test_nothing_is_loaded_if_the_warning_is_an_error(tmp_path: Path) -> None:
    first, second = built(fo.Adam()), built(fo.Adam(beta_1=0.5))
    first.apply([np.ones((3, 2)), np.ones(2)])
    first.save(tmp_path / "s")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="beta_1 0.5"):
            second.load(tmp_path / "s")
    assert second.iterations == 0


def test_files_of_ranks(tmp_path: Path) -> None:
    def work(communicator: Any, decay: float, path: Path) -> None:
        optimizer = fo.Sharded(fo.AdamW(COSINE(0.1, 10), weight_decay=decay), communicator)
        built(optimizer).save(path, per_rank=True)
        optimizer.load(path)

    path = tmp_path / "s"
    ranks.finished(ranks.run(2, lambda c: work(c, 0.1, path)))
    built(fo.AdamW(COSINE(0.1, 10), weight_decay=0.1)).load(path)
    with pytest.warns(UserWarning, match="weight_decay 0.2 .in the file 0.1"):
        built(fo.AdamW(COSINE(0.1, 10), weight_decay=0.2)).load(path)


def test_a_fresh_process(tmp_path: Path) -> None:
    program = f"""
import numpy as np, fusedopt as fo, os
path = {str(tmp_path / "s")!r}
inner = fo.OptimizerMap(fo.AdamW(fo.schedules.CosineDecay(0.1, 10), clipnorm=1.0), {{"b": fo.Lion(beta_1=lambda: 0.5)}})
optimizer = fo.LossScaleOptimizer(fo.MultiOptimizer(inner))
optimizer.build({{"w": np.ones(3), "b": np.ones(2)}})
if os.path.exists(path):
    optimizer.load(path)
optimizer.apply([np.ones(3), np.ones(2)])
optimizer.save(path)
"""
    for _ in range(2):
        subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", program], check=True)


# Refusals say what to do.


def test_a_refused_load_names_the_option_and_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "s"
    built(fo.AdamW()).save(path)
    for option, value in {
        "use_ema": True,
        "amsgrad": True,
        "gradient_accumulation_steps": 2,
    }.items():
        with pytest.raises(
            ValueError, match=f"make the optimizer with the same {option}; load"
        ) as no:
            built(fo.AdamW(**{option: value})).load(path)
        assert str(no.value).endswith("; load(path, strict=False) takes what fits")
        built(fo.AdamW(**{option: value})).load(path, strict=False)
    other = fo.AdamW()
    other.build({"kernel": np.ones((3, 2), np.float32)})
    with pytest.raises(ValueError, match=r"unknown: \['.*'\]; load\(path, strict=False\) takes"):
        other.load(path)
    other = fo.AdamW()
    other.build({"kernel": np.ones((3, 5), np.float32), "bias": np.ones(2, np.float32)})
    with pytest.raises(ValueError, match=r"found F32 of shape \(3, 2\); load\(path, strict=False"):
        other.load(path)
    with pytest.raises(
        ValueError, match="found that of AdamW; load.*takes what fits, the slots too"
    ):
        built(fo.Adam()).load(path)
    with pytest.raises(ValueError, match="found that of AdamW; load.*averages, without the slots"):
        built(fo.SGD()).load(path)
