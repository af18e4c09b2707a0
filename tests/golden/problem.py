"""The problem that Keras and fusedopt both solve: variables, gradients, runs and the file of a run.

`record.py` plays every run with Keras and keeps the outcome, `test_keras.py` plays it with
fusedopt; neither library is imported here.
"""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import reference
from cases import CASES, KERAS_RULES, ROWWISE, VARIANTS
from numpy.typing import NDArray

Array = NDArray[Any]

FOLDER = Path(__file__).parent
COMMAND = "python tests/golden/record.py"
REQUIRED = "required"

SHAPES: dict[str, tuple[int, ...]] = {"kernel": (4, 2), "bias": (5,), "gain": ()}
SIZES = [int(np.prod(shape)) for shape in SHAPES.values()]

# TensorFlow, the only float64 reference, reads a slot of these after it has been overwritten.
FLOAT32_ONLY = ("ScheduleFreeAdamW",)

STEPS = 30
RECORDED = (1, 2, 3, 5, 10, 20, 30)
HANDOVER = 10
LEARNING_RATE = 0.05
INITIAL_SCALE = 1024.0
GROWTH_STEPS = 4


KNOWN_VARIANTS = [case for case in VARIANTS if case not in ROWWISE]
"""Those that other libraries have."""


@dataclass(frozen=True)
class Run:
    """An optimizer and what happens to it in thirty steps; variables go by their position."""

    label: str
    rule: str
    arguments: dict[str, Any]
    rate: str = "number"
    missing: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Step modulo 10 -> variables whose gradient is None."""
    chosen: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Step modulo 4 -> variables that the call names, in its order."""
    excluded: tuple[int, ...] = ()
    excluded_names: tuple[str, ...] = ()
    finalize: bool = False
    planted: dict[int, tuple[int, str]] | None = None
    """Step -> a variable and its gradient's last element; not None means a dynamic loss scale."""

    def description(self) -> Any:
        return json.loads(json.dumps(asdict(self)))


_DECAYED_AVERAGE: dict[str, Any] = {"weight_decay": 0.02, "use_ema": True, "ema_momentum": 0.9}
_MISSING = {2: (1,), 3: (0,), 4: (1, 2), 6: (2,), 9: (0, 1)}
_CHOSEN = {0: (0, 1, 2), 1: (2, 0), 2: (1,), 3: (2, 1, 0)}
_PLANTED = {3: (0, "inf"), 8: (1, "-inf"), 9: (2, "nan"), 17: (0, "nan")}

# What happens, and the common options it happens under.
SCENARIOS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "missing": ({"missing": _MISSING}, _DECAYED_AVERAGE),
    "missing_accumulation": (
        {"missing": _MISSING},
        {**_DECAYED_AVERAGE, "gradient_accumulation_steps": 3},
    ),
    "chosen": ({"chosen": _CHOSEN}, {**_DECAYED_AVERAGE, "global_clipnorm": 0.7}),
    "schedule": (
        {"rate": "schedule"},
        {"weight_decay": 0.02, "gradient_accumulation_steps": 2},
    ),
    "callable": ({"rate": "callable"}, {"weight_decay": 0.02}),
    "excluded": ({"excluded": (2,), "excluded_names": ("bi.s",)}, {"weight_decay": 0.2}),
    "finalize": ({"finalize": True}, {"use_ema": True, "ema_momentum": 0.9}),
    "loss_scale_everything": (
        {"planted": _PLANTED},
        {**_DECAYED_AVERAGE, "global_clipnorm": 0.7, "gradient_accumulation_steps": 2},
    ),
}


def runs(rule: str) -> list[Run]:
    """The table's cases, every variant under a loss scale, the last variant in every scenario."""
    variants = [case for case in KNOWN_VARIANTS if case.rule == rule]
    last = variants[-1]
    stem = last.label.removesuffix("plain")
    return [
        *(Run(case.label, rule, case.arguments) for case in CASES if case.rule == rule),
        *(
            Run(
                case.label.removesuffix("plain") + "loss_scale",
                rule,
                case.arguments,
                planted=_PLANTED,
            )
            for case in variants
        ),
        *(
            Run(stem + name, rule, {**last.arguments, **options}, **events)
            for name, (events, options) in SCENARIOS.items()
        ),
    ]


def all_runs() -> list[Run]:
    return [run for rule in KERAS_RULES for run in runs(rule)]


def optax_runs() -> list[Run]:
    """Of the rules that have optax's numbers: every variant, and one with gradients that are not finite."""
    known = [case for case in KNOWN_VARIANTS if reference.RULES[case.rule].model == "optax"]
    return [
        Run(case.label.removesuffix("plain") + label, case.rule, case.arguments, planted=planted)
        for case in known
        for label, planted in (("plain", None), ("not_finite", _PLANTED))
    ]


