"""What is fuzzed in Python, as functions of bytes: a file that `load` is given, and a configuration.

Each raises if a promise is broken. `fuzz.py` looks for such bytes, and `test_corpus.py` runs those that are kept.
"""

from __future__ import annotations

import copy
import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np

Weights = dict[str, np.ndarray[Any, Any]]


def weights() -> Weights:
    return {
        "kernel": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
        "half": np.array([1.0, -0.25], np.float16),
        "double": np.array(2.0),
    }


def _several() -> Any:
    members = fo.OptimizerMap(fo.Nadam(), {"half": fo.SGD(momentum=0.9, skip_nonfinite=True)})
    return fo.LossScaleOptimizer(fo.MultiOptimizer(members), initial_scale=8.0)


_named: Any = {"kernel": "float8"}
KINDS: list[Callable[[], Any]] = [
    lambda: fo.SGD(fo.schedules.ExponentialDecay(0.1, 5, 0.5), momentum=0.5),
    lambda: fo.AdamW(amsgrad=True, use_ema=True, gradient_accumulation_steps=2),
    lambda: fo.Adam(slot_dtype="float8", slot_dtypes=_named, seed=1, master=False),
    fo.Adafactor,
    lambda: fo.Lion(row_updates="caught_up", slot_dtype="float32"),
    _several,
]
WAYS: list[dict[str, Any]] = [{}, {"strict": False}, {"convert_slots": True}, {"variables": True}]


def built(kind: int) -> tuple[Any, Weights]:
    """An optimizer after two steps."""
    optimizer, arrays = KINDS[kind % len(KINDS)](), weights()
    optimizer.build(arrays)
    for _ in range(2):
        step(optimizer, arrays)
    return optimizer, arrays


def step(optimizer: Any, arrays: Weights) -> None:
    optimizer.apply({name: np.full(w.shape, 0.5, np.float32) for name, w in arrays.items()})


def everything(optimizer: Any, arrays: Weights) -> list[Any]:
    state = [(name, array.tobytes()) for name, array in optimizer._core.state()]
    return [{name: w.tobytes() for name, w in arrays.items()}, state]


def load(data: bytes) -> None:
    """Load a file of any bytes: it is refused and nothing changes, or what is saved again is what was loaded."""
    if len(data) < 2:
        return
    optimizer, arrays = built(data[0])
    way = WAYS[data[1] % len(WAYS)]
    before = everything(optimizer, arrays)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "state"
        path.write_bytes(data[2:])
        message = None
        try:
            optimizer.load(path, **way)
        except ValueError as error:
            message = str(error)
        if message is not None:
            assert str(path) in message, f"the file is not named: {message}"
            assert everything(optimizer, arrays) == before, "a refused file has changed something"
            return
        repr(optimizer)
        loaded = everything(optimizer, arrays)
        optimizer.save(path, variables=True)
        other, copies = built(data[0])
        other.load(path)
        assert everything(other, copies) == loaded, "another state after save and load"
    for each, own in ((optimizer, arrays), (other, copies)):
        with np.errstate(all="ignore"):
            step(each, own)
    assert everything(other, copies) == everything(optimizer, arrays), "another step after load"


def valid_file(kind: int) -> bytes:
    """A file that `load` takes, behind the bytes that choose what takes it."""
    optimizer, _ = built(kind)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        optimizer.save(path, variables=True)
        return bytes([kind, 0]) + path.read_bytes()


CONFIGURATIONS: list[dict[str, Any]] = [
    *(fo.serialize(make()) for make in KINDS),
    fo.serialize(fo.Muon(exclude_layers=["head"])),
    fo.serialize(fo.Ftrl(fo.schedules.CosineDecayRestarts(0.1, 10))),
    fo.serialize(fo.RMSprop(fo.schedules.PiecewiseConstantDecay([1, 2], [0.1, 0.2, 0.3]))),
    fo.serialize(fo.Yogi(fo.schedules.PolynomialDecay(0.1, 10))),
]
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 0.5, -0.5, 1e-3, 1e400, -1e400, float("nan"), 2**70, "", "float8", "bfloat16",
    "caught_up", "Adam", "a", "(", [], [0.1], [[]], {}, {"a": "float8"}, {"class_name": "SGD", "config": {}},
    {"class_name": "CosineDecay", "config": {"initial_learning_rate": 0.1, "decay_steps": 3}},
]  # fmt: skip
NAMES = [
    "learning_rate",
    "momentum",
    "slot_dtype",
    "slot_dtypes",
    "seed",
    "master",
    "rowwise",
    "clipnorm",
    "name",
    "x",
]


def configuration_of(data: bytes) -> Any:
    """A configuration that was valid before the bytes changed it, four for each change."""
    found: Any = copy.deepcopy(CONFIGURATIONS[data[0] % len(CONFIGURATIONS)]) if data else {}
    for k in range(1, len(data) - 3, 4):
        where, which, what, depth = data[k : k + 4]
        place: Any = found
        for _ in range(depth % 5):
            inner = [v for v in _values(place) if isinstance(v, (dict, list)) and v]
            place = inner[where % len(inner)] if inner else place
        value = copy.deepcopy(VALUES[what % len(VALUES)])
        if isinstance(place, dict):
            keys = [*place, *NAMES] if which < 200 else [*place, "x"]
            key = keys[which % len(keys)]
            if what == 255:
                place.pop(key, None)
            else:
                place[key] = value
        elif place:
            place[which % len(place)] = value
    return found


def _values(place: Any) -> list[Any]:
    return list(place.values()) if isinstance(place, dict) else list(place)


def configuration(data: bytes) -> None:
    """Make an optimizer of any configuration: it is refused, or it says of itself what it was made of."""
    config = configuration_of(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = json.dumps(config)
        try:
            made = fo.deserialize(config)
        except (TypeError, ValueError):
            return
        finally:
            assert json.dumps(config) == given, "deserialize has changed what it was given"
        written = json.dumps(fo.serialize(made))
        again = fo.deserialize(json.loads(written))
        assert json.dumps(fo.serialize(again)) == written, "another configuration the second time"
        results = []
        for each in (made, again):
            arrays = weights()
            before = {name: w.tobytes() for name, w in arrays.items()}
            try:
                each.build(arrays)
                with np.errstate(all="ignore"):
                    step(each, arrays)
            except (TypeError, ValueError) as error:
                assert {name: w.tobytes() for name, w in arrays.items()} == before
                results.append(str(error))
            else:
                results.append(repr(everything(each, arrays)))
        assert results[0] == results[1], "the second one does something else"


TARGETS: dict[str, Callable[[bytes], None]] = {"load": load, "configuration": configuration}
