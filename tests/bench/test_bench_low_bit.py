"""The benchmark of the accuracy of slots in fewer bits: formats of others, trials and trainings, goals."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import low_bit_figures
import low_bit_goals
import low_bit_tasks
import low_bit_trials
import numpy as np
import pytest
from bench_runs import CHECKOUT, PNG, python
from fusedopt.bench.results import Results, load
from low_bit_codes import BLOCK, CODES, bfloat16, dynamic_map, e4m3, mapped, mapped_by_table
from low_bit_goals import NAMES, differences, goals
from low_bit_suite import Sizes
from low_bit_trainers import BFLOAT16, FLOAT8, FLOAT32, OURS, InNumpy, OfTheLibrary


def numbers(size: int = 3 * BLOCK, seed: int = 0) -> Any:
    random = np.random.default_rng(seed)
    spread = 10.0 ** random.uniform(-9, 0, size)
    return (random.normal(size=size) * spread).astype(np.float32)


@pytest.mark.parametrize("is_signed", [True, False])
def test_the_map_has_seven_decades(is_signed: bool) -> None:
    found = dynamic_map(is_signed)
    assert len(set(found.tolist())) == 256
    assert found[-1] == 1
    assert (found < 0).sum() == (127 if is_signed else 0)
    positive = found[(found > 0) & (found < 1)]
    decades = np.bincount(np.floor(np.log10(positive)).astype(int) + 7)
    assert decades.tolist() == [2**k for k in range(0 if is_signed else 1, 7 if is_signed else 8)]
    # As in the map of bitsandbytes 0.50 and torchao 0.18.
    smallest, last = (5.5e-7, 0.99296875) if is_signed else (3.25e-7, 0.996484375)
    assert positive[[0, -1]] == pytest.approx([smallest, last], rel=1e-6)


@pytest.mark.parametrize("is_signed", [True, False])
def test_a_map_gives_the_nearest_number(is_signed: bool) -> None:
    x = numbers() if is_signed else np.abs(numbers())
    blocks = x.reshape(-1, BLOCK)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    choices = dynamic_map(is_signed) * largest[..., None]
    errors = np.abs(choices - blocks[..., None]).min(axis=2)
    found = mapped(is_signed)(x).reshape(-1, BLOCK)
    np.testing.assert_allclose(np.abs(found - blocks), errors, atol=1e-7 * largest.max())


def test_the_table_of_a_map_knows_no_zero() -> None:
    x = np.zeros(BLOCK, np.float32)
    x[0] = 1
    # What bitsandbytes 0.50 gives on a CPU.
    assert np.unique(mapped_by_table(True)(x)[1:]) == pytest.approx([2.125e-5])
    assert np.unique(mapped_by_table(False)(x)[1:]) == pytest.approx([1.5625e-5])
    for is_signed in (True, False):
        assert not mapped(is_signed)(x)[1:].any()


def test_formats_that_have_names_are_those_of_ml_dtypes() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = numbers()
    np.testing.assert_array_equal(bfloat16(x), x.astype(ml_dtypes.bfloat16).astype(np.float32))
    blocks = x.reshape(-1, BLOCK)
    scales = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(448)
    rounded = (blocks / scales).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    np.testing.assert_array_equal(e4m3(x), (rounded * scales).ravel())


@pytest.mark.parametrize("name", CODES)
def test_a_code_keeps_shape_and_zeros(name: str) -> None:
    code = CODES[name]
    x = numbers(50 * 6).reshape(50, 6)
    for stored, slot in ((code.momentum, x), (code.velocity, np.abs(x))):
        before = slot.copy()
        assert stored(slot).shape == (50, 6)
        np.testing.assert_array_equal(slot, before)
        assert not stored(np.zeros_like(slot)).any()
        # The largest of a block is kept, but for the map's negative end.
        top = np.abs(slot).max()
        assert np.abs(stored(slot)).max() == pytest.approx(top, rel=0.008)


def test_adamw_in_numpy_is_that_of_the_library() -> None:
    random = np.random.default_rng(0)
    ours, theirs = (
        [np.random.default_rng(1).normal(size=(90, 50)).astype(np.float32)] for _ in range(2)
    )
    trainers = [OfTheLibrary(FLOAT32, ours, 0.1, 0), InNumpy(None, theirs, 0.1, 0)]
    for step in range(30):
        gradient = random.normal(size=(90, 50)).astype(np.float32)
        for trainer in trainers:
            trainer.step([gradient], 0.01 / (1 + step))
    np.testing.assert_array_equal(ours[0], theirs[0])
    for one, other in zip(trainers[0].velocities(), trainers[1].velocities(), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(trainers[0].momenta(), trainers[1].momenta(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_small_variables_keep_float32() -> None:
    small, large = (np.zeros(size, np.float32) for size in (4095, 4096))
    trainer = InNumpy(CODES["8-bit map"], [small, large], 0.0, 0)
    gradients = [numbers(one.size) for one in (small, large)]
    trainer.step(gradients, 0.1)
    exact = [np.float32(0.1) * g for g in gradients]
    assert [
        np.allclose(m, g, rtol=1e-5) for m, g in zip(trainer.momenta(), exact, strict=True)
    ] == [
        True,
        False,
    ]


def test_growing_gradients_come_near_the_bound() -> None:
    w = np.zeros(low_bit_trials.ELEMENTS, np.float32)
    trainer = OfTheLibrary(FLOAT32, [w], 0.0, 0)
    largest = 0.0
    for gradient in low_bit_trials.growing(np.random.default_rng(0), 6000):
        largest = max(largest, np.abs(low_bit_trials.update(w, trainer, gradient)).max())
    assert 0.98 * low_bit_goals.BOUND < largest < low_bit_goals.BOUND


def test_the_gradients_of_layers() -> None:
    random = np.random.default_rng(0)
    layers = low_bit_tasks.Layers(random, (5, 7, 4))
    # In double, so that small differences can be taken.
    layers.variables = [w.astype(float) for w in layers.variables]
    x, labels = random.normal(size=(6, 5)), random.integers(0, 4, 6)

    def loss() -> float:
        return low_bit_tasks.loss_of(layers.forward(x)[-1], labels)

    gradients, of_input = layers.gradients(layers.forward(x), labels)
    for w, gradient in zip([*layers.variables, x], [*gradients, of_input], strict=True):
        for place in np.ndindex(w.shape):
            true = w[place]
            w[place] = true + 1e-5
            above = loss()
            w[place] = true - 1e-5
            slope = (above - loss()) / 2e-5
            w[place] = true
            assert gradient[place] == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_the_text_has_letters_enough_for_codes_of_its_embedding() -> None:
    text, letters = low_bit_tasks.text()
    assert len(text) > 400_000
    assert text.max() == letters - 1
    assert letters * low_bit_tasks.WIDTH >= 4096


def of_everybody(**figures: Any) -> dict[str, Any]:
    """The same for all but a few."""
    return dict.fromkeys(NAMES, figures.pop("others")) | figures


def test_the_goals() -> None:
    curve = {"step": 1, "mean": 1.0, "quantiles": [0.8, 1.0, 1.2]}
    after = {"step": 2, "mean": 2.0, "quantiles": [0.1, 1.2, 3.0]}
    good, bad = {"steady": curve, "dropped": curve}, {"steady": after, "dropped": after}
    trained = of_everybody(
        others={"accuracy": 98.0, "bits": 2.0},
        float8={"accuracy": 98.2, "bits": 2.009},
        FP8={"accuracy": 97.0, "bits": 2.02},
    )
    more = {
        "untouched": of_everybody(others={"slot": 0.0}, FP8={"slot": 1e-9}),
        "largest": {"a": of_everybody(others=1.0, FP8=7.2), "b": of_everybody(others=7.3, FP8=7.4)},
        "averages": of_everybody(others=good, FP8=bad),
        "sums": {
            "mild": of_everybody(others=0.05, bfloat16=0.03, float8=0.1),
            low_bit_goals.WIDEST: of_everybody(others=9.0),
        },
        "digits": [trained],
        "characters": [trained],
    }
    found = {
        goal.text: {name: goal.found[name].is_met for name in (FLOAT8, BFLOAT16, "FP8")}
        for goal in goals(Results({}, [2], [], more=more))
    }
    fails_of_fp8 = {FLOAT8: True, BFLOAT16: True, "FP8": False}
    assert found == {
        "no gradient ever: largest slot": fails_of_fp8,
        "largest update, in learning rates": fails_of_fp8,
        "mean of v": fails_of_fp8,
        "1 % and 99 % of the root of v": fails_of_fp8,
        "median of the root of v after a drop": fails_of_fp8,
        "error of the sum of updates": {FLOAT8: True, BFLOAT16: False, "FP8": True},
        "digits: points of accuracy from float32": fails_of_fp8,
        "characters: bits from float32": fails_of_fp8,
    }


def test_the_page_says_how_long_everything_ran() -> None:
    sizes = Sizes()
    for section, numbers_of_it in {
        "averages": (sizes.alike, sizes.steady, sizes.dropped),
        "sums": (sizes.sums,),
        "digits": (sizes.digits, low_bit_tasks.BATCH, low_bit_tasks.DIGITS_RATE),
        "characters": (
            sizes.characters,
            low_bit_tasks.LETTERS_BATCH,
            low_bit_tasks.LETTERS_RATE,
            low_bit_tasks.WIDTH,
        ),
    }.items():
        words = re.findall(r"[\d,.]*\d", low_bit_figures.ABOUT[section])
        assert {f"{one:,}" for one in numbers_of_it} <= set(words)


def test_differences_are_those_of_pairs() -> None:
    seeds = [
        {name: {"bits": bits * (1.01 if name == FLOAT8 else 1.0)} for name in NAMES}
        for bits in (1.0, 3.0)
    ]
    assert differences(seeds, "bits")[FLOAT8] == pytest.approx([0.01, 0.03])
    assert differences(seeds, "bits", relative=True)[FLOAT8] == pytest.approx([1.0, 1.0])
    assert differences(seeds, "bits")[BFLOAT16] == [0.0, 0.0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one quick run, which has written everything that it can write."""
    folder = tmp_path_factory.mktemp("low_bit")
    files = [
        f"--{kind}={folder / name}"
        for kind, name in (("json", "run.json"), ("markdown", "run.md"), ("plot", "run.png"))
    ]
    done = python("low_bit.py", "--quick", *files, folder=CHECKOUT)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_quick_run_fills_every_section(run: Path) -> None:
    results = load(run / "run.json")
    sections = set(low_bit_figures.SECTIONS) - set(results.absent)
    assert results.more.keys() == sections
    assert results.measurements == []
    assert results.absent.keys() <= {"digits"}
    assert results.more["untouched"].keys() == set(NAMES)
    assert len(results.more["characters"]) == 2
    assert (run / "run.png").read_bytes().startswith(PNG)


def test_a_quick_run_writes_every_table(run: Path) -> None:
    text = (run / "run.md").read_text(encoding="utf-8")
    absent = load(run / "run.json").absent
    for section, title in low_bit_figures.SECTIONS.items():
        assert (f"## {title}\n" in text) == (section not in absent)
    assert "<!-- low_bit: begin -->\n| what | goal | float32 |" in text


def test_what_holds_after_few_steps(run: Path) -> None:
    found = {goal.text: goal.found for goal in goals(load(run / "run.json"))}
    exact = found["no gradient ever: largest slot"]
    assert [exact[name].is_met for name in NAMES] == [
        name != "8-bit map, CPU table" for name in NAMES
    ]
    bounded = found["largest update, in learning rates"]
    assert all(bounded[name].is_met for name in OURS)
    assert not bounded["FP8"].is_met


def test_the_library_rounds(run: Path) -> None:
    """If its slots had been float32 after all, every goal would be met."""
    sums = load(run / "run.json").more["sums"]["mild"]
    assert sums[FLOAT32] == 0 < sums[BFLOAT16] < sums[FLOAT8]