def dtypes(rule: str) -> tuple[str, ...]:
    return ("float32",) if rule in FLOAT32_ONLY else ("float32", "float64")


def _uniform(seed: int) -> NDArray[np.float64]:
    # Raw bits, because NumPy promises to keep them but not the streams of a Generator.
    bits = np.random.PCG64(seed).random_raw(sum(SIZES)) >> np.uint64(11)
    return np.ldexp(bits.astype(np.float64), -52) - 1.0


def _split(flat: Array, dtype: str) -> list[Array]:
    parts = np.split(flat.astype(dtype), np.cumsum(SIZES)[:-1])
    return [part.reshape(shape).copy() for part, shape in zip(parts, SHAPES.values(), strict=True)]


def weights(dtype: str) -> list[Array]:
    return _split(_uniform(0), dtype)


@functools.cache
def gradients(step: int, dtype: str) -> list[Array]:
    """Of changing size, so that norms are clipped on some steps only; zeros now and then."""
    flat = _uniform(step) * (0.125, 1.0, 0.25, 2.0, 0.5)[step % 5]
    if step % 3 == 0:
        flat[0] = 0.0
    return _split(flat, dtype)


def fingerprint() -> str:
    """Of all inputs: a recording is only good for the inputs it was made with."""
    arrays = [*weights("float64"), *(g for t in range(STEPS) for g in gradients(t + 1, "float64"))]
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def pairs(run: Run, step: int, scale: float, dtype: str) -> list[tuple[int, Array | None]]:
    """The positions and gradients of one call, multiplied by the loss scale."""
    scaled: list[Array | None] = [
        np.asarray(gradient * np.asarray(scale, dtype)) for gradient in gradients(step, dtype)
    ]
    if run.planted and step in run.planted:
        position, value = run.planted[step]
        planted = scaled[position]
        assert planted is not None
        planted.reshape(-1)[-1] = float(value)
    for position in run.missing.get(step % 10, ()):
        scaled[position] = None
    order = run.chosen.get(step % 4, tuple(range(len(SHAPES))))
    return [(position, scaled[position]) for position in order]


def decayed_rate(step: int) -> float:
    return LEARNING_RATE / (1.0 + step / 8.0)


class Clock:
    """A learning rate without arguments; whoever plays sets the step."""

    step = 0

    def __call__(self) -> np.float64:
        return np.float64(decayed_rate(self.step))


@dataclass
class Recording:
    """The outcome of a run: weights at RECORDED, state at HANDOVER and at the end."""

    description: Any
    layout: list[tuple[str, list[int], str]]
    """Name, shape and dtype of each optimizer variable, in Keras's order."""
    weights: Array
    state: Array
    scales: list[tuple[float, int]]
    """Loss scale and step counter after each step."""

    def store(self, step: int) -> dict[str, Array]:
        """The state at HANDOVER or at the end, as Keras's `save_own_variables` gives it."""
        sizes = [int(np.prod(shape)) for _, shape, _ in self.layout]
        flat = self.state[(HANDOVER, STEPS).index(step)]
        parts = np.split(flat, np.cumsum(sizes)[:-1])
        return {
            str(i): part.reshape(shape).astype(dtype)
            for i, (part, (_, shape, dtype)) in enumerate(zip(parts, self.layout, strict=True))
        }

    def weights_at(self, step: int) -> list[Array]:
        flat = self.weights[RECORDED.index(step)]
        return _split(flat, str(flat.dtype))


def file_of(rule: str, dtype: str) -> Path:
    return FOLDER / f"{rule}-{dtype}.npz"


def save(rule: str, dtype: str, versions: dict[str, str], recordings: list[Recording]) -> None:
    about = {
        "versions": versions,
        "inputs": fingerprint(),
        "runs": [[r.description, r.layout, r.scales] for r in recordings],
    }
    np.savez_compressed(
        file_of(rule, dtype),
        about=np.array(json.dumps(about)),
        weights=np.stack([r.weights for r in recordings]),
        state=np.concatenate([r.state for r in recordings], axis=1),
    )


def load(rule: str, dtype: str) -> dict[str, Recording]:
    """Recordings by label; none where the file is missing or was made with other inputs."""
    if not file_of(rule, dtype).exists():
        return {}
    with np.load(file_of(rule, dtype)) as file:
        about, all_weights, states = json.loads(str(file["about"])), file["weights"], file["state"]
    if about["inputs"] != fingerprint():
        return {}
    recordings = {}
    start = 0
    for (description, layout, scales), weights in zip(about["runs"], all_weights, strict=True):
        end = start + sum(int(np.prod(shape)) for _, shape, _ in layout)
        recordings[description["label"]] = Recording(
            description, layout, weights, states[:, start:end], scales
        )
        start = end
    return recordings
