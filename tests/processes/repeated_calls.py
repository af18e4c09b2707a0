"""Calls that are made again and again, and how many bytes of the C library each keeps: `python repeated_calls.py`.

PYTHONMALLOC=malloc has Python's objects come from the C library, too, so that they count. With
GLIBC_TUNABLES=glibc.malloc.tcache_count=0, what is free does not count as long as it waits for its next use.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import gc
import json
import pickle
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fusedopt as fo
import numpy as np
from fusedopt.rules.rule_optimizer import RuleOptimizer
from ranks import Group, Threads

LIBRARY = ctypes.CDLL(None)
Call = Callable[[], object]
refused = contextlib.suppress(TypeError, ValueError, AttributeError, RuntimeError, OSError)


def arrays() -> dict[str, Any]:
    return {"table": np.ones((20, 30), np.float32), "half": np.ones(9, np.float16), "x": np.ones(7)}


def gradients(weights: dict[str, Any]) -> dict[str, Any]:
    return {name: np.full(w.shape, 0.5, w.dtype) for name, w in weights.items()}


def used(make: Callable[[], Any]) -> Call:
    """Make an optimizer, use all of it, and drop it."""

    def call() -> None:
        optimizer, weights = make(), arrays()
        optimizer.build(weights)
        for _ in range(2):
            optimizer.apply(gradients(weights))
        repr(optimizer), optimizer.variables, optimizer.iterations, optimizer.get_config()
        optimizer.set_weights(optimizer.variables)
        optimizer.named_variables()
        copy.deepcopy(optimizer).apply(gradients(weights))
        pickle.loads(pickle.dumps(optimizer))
        fo.deserialize(fo.serialize(optimizer))

    return call


def refusing(make: Callable[[], Any]) -> Call:
    """Give one optimizer all kinds of what it refuses."""
    optimizer, weights = make(), arrays()
    optimizer.build(weights)
    good = list(gradients(weights).values())
    wrong = [
        [good[0]],
        [np.ones(3)] * 3,
        [None] * 3,
        [*good[:2], "x"],
        [*good[:2], weights["x"]],
        {"unknown": good[0]},
        [fo.RowGradient(np.ones((1, 30), np.float32), np.array([99])), *good[1:]],
    ]

    def call() -> None:
        for each in wrong:
            with refused:
                optimizer.apply(each)
        for name, value in (("learning_rate", "fast"), ("unknown", 1), ("beta_1", 2.0)):
            with refused:
                type(optimizer)(**{name: value})
        with refused:
            type(optimizer)().build([np.ones((3, 4)).T[::2]])
        with refused:
            optimizer.set_weights([])
        with refused:
            optimizer.load(Path("nowhere"))

    return call


def filed(make: Callable[[], Any]) -> Call:
    """Save and load, whole files and damaged ones."""
    folder = Path(tempfile.mkdtemp())
    optimizer, weights = make(), arrays()
    optimizer.build(weights)
    optimizer.apply(gradients(weights))

    def call() -> None:
        path = folder / "state"
        optimizer.save(path, variables=True)
        optimizer.load(path)
        optimizer.load(path, strict=False)
        path.write_bytes(path.read_bytes()[:-1])
        with refused:
            optimizer.load(path)

    return call


class RefusedError(ValueError):
    pass


def refuse(*_: Any) -> float:
    raise RefusedError


def raising() -> None:
    """Functions of the caller's that raise, or are asked once."""
    weights = arrays()
    for optimizer in (
        fo.SGD(refuse),
        fo.Adam(lambda: 0.1, beta_1=refuse),
        fo.Muon(matrix_product=refuse),
        fo.Adam(lambda: 0.1, beta_1=lambda: 0.9),
    ):
        optimizer.build(weights)
        with refused:
            optimizer.apply(gradients(weights))


def views() -> None:
    """Arrays that outlive their optimizer."""
    optimizer, weights = fo.Adam(slot_dtype="bfloat16", use_ema=True), arrays()
    optimizer.build(weights)
    kept = [*optimizer.variables, *optimizer.named_variables().values()]
    del optimizer
    assert all(np.asarray(array).size >= 0 for array in kept)


def foreign() -> None:
    """Gradients behind the protocols of other libraries."""

    class Capsule:
        def __init__(self, array: Any) -> None:
            self.array = array

        def __dlpack__(self, **options: Any) -> Any:
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return self.array.__dlpack_device__()

    weights = arrays()
    optimizer = fo.Adagrad()
    optimizer.build(weights)
    found = gradients(weights)
    optimizer.apply([Capsule(found["table"]), found["half"], memoryview(found["x"])])
    optimizer.apply(
        [fo.RowGradient(np.ones((3, 30), np.float32), np.array([1, 5, 1])), None, found["x"]]
    )


def sharded() -> None:
    optimizer, weights = fo.Sharded(fo.AdamW(), Threads(Group(1), 0)), arrays()
    optimizer.build(weights)
    optimizer.apply(gradients(weights))
    repr(optimizer), optimizer.variables


def several() -> Any:
    return fo.MultiOptimizer(fo.OptimizerMap(fo.Nadam(), {"half": fo.SGD(momentum=0.9)}))


def calls() -> Iterator[tuple[str, Call]]:
    for name in fo.__all__:
        rule = getattr(fo, name)
        if isinstance(rule, type) and issubclass(rule, RuleOptimizer):
            yield name, used(rule)
    several_ways: dict[str, Callable[[], Any]] = {
        "options": lambda: fo.AdamW(
            fo.schedules.CosineDecay(0.1, 5),
            amsgrad=True,
            use_ema=True,
            gradient_accumulation_steps=2,
            global_clipnorm=1.0,
        ),
        "few bits": lambda: fo.Adam(slot_dtype="float8", seed=1, master=False),
        "rows": lambda: fo.SGD(momentum=0.9, row_updates="caught_up"),
        "LossScaleOptimizer": lambda: fo.LossScaleOptimizer(fo.Adam(clipnorm=1.0)),
        "MultiOptimizer": several,
    }
    for name, make in several_ways.items():
        yield name, used(make)
    for name, make in {"Adam": fo.Adam, "MultiOptimizer": several, **several_ways}.items():
        yield f"files of {name}", filed(make)
    yield "refused", refusing(lambda: fo.Adam(clipnorm=1.0))
    yield "raising functions", raising
    yield "views", views
    yield "foreign gradients", foreign
    yield "Sharded", sharded


def keeping() -> None:
    """Keep some bytes of the C library, which a test wants to be seen."""
    LIBRARY.malloc(8)


class _Statistics(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]


def bytes_in_use() -> int:
    sys._clear_type_cache()  # it holds up to 4096 names of attributes
    gc.collect()
    LIBRARY.mallinfo2.restype = _Statistics
    found = LIBRARY.mallinfo2()
    return int(found.uordblks + found.hblkhd)


def kept_by(call: Call) -> float:
    """Return the bytes that one call more keeps, of several attempts the median: caches fill up meanwhile."""
    for _ in range(300):
        call()
    found = []
    for _ in range(5):
        before = bytes_in_use()
        for _ in range(100):
            call()
        found.append((bytes_in_use() - before) / 100)
    return statistics.median(found)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    fo.set_num_threads(1)
    known = dict(calls())
    for name in sys.argv[1:] or known:
        call = keeping if name == "keeps on purpose" else known[name]
        print(json.dumps([name, kept_by(call)]), flush=True)
