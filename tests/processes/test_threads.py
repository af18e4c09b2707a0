"""Threads of the library and of Python: their number changes no bit, and nobody waits for ever."""

from __future__ import annotations

import functools
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import fusedopt as fo
import numpy as np
import numpy.typing as npt
import pytest
from cases import VARIANTS, Case
from machine import COUNTS, LARGE, TWO, in_threads, python
from reference import Array
from selection import first


def numbers(size: int, dtype: npt.DTypeLike, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(size, np.float32).astype(dtype)


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: fo.SGD(momentum=0.9, nesterov=True, global_clipnorm=1.0),
    "rmsprop": lambda: fo.RMSprop(momentum=0.5, centered=True, clipvalue=0.5),
    "adamw": lambda: fo.AdamW(amsgrad=True, clipnorm=1.0, use_ema=True, ema_overwrite_frequency=2),
    "accumulation": lambda: fo.Adam(gradient_accumulation_steps=2, global_clipnorm=1.0),
    "loss_scale": lambda: fo.LossScaleOptimizer(
        fo.Adam(global_clipnorm=1.0, use_ema=True), initial_scale=8.0, dynamic_growth_steps=1
    ),
}
SIZES: dict[str, list[int]] = {
    "mixed": [1, LARGE, 0, 77, 1024, 40_000, 3, 2048],
    "one": [LARGE],
    "many": [501] * 400,
}


@functools.lru_cache(maxsize=2)
def four_steps(sizes: tuple[int, ...], dtype: str) -> list[list[Array]]:
    """The gradients of four steps: those of the second are strided."""
    steps = [[numbers(n, dtype, 1000 * s + i) for i, n in enumerate(sizes)] for s in range(4)]
    steps[1] = [np.repeat(gradient, 2)[::2] for gradient in steps[1]]
    return steps


def run(make: Callable[[], Any], sizes: list[int], dtype: str, threads: int) -> list[bytes]:
    fo.set_num_threads(threads)
    optimizer = make()
    variables = [numbers(size, dtype, seed) for seed, size in enumerate(sizes)]
    optimizer.build(variables)
    for step, gradients in enumerate(four_steps(tuple(sizes), dtype)):
        if step == 2:  # a loss scale skips this one; others clip it
            gradients[-1][-1:] = np.inf if hasattr(optimizer, "dynamic_scale") else 100.0
        optimizer.apply(gradients)
    arrays = [*variables, *optimizer.variables]
    return [repr(optimizer.global_norm).encode(), *(array.tobytes() for array in arrays)]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("sizes", first(1, SIZES.values()), ids=SIZES)
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_result_does_not_depend_on_threads(
    make: Callable[[], Any], sizes: list[int], dtype: str
) -> None:
    expected = run(make, sizes, dtype, 1)
    for threads in COUNTS:
        assert run(make, sizes, dtype, threads) == expected, f"{threads} threads"


