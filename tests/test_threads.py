"""Threads, forks, the interpreter's lock and the floating-point state: nobody else notices a step."""

from __future__ import annotations

import functools
import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import numpy.typing as npt
import pytest
from cases import VARIANTS, Case
from selection import first

Array = npt.NDArray[Any]

HAS_THREADS = fo.show_config()["openmp"]
COUNTS = [2, 3, 5, 16] if HAS_THREADS else [1]
TWO = 2 if HAS_THREADS else 1
LARGE = 300_001  # elements; enough for several threads, and no whole number of tiles
SETTINGS = ("FUSEDOPT_NUM_THREADS", "OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "OMP_DYNAMIC")


@pytest.fixture(autouse=True)
def same_number_of_threads_afterwards() -> Iterator[None]:
    before = fo.get_num_threads()
    yield
    fo.set_num_threads(before)


def python(program: str, settings: dict[str, str] | None = None, timeout: int = 120) -> list[str]:
    """Run a program with just these settings of threads and return the words it prints."""
    environment = {k: v for k, v in os.environ.items() if k not in SETTINGS}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env=environment | (settings or {}),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def numbers(size: int, dtype: npt.DTypeLike, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(size, np.float32).astype(dtype)


# The number of threads changes no bit

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


@pytest.mark.parametrize("threads", COUNTS)
def test_number_of_threads_is_kept(threads: int) -> None:
    fo.set_num_threads(threads)
    assert fo.get_num_threads() == threads
    config = fo.show_config()
    assert (config["threads"], config["threads_from"]) == (threads, "set_num_threads")


@pytest.mark.parametrize("count", [np.int64(1), np.uint8(1)])
def test_number_of_threads_is_any_integer(count: Any) -> None:
    fo.set_num_threads(count)
    assert fo.get_num_threads() == 1


# Python threads


def in_threads(count: int, body: Callable[[int], None]) -> None:
    """Run body(0), body(1) ... at the same time and raise what any of them raised."""
    start = threading.Barrier(count)

    def begin(index: int) -> None:
        start.wait(timeout=60)
        body(index)

    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(begin, index) for index in range(count)]:
            future.result(timeout=60)


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


# Threads of the system

COUNT_THREADS = """
import os, subprocess, sys, threading
def count_threads():
    if os.path.isdir("/proc/self/task"):
        return len(os.listdir("/proc/self/task"))
    if sys.platform == "darwin":
        ps = ["ps", "-M", "-p", str(os.getpid())]
        return len(subprocess.run(ps, capture_output=True, check=True).stdout.splitlines()) - 1
    return threading.active_count()
"""


def test_import_starts_no_thread() -> None:
    program = f"""{COUNT_THREADS}
import numpy as np
locked = getattr(sys, "_is_gil_enabled", bool)
before = count_threads(), locked()
import fusedopt as fo
print((count_threads(), locked()) == before)
optimizer = fo.Adam()
optimizer.build([np.zeros(1000)])
optimizer.apply([np.zeros(1000)])
print(count_threads() == before[0])
fo.set_num_threads({TWO})
print(count_threads() == before[0])
large = fo.SGD()
large.build([np.zeros({LARGE})])
large.apply([np.zeros({LARGE})])
seen = count_threads() - before[0]
print(seen == {TWO - 1} or not os.path.isdir("/proc/self/task"))
"""
    assert python(program) == ["True"] * 4


SHOW = """
import fusedopt as fo
config = fo.show_config()
print(config["threads"], config["threads_from"].replace(" ", "_"), fo.get_num_threads())
"""


@pytest.mark.parametrize(
    ("settings", "count", "source"),
    [
        ({"OMP_NUM_THREADS": "3"}, 3, "OMP_NUM_THREADS"),
        ({"FUSEDOPT_NUM_THREADS": "3"}, 3, "FUSEDOPT_NUM_THREADS"),
        ({"FUSEDOPT_NUM_THREADS": "2", "OMP_NUM_THREADS": "5"}, 2, "FUSEDOPT_NUM_THREADS"),
        ({"FUSEDOPT_NUM_THREADS": "", "OMP_NUM_THREADS": "5"}, 5, "OMP_NUM_THREADS"),
        ({"OMP_NUM_THREADS": "4,2"}, 4, "OMP_NUM_THREADS"),
        ({"FUSEDOPT_NUM_THREADS": "1"}, 1, "FUSEDOPT_NUM_THREADS"),
    ],
    ids=str,
)
def test_number_of_threads_comes_from_the_environment(
    settings: dict[str, str], count: int, source: str
) -> None:
    expected = [str(count), source] if HAS_THREADS else ["1", "built_without_threads"]
    assert python(SHOW, settings) == [*expected, expected[0]]


def test_set_num_threads_comes_before_the_environment() -> None:
    program = f"import fusedopt as fo; fo.set_num_threads({TWO}){SHOW}"
    found = python(program, {"FUSEDOPT_NUM_THREADS": "7", "OMP_NUM_THREADS": "5"})
    assert found == [str(TWO), "set_num_threads", str(TWO)]


def test_number_of_threads_respects_affinity() -> None:
    program = f"""
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
{SHOW}
print(os.cpu_count())
"""
    count, source, _, processors = python(program)
    most = 1 if hasattr(os, "sched_setaffinity") else int(processors)
    assert 1 <= int(count) <= most
    assert source in ("processors", "control_group_quota", "built_without_threads")


# Forks

STEPS = f"""
import numpy as np
import fusedopt as fo

def steps(optimizer=None, w=None):
    if optimizer is None:
        w = np.linspace(-1.0, 1.0, {LARGE})
        optimizer = fo.LossScaleOptimizer(fo.Adam(global_clipnorm=1.0))
        optimizer.build([w])
    for step in range(3):
        optimizer.apply([np.cos(w) * step])
    return w.tobytes()
"""
FORKED = f"""{STEPS}
import os
fo.set_num_threads({TWO})
started = w = np.linspace(-1.0, 1.0, {LARGE})
optimizer = fo.Adam()
optimizer.build([w])
expected = steps()
steps(optimizer, w)

def child(depth):
    assert fo.get_num_threads() == 1
    assert fo.show_config()["threads"] == 1
    assert steps() == expected
    fo.set_num_threads({TWO})
    assert fo.get_num_threads() == 1
    os.write(1, str(hash(steps(optimizer, w))).encode() + b" ")
    if depth:
        fork(depth - 1)

def fork(depth):
    pid = os.fork()
    if pid == 0:
        try:
            child(depth)
        except BaseException as error:
            os.write(1, repr(error).encode())
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

fork(depth=1)
assert steps() == expected
assert fo.get_num_threads() == {TWO}
fork(depth=0)
print(hash(steps(optimizer, w)))
"""

if hasattr(os, "fork"):

    def test_child_forked_after_a_threaded_step() -> None:
        first, grandchild, second, parent = python(FORKED, {"PYTHONHASHSEED": "0"})
        assert first == second == parent
        assert grandchild.lstrip("-").isdigit()
        assert grandchild != first

    def test_child_forked_before_a_threaded_step() -> None:
        program = f"""{STEPS}
import os
fo.set_num_threads({TWO})
small = fo.SGD()
small.build([np.zeros(10)])
small.apply([np.zeros(10)])
pid = os.fork()
if pid == 0:
    print(fo.get_num_threads(), hash(steps()), flush=True)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
print(fo.get_num_threads(), hash(steps()))
"""
        one, two = (python(program, {"PYTHONHASHSEED": "0"})[i : i + 2] for i in (0, 2))
        assert one == two
        assert one[0] == str(TWO)


# A process may have a team of threads on the OpenMP run time of the extension that the extension did not start.
STEPS_AFTER_A_TEAM_OF_OTHERS = f"""
import ctypes, os, re, signal, sys, threading
import numpy as np
import fusedopt as fo

fo.set_num_threads({TWO})
gradient = np.cos(np.arange(1_000_000.0))

def start_team():
    with open("/proc/self/maps") as maps:
        paths = sorted(set(re.findall(r"/\\S*libgomp\\S*", maps.read())))
    run_time = ctypes.CDLL(paths[0])
    # Any function of C that takes or ignores a pointer will do.
    run_time.GOMP_parallel(ctypes.CDLL(None).getpid, None, 2, 0)

def fork(then):
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)  # a hang becomes a death by signal
        then()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert status == 0, status

def steps():
    w = np.ones(1_000_000)
    optimizer = fo.LossScaleOptimizer(fo.Adam())
    optimizer.build([w])
    for _ in range(3):
        optimizer.apply([gradient])
    print(hash(w.tobytes()), fo.get_num_threads(), flush=True)
"""

if hasattr(os, "fork"):

    @pytest.mark.skipif(
        not Path("/proc/self/maps").exists()
        or "libgomp" not in Path("/proc/self/maps").read_text(encoding="utf-8"),
        reason="looks for GCC's OpenMP run time in Linux's list of mappings",
    )
    @pytest.mark.parametrize(
        "forks",
        [
            "fork(steps)",
            "fork(lambda: fork(steps))",
            "fork(lambda: (steps(), fork(steps)))",
            "fork(lambda: in_thread(steps))",
            "in_thread(lambda: fork(steps))",
            "fork(lambda: in_thread(lambda: fork(steps)))",
        ],
    )
    def test_child_forked_after_a_team_of_others(forks: str) -> None:
        program = f"""{STEPS_AFTER_A_TEAM_OF_OTHERS}
def in_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()

start_team()
{forks}
steps()
"""
        words = python(program, {"PYTHONHASHSEED": "0"})
        assert len(words) >= 4
        assert len(set(words[::2])) == 1
        assert words[1] == str(TWO)


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_pool_of_processes_after_a_threaded_step(method: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"""{STEPS}
import multiprocessing

def work(_):
    return steps(), fo.get_num_threads()

if __name__ == "__main__":
    fo.set_num_threads({TWO})
    expected = steps()
    with multiprocessing.get_context("{method}").Pool(2) as pool:
        results = pool.map_async(work, range(4)).get(timeout=60)
    assert steps() == expected
    print(*(result == expected for result, _ in results))
    print(*(threads for _, threads in results))
"""
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert words[:4] == ["True"] * 4
    if method == "fork":
        assert words[4:] == ["1"] * 4


# The floating-point state


@pytest.mark.parametrize("threads", [1, TWO])
@pytest.mark.parametrize("size", [5, LARGE])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_subnormals_are_flushed_in_a_step_and_nowhere_else(
    dtype: str, size: int, threads: int
) -> None:
    fo.set_num_threads(threads)
    tiny = np.finfo(dtype).tiny
    w, x = np.zeros(size, dtype), np.zeros(size, dtype)
    flushing, keeping = fo.SGD(learning_rate=0.25), fo.SGD(learning_rate=0.25)
    flushing.build([w])
    keeping.build([x])
    for _ in range(2):
        flushing.apply([np.full(size, 2 * tiny, dtype)])  # 0.5 tiny, a subnormal
        keeping.apply([np.full(size, 4 * tiny, dtype)])
        half = np.full(size, tiny, dtype) * np.array(0.5, dtype)
        assert (half > 0).all(), "the caller's own arithmetic keeps subnormals"
        assert (half + half == tiny).all()
    assert not w.any()
    assert (x == -2 * tiny).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda o, g: o.apply([g]),
        lambda o, g: o.apply([g * np.inf]),
        lambda o, g: o.apply([g[:3]]),
        lambda o, g: o.apply([None]),
        lambda o, g: o.finalize_variable_values([g]),
        lambda o, g: o.set_weights(o.variables),
        lambda o, g: o.stateless_apply(o.variables, [g], [g]),
    ],
    ids=["step", "skipped", "refused", "none", "wrong", "weights", "stateless"],
)
def test_state_is_restored_after_every_call(call: Callable[[Any, Array], Any]) -> None:
    optimizer = fo.LossScaleOptimizer(fo.Adam(use_ema=True, clipnorm=1.0))
    optimizer.build([np.ones(LARGE)])
    raised: list[str] = []
    with np.errstate(all="ignore"):
        try:
            call(optimizer, np.ones(LARGE))
        except ValueError as error:
            raised.append(str(error))
    smallest = np.array([5e-324])
    assert (smallest * 1.0)[0] > 0.0
    assert (np.array([1e-45], np.float32) * np.float32(1.0))[0] > 0.0
    assert all("expected" in message or "gradients" in message for message in raised)


