"""Variables whose library moves their memory: they are followed, or refused before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fusedopt as fo
import ml_dtypes
import numpy as np
import pytest
from reference import Array

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "adam": lambda: fo.Adam(learning_rate=0.1, use_ema=True),
    "accumulation": lambda: fo.SGD(learning_rate=0.1, momentum=0.5, gradient_accumulation_steps=2),
    "schedule_free": lambda: fo.ScheduleFreeAdamW(learning_rate=0.1),
    "adafactor": lambda: fo.Adafactor(learning_rate=0.1, use_ema=True),
    "loss_scale": lambda: fo.LossScaleOptimizer(fo.AdamW(0.1, use_ema=True), initial_scale=4.0),
    "multi": lambda: fo.MultiOptimizer(fo.OptimizerMap(fo.Lion(0.1), {"b": fo.Adam(0.1)})),
    "loss_scale_of_multi": lambda: fo.LossScaleOptimizer(
        fo.MultiOptimizer(fo.OptimizerMap(fo.Lamb(0.1), {"b": fo.Adam(0.1)})), initial_scale=4.0
    ),
}
DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]

every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


class Tensor:
    """Gives its memory by __array__."""

    def __init__(self, values: Array) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return self.values

    def move(self) -> Array:
        """Take other memory with the same values; return the old one."""
        old, self.values = self.values, self.values.copy()
        return old


def values(dtype: Any = np.float32) -> list[Array]:
    return [np.linspace(-1, 1, 12).reshape(3, 4).astype(dtype), np.arange(1, 6).astype(dtype)]


def gradients(step: int) -> list[Array]:
    return [np.full((3, 4), 0.5 - step, np.float32), np.linspace(-1, step, 5, dtype=np.float32)]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@every_optimizer
def test_steps_go_on_in_the_new_memory(make: Callable[[], Any], dtype: Any) -> None:
    tensors, others = [Tensor(w) for w in values(dtype)], values(dtype)
    optimizer, other = make(), make()
    optimizer.build(dict(zip("ab", tensors, strict=True)))
    other.build(dict(zip("ab", others, strict=True)))
    old: list[Array] = []
    for step in range(6):
        moved = [] if step == 0 else tensors[step % 2 :]
        old += [tensor.move() for tensor in moved]
        left = [w.tobytes() for w in old]
        match step:
            case 1:
                optimizer.apply({"b": gradients(step)[1], "a": gradients(step)[0]})
            case 2:
                optimizer.apply(gradients(step)[::-1], tensors[::-1])
            case _:
                optimizer.apply(gradients(step))
        other.apply(gradients(step))
        assert [w.tobytes() for w in old] == left
        for tensor, w in zip(tensors, others, strict=True):
            assert tensor.values.tobytes() == w.tobytes()
        for found, expected in zip(optimizer.variables, other.variables, strict=True):
            assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_what_the_new_memory_holds_counts(dtype: Any) -> None:
    tensor = Tensor(np.ones(2, dtype))
    optimizer = fo.SGD(learning_rate=1.0)
    optimizer.build([tensor])
    optimizer.apply([np.full(2, 0.5)])
    tensor.values = np.full(2, 8.0, dtype)
    optimizer.apply([np.full(2, 0.5)])
    assert tensor.values.astype(float).tolist() == [7.5, 7.5]


@every_optimizer
def test_everything_else_follows(make: Callable[[], Any], tmp_path: Path) -> None:
    tensors = [Tensor(w) for w in values()]
    optimizer = make()
    optimizer.build(dict(zip("ab", tensors, strict=True)))
    optimizer.apply(gradients(0))
    tensors[0].move()
    optimizer.save(tmp_path / "file", variables=True)
    kept = tensors[0].values.copy()
    tensors[0].values[...] = 5.0
    tensors[0].move()
    optimizer.load(tmp_path / "file")
    assert np.array_equal(tensors[0].values, kept)
    tensors[1].move()
    optimizer.build(dict(zip("ab", tensors, strict=True)))
    tensors[1].move()
    new = np.ones(2, np.float32)
    optimizer.build({"a": tensors[0], "b": tensors[1], "new": new})
    tensors[0].move()
    optimizer.apply([*gradients(1), np.ones(2)])
    tensors[0].move()
    optimizer.finalize_variable_values([*tensors, new])


@pytest.mark.parametrize("kind", ["adam", "schedule_free", "loss_scale"])
def test_weights_in_training_come_back_into_the_new_memory(kind: str) -> None:
    tensors = [Tensor(w) for w in values()]
    optimizer = OPTIMIZERS[kind]()
    optimizer.build(tensors)
    for step in range(3):
        optimizer.apply(gradients(step))
    training = [tensor.values.copy() for tensor in tensors]
    with optimizer.evaluation_weights():
        old = tensors[0].move()
        lent = old.copy()
        with pytest.raises(ValueError, match="lent to an evaluation"):
            optimizer.apply(gradients(3))
        tensors[1].move()
    assert np.array_equal(old, lent)
    for tensor, before in zip(tensors, training, strict=True):
        assert np.array_equal(tensor.values, before)
    optimizer.apply(gradients(3))


def test_weights_in_training_that_cannot_come_back() -> None:
    tensor = Tensor(np.ones(2))
    optimizer = fo.SGD(use_ema=True)
    optimizer.build([tensor])
    optimizer.apply([np.ones(2)])
    with (
        pytest.raises(
            ValueError, match=r"^evaluation_weights: variable 0: .* cannot be brought back$"
        ),
        optimizer.evaluation_weights(),
    ):
        tensor.values = np.ones(3)


@every_optimizer
def test_variables_may_change_places_but_not_share_one(make: Callable[[], Any]) -> None:
    a, b = Tensor(np.zeros(4)), Tensor(np.zeros(4))
    optimizer = make()
    optimizer.build({"a": a, "b": b})
    gradient = [np.ones(4), np.zeros(4)]
    optimizer.apply(gradient)
    a.values, b.values = b.values, a.values
    optimizer.apply(gradient)
    kept = a.values
    for shared in (b.values, b.values.base if b.values.base is not None else b.values[:]):
        a.values = shared
        before = [x.tobytes() for x in (kept, b.values, *optimizer.variables)]
        with pytest.raises(ValueError, match=r"^variable 1 \('b'\): expected memory of its own"):
            optimizer.apply(gradient)
        assert [x.tobytes() for x in (kept, b.values, *optimizer.variables)] == before
    a.values = optimizer.variables[2][...] if optimizer.variables[2].shape == (4,) else kept
    if a.values is not kept:
        with pytest.raises(ValueError, match=r"apart from the optimizer's state"):
            optimizer.apply(gradient)
    a.values = kept
    optimizer.apply(gradient)


def test_an_object_that_begins_to_give_copies_is_refused() -> None:
    class Changing(Tensor):
        copies = False

        def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
            return self.values.copy() if self.copies else self.values

    tensor = Changing(np.ones(2))
    optimizer = fo.SGD()
    optimizer.build([tensor])
    tensor.copies = True
    with pytest.raises(TypeError, match="gives a new copy each time"):
        optimizer.apply([np.ones(2)])
    assert tensor.values.tolist() == [1.0, 1.0]


def test_exclusions_follow() -> None:
    tensor, other = Tensor(np.ones(2)), Tensor(np.ones(2))
    optimizer = fo.AdamW(learning_rate=0.5, weight_decay=0.5)
    optimizer.exclude_from_weight_decay([tensor])
    tensor.move()
    optimizer.build([tensor, other])
    tensor.move()
    optimizer.apply([np.zeros(2)] * 2)
    tensor.move()
    with pytest.raises(ValueError, match="found the optimizer built"):
        optimizer.exclude_from_weight_decay([tensor])
    new = np.ones(2)
    optimizer.build([tensor, other, new])
    optimizer.apply([np.zeros(2)] * 3)
    assert tensor.values.tolist() == [1.0, 1.0]
    assert other.values.tolist() == [0.5625, 0.5625]
    assert new.tolist() == [0.75, 0.75]


def test_a_gradient_under_the_new_memory_is_refused() -> None:
    tensor, gradient = Tensor(np.ones(2)), np.ones(2)
    optimizer = fo.SGD()
    optimizer.build([tensor])
    optimizer.apply([gradient])
    tensor.values = gradient
    with pytest.raises(ValueError, match="expected memory apart from the variables"):
        optimizer.apply([gradient])


def test_copies_have_what_the_new_memory_holds() -> None:
    import copy

    tensor = Tensor(np.ones(2))
    optimizer = fo.SGD(learning_rate=1.0)
    optimizer.build([tensor])
    tensor.values = np.full(2, 5.0)
    copied = copy.deepcopy(optimizer)
    copied.apply([np.ones(2)])
    assert tensor.values.tolist() == [5.0, 5.0]
    assert copied._core.arrays[0].tolist() == [4.0, 4.0]
