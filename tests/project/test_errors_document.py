"""Every message in docs/explanation/errors.md is one that the library gives, word for word."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "errors.md"
MESSAGES = [
    " ".join(block.split())
    for block in re.findall(
        r"^```text\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
]


def array() -> Any:
    return np.ones((4, 3), np.float32)


def read_only() -> Any:
    made = array()
    made.flags.writeable = False
    return made


def built(rule: Any = fo.SGD, **arguments: Any) -> Any:
    optimizer = rule(**arguments)
    optimizer.build({"dense/kernel": array()})
    return optimizer


def build(variable: Any) -> None:
    fo.SGD().build({"dense/kernel": variable})


def shared() -> None:
    w = array()
    fo.SGD().build({"a": w, "b": w})


def own_gradient() -> None:
    w = array()
    optimizer = fo.SGD()
    optimizer.build([w])
    optimizer.apply([w])


def assign(optimizer: Any, name: str, value: Any) -> None:
    setattr(optimizer, name, value)


def step_in_evaluation() -> None:
    optimizer = built(use_ema=True)
    with optimizer.evaluation_weights():
        optimizer.apply([array()])


def rows(rule: Any, index: int) -> None:
    built(rule).apply([fo.RowGradient(array()[:1], np.array([index]))])


def load(optimizer: Any, name: str) -> None:
    built(fo.Adam).save("adam.safetensors")
    damaged = bytearray(Path("adam.safetensors").read_bytes())
    damaged[-3] ^= 4
    Path("bad.safetensors").write_bytes(damaged)
    optimizer.load(name)


def larger() -> Any:
    optimizer = fo.Adam()
    optimizer.build({"dense/kernel": np.ones((5, 3), np.float32)})
    return optimizer


def exclude_nothing() -> None:
    optimizer = fo.AdamW()
    optimizer.exclude_from_weight_decay(var_names=["gamma"])
    optimizer.build({"dense/kernel": array()})


CASES: list[Callable[[], Any]] = [
    lambda: build(array()[:, ::2]),
    lambda: build(read_only()),
    lambda: build(array().astype(np.int64)),
    shared,
    lambda: build(np.ma.masked_equal(array(), 2.0)),
    lambda: built().apply([array(), array()]),
    lambda: built().apply([array().T]),
    lambda: built().apply({"dense/kernl": array()}),
    lambda: built().apply([array()], [array()]),
    lambda: built().apply([None]),
    own_gradient,
    lambda: rows(fo.SGD, 9),
    lambda: rows(fo.Lamb, 0),
    lambda: fo.SGD().apply([array()]),
    lambda: built().build([array()]),
    lambda: assign(built(), "use_ema", True),
    step_in_evaluation,
    lambda: fo.Adam(lr=0.1),
    lambda: fo.LossScaleOptimizer(fo.Adam(), learning_rate=0.1),
    lambda: fo.Adam(gradient_accumulation_steps=1),
    lambda: fo.AdamW().exclude_from_weight_decay(["bias"]),
    lambda: fo.Adam().step(),  # type: ignore[attr-defined]
    lambda: fo.Adam(beta_1=1.5),
    lambda: fo.Adam(clipnorm=1.0, clipvalue=1.0),
    lambda: assign(fo.SGD(fo.schedules.ExponentialDecay(0.1, 10, 0.9)), "learning_rate", 0.1),
    lambda: built(learning_rate=lambda: float("nan")).apply([array()]),
    lambda: built(fo.Ftrl, slot_dtype="float8"),
    lambda: load(built(), "adam.safetensors"),
    lambda: load(larger(), "adam.safetensors"),
    lambda: load(built(fo.Adam, use_ema=True), "adam.safetensors"),
    lambda: load(
        built(fo.Adam, learning_rate=fo.schedules.CosineDecay(0.1, 9)), "adam.safetensors"
    ),
    lambda: load(built(fo.Adam, beta_1=0.5), "adam.safetensors"),
    lambda: fo.SGD(nesterov=True),
    exclude_nothing,
    lambda: load(built(fo.Adam), "bad.safetensors"),
]
SETTINGS = {"FUSEDOPT_ISA": "avx9", "FUSEDOPT_NUM_THREADS": "many"}


@pytest.mark.parametrize("case", CASES)
def test_message_is_on_the_page(
    case: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, TypeError, AttributeError, UserWarning)) as caught:
        case()
    assert f"{caught.type.__name__}: {caught.value}" in MESSAGES


@pytest.mark.parametrize("name", SETTINGS)
def test_message_about_a_setting_is_on_the_page(name: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", "import fusedopt as fo; fo.show_config()"],
        env={**os.environ, name: SETTINGS[name]},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.sub(r"\(x86_64.*?\)|\(aarch64\)|\(baseline\)", "(...)", run.stderr.splitlines()[-1])
    assert found in [re.sub(r"\(x86_64.*?\)", "(...)", message) for message in MESSAGES]


def test_the_page_has_no_other_messages() -> None:
    assert len(MESSAGES) == len(CASES) + len(SETTINGS)
    assert len(set(MESSAGES)) == len(MESSAGES)