KINDS = ["float32", "float32", "float32", "float64", "float16", "float64", "float16", "float32"] * 4
SHAPES = [
    (96, 130) if i % 5 == 4 else (3, 5) if i % 7 == 5 else (int(n),)
    for i, n in enumerate(np.random.default_rng(0).choice([0, 1, 16, 1024, 1025, 9000], len(KINDS)))
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_variables_do_not_depend_on_their_company(variant: Case) -> None:
    """Variables of every kind share a sweep, and each comes out as it does beside one number only."""
    count = len(KINDS)
    number = np.zeros(1, np.float32)

    def built(members: list[int]) -> tuple[Any, list[Array]]:
        arrays = [
            np.asarray(numbers(int(np.prod(SHAPES[i])), KINDS[i], i)).reshape(SHAPES[i])
            for i in members
        ]
        optimizer = getattr(fo, variant.rule)(
            **variant.arguments,
            clipnorm=1.0,
            use_ema=True,
            ema_overwrite_frequency=2,
            gradient_accumulation_steps=2,
        )
        optimizer.exclude_from_weight_decay(
            [array for i, array in zip(members, arrays, strict=True) if i % 2]
        )
        optimizer.build([*arrays, number.copy()])
        return optimizer, arrays

    together = {threads: built([*range(1, count), 0]) for threads in [1, *COUNTS]}
    alone = {i: built([i]) for i in [*range(1, count), 0]}
    for step in range(8):
        gradients: list[Any] = [
            numbers(int(np.prod(SHAPES[i])), "float32", 100 * step + i).reshape(SHAPES[i])
            for i in alone
        ]
        if step % 4 > 1:
            gradients[step :: step + 1] = [None] * len(gradients[step :: step + 1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of gradients that are None
            for threads, (optimizer, _) in together.items():
                fo.set_num_threads(threads)
                optimizer.apply([*gradients, number])
            for (optimizer, _), gradient in zip(alone.values(), gradients, strict=True):
                optimizer.apply([gradient, number])
    for threads, (_, ours) in together.items():
        for i, mine in zip(alone, ours, strict=True):
            (expected,) = alone[i][1]
            assert mine.tobytes() == expected.tobytes(), f"variable {i}, {threads} threads"


# Threads of Python


@pytest.mark.parametrize("size", [50, LARGE])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_two_optimizers_in_parallel(make: Callable[[], Any], size: int) -> None:
    fo.set_num_threads(TWO)
    gradients = [numbers(size, np.float32, seed) for seed in range(5)]

    def result(indices: list[int], *, at_once: bool) -> list[bytes]:
        variables = [numbers(size, np.float32, 10 + i) for i in indices]
        optimizers = [make() for _ in indices]
        for optimizer, w in zip(optimizers, variables, strict=True):
            optimizer.build([w])

        def steps(index: int) -> None:
            for _ in range(4):
                for gradient in gradients:
                    optimizers[index].apply([gradient])

        if at_once:
            in_threads(len(indices), steps)
        else:
            for i in range(len(indices)):
                steps(i)
        return [
            array.tobytes()
            for w, optimizer in zip(variables, optimizers, strict=True)
            for array in (w, *optimizer.variables)
        ]

    assert result([0, 1, 2], at_once=True) == result([0, 1, 2], at_once=False)


@pytest.mark.parametrize(("size", "steps"), [(50, 200), (LARGE, 6)])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_one_optimizer_in_several_threads(make: Callable[[], Any], size: int, steps: int) -> None:
    fo.set_num_threads(TWO)
    gradient = numbers(size, np.float32, 3)

    def result(threads: int, steps: int) -> list[bytes]:
        w = numbers(size, np.float32, 4)
        optimizer = make()
        optimizer.build([w])

        def body(_: int) -> None:
            for _ in range(steps):
                optimizer.apply([gradient])

        in_threads(threads, body)
        return [w.tobytes(), *(array.tobytes() for array in optimizer.variables)]

    assert result(4, steps) == result(1, 4 * steps)


def test_learning_rate_function_in_several_threads() -> None:
    seen: list[int] = []

    class Count(fo.schedules.LearningRateSchedule):
        def __call__(self, step: int) -> float:
            seen.append(step)
            return 0.5

    w = np.zeros(3)
    optimizer = fo.SGD(learning_rate=Count())
    optimizer.build([w])

    def body(_: int) -> None:
        for _ in range(100):
            optimizer.apply([np.ones(3)])
            assert optimizer.learning_rate == 0.5

    in_threads(4, body)
    assert w.tolist() == [-200.0] * 3
    assert optimizer.iterations == 400
    assert set(seen) == set(range(401))


# A learning-rate function waits for the interpreter's lock while its optimizer is locked, so nobody may
# wait for the optimizer's lock while holding the interpreter's.
READERS = {
    "wrap": "fo.LossScaleOptimizer(optimizer)",
    "build": "optimizer.build([w])",
    "state": "optimizer.built, optimizer.iterations, optimizer.global_norm, repr(optimizer)",
    "learning_rate": "optimizer.learning_rate = lambda: 0.5",
    "variables": "optimizer.set_weights(optimizer.variables)",
    "config": "optimizer.get_config(), optimizer.save_own_variables({})",
    "apply": "optimizer.apply([np.ones(3)], [w])",
    "finalize": "optimizer.finalize_variable_values([w])",
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_function_does_not_lock_up_with_other_threads(reader: str) -> None:
    program = f"""
import threading, time
import numpy as np
import fusedopt as fo

def rate():
    time.sleep(0.0001)
    return 0.5

w = np.zeros(3)
optimizer = fo.SGD(learning_rate=rate)
optimizer.build([w])
stop = False

def step():
    while not stop:
        optimizer.apply([np.ones(3)])

stepping = threading.Thread(target=step)
stepping.start()
for _ in range(200):
    time.sleep(0.0001)
    {reader}
stop = True
stepping.join()
print(optimizer.iterations > 0)
"""
    assert python(program, timeout=30) == ["True"]


def test_lock_of_the_interpreter_is_released_during_a_step() -> None:
    fo.set_num_threads(1)
    w = np.zeros((2000, 1500), np.float32)
    gradient = np.ones((1500, 2000), np.float32).T  # gathered element by element, so it takes long
    optimizer = fo.Adam()
    optimizer.build([w])
    optimizer.apply([gradient])
    ticks: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0002)

    other = threading.Thread(target=tick)
    other.start()
    seen = []
    for _ in range(20):
        begin = time.perf_counter()
        optimizer.apply([gradient])
        end = time.perf_counter()
        quarter = (end - begin) / 4
        seen.append(any(begin + quarter < t < end - quarter for t in list(ticks)))
    stop.set()
    other.join()
    assert sum(seen) >= 10, "another thread ran in the middle of most steps"