def test_state_of_other_threads() -> None:
    results: list[bool] = []

    def body(_: int) -> None:
        optimizer = fo.Adam()
        optimizer.build([np.ones(LARGE)])
        optimizer.apply([np.ones(LARGE)])
        results.append(bool((np.array([5e-324]) * 1.0)[0] > 0.0))

    in_threads(3, body)
    assert results == [True] * 3


# Memory

MIXTURE = """
import gc, sys, warnings
import numpy as np
import fusedopt as fo
warnings.simplefilter("ignore")

class Shared:
    def __init__(self, array):
        self.array = array
    def __array__(self, dtype=None, copy=None):
        return self.array

w, x = np.ones((20, 30), np.float32), np.ones(7)
h = np.ones(9, np.float16)
inner = fo.Adam(lambda: 0.001, beta_1=lambda: 0.9, use_ema=True, global_clipnorm=1.0)
optimizer = fo.LossScaleOptimizer(inner)
optimizer.build({"w": w, "x": x, "h": h})
g, k, l = np.ones((30, 20)).T, np.ones(7, np.float32), np.ones(9, np.float16)
bad = np.ones(3)

def mixture(count):
    for _ in range(count):
        optimizer.apply([g, k, l])
        optimizer.apply([g, None, l])
        optimizer.apply({"x": memoryview(k)})
        optimizer.apply_gradients([(Shared(l), h), (g, w[:])])
        optimizer.variables, optimizer.iterations, optimizer.learning_rate
        optimizer.set_weights(optimizer.variables)
        optimizer.stateless_apply(optimizer.variables, [g, k, l], [w, x, h])
        optimizer.finalize_variable_values([w, x, h])
        for wrong in ([g], [bad, bad, bad], [None] * 3, [g, k, "h"], [x, x, x]):
            try:
                optimizer.apply(wrong)
            except (TypeError, ValueError):
                pass
        other = fo.SGD(momentum=0.9)
        other.exclude_from_weight_decay([w])
        other.build([w, x])
        other.apply([g, k])
"""


def test_memory_does_not_grow() -> None:
    program = f"""{MIXTURE}
try:
    import resource
except ImportError:
    resource = None

def peak():
    if resource is None:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def use():
    gc.collect()
    return peak(), sys.getallocatedblocks()

mixture(1000)
before = use()
mixture(2000)
after = use()
print(after[0] - before[0], after[1] - before[1])
"""
    grown, objects = map(int, python(program))
    assert grown < 1_500_000
    assert objects < 1000


def test_step_allocates_nothing_that_stays() -> None:
    w, g = np.ones(1000, np.float32), np.ones(1000, np.float32)
    optimizer = fo.AdamW(global_clipnorm=1.0)
    optimizer.build([w])
    gradients = [g]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.apply(gradients)
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(100):
                optimizer.apply(gradients)
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
    assert grown < 2000
