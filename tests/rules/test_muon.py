"""Muon where it differs from other rules: which variables it leaves to Adam, and products that fail."""

from __future__ import annotations

from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from adafactor_and_muon import bits, random
from reference import Array

# Which variables it leaves to Adam


def is_adams(optimizer: fo.Muon, w: Array, name: str | None) -> bool:
    optimizer.build([w] if name is None else {name: w})
    return len(optimizer.variables) == 4  # a moment more than Muon has


@pytest.mark.parametrize(
    ("name", "exclude_layers", "adams"),
    [
        ("dense/kernel", None, False),
        ("dense/kernel", ["dense"], True),
        ("dense/kernel", ["ense/k"], True),
        ("dense/kernel", ["^ense"], False),
        ("dense/kernel", ["head", "kern.l$"], True),
        ("dense/kernel", ["Dense"], False),
        ("dense/kernel", ["(?i)Dense"], True),
        ("dense/kernel", [], False),
        ("", ["^$"], True),
        ("token_embedding/table", None, True),
        ("Embedding_1", None, True),
        ("TOKEN_EMBEDDINGS", None, True),
        ("embed", None, False),
    ],
)
def test_names_that_are_excluded(name: str, exclude_layers: Any, adams: bool) -> None:
    assert is_adams(fo.Muon(exclude_layers=exclude_layers), random(3, 4), name) == adams


def test_embeddings_may_be_included() -> None:
    assert not is_adams(fo.Muon(exclude_embeddings=False), random(3, 4), "embedding")
    other = fo.Muon(exclude_embeddings=False, exclude_layers=["embedding"])
    assert is_adams(other, random(3, 4), "embedding")


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4), (1, 1, 1), (0,), (0, 0, 0)])
def test_only_matrices_are_made_orthogonal(shape: tuple[int, ...]) -> None:
    assert is_adams(fo.Muon(), random(*shape), "kernel")


@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (1, 5), (5, 1), (1, 1), (0, 3), (0, 0)])
def test_every_matrix_is(shape: tuple[int, ...]) -> None:
    assert not is_adams(fo.Muon(), random(*shape), "kernel")


def test_arrays_in_a_list_have_no_names() -> None:
    assert not is_adams(fo.Muon(exclude_layers=["^$", "kernel", "[a-z]"]), random(3, 4), None)


def test_the_excluded_do_what_adamw_does() -> None:
    shapes = {"embedding": (4, 3), "bias": (5,), "gain": (), "filters": (2, 3, 4)}
    weights = {name: random(*shape) for name, shape in shapes.items()}
    copies = {name: w.copy() for name, w in weights.items()}
    muon = fo.Muon(learning_rate=0.01, adam_lr_ratio=0.5, adam_weight_decay=0.2)
    # Adam's rate is smaller, and what decays is not.
    adamw = fo.AdamW(learning_rate=0.005, weight_decay=0.4)
    muon.build(weights)
    adamw.build(copies)
    for step in range(3):
        gradients = {name: random(*shape, seed=step + 1) for name, shape in shapes.items()}
        muon.apply(gradients)
        adamw.apply(gradients)
    for name, w in weights.items():
        np.testing.assert_array_equal(w, copies[name])


# Products that fail


class NoProduct(Exception):
    pass


@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "loss_scale"])
def test_a_failing_product_leaves_everything_as_it_was(
    wrapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    matmul, left = np.matmul, 0

    def failing(a: Array, b: Array, product: Array) -> None:
        nonlocal left
        left -= 1
        matmul(a, b, product)
        if left == 0:
            raise NoProduct

    def make() -> tuple[Any, dict[str, Array]]:
        with monkeypatch.context() as patch:
            patch.setattr(np, "matmul", failing)
            optimizer: Any = fo.Muon(ns_steps=2, use_ema=True, global_clipnorm=1.0)
        if wrapped:
            optimizer = fo.LossScaleOptimizer(optimizer, dynamic_growth_steps=3)
        weights = {"wide": random(3, 5), "bias": random(5), "tall": random(6, 2)}
        optimizer.build(weights)
        return optimizer, weights

    gradients = [
        {"wide": random(3, 5, seed=s), "bias": random(5, seed=s), "tall": random(6, 2, seed=s)}
        for s in range(3)
    ]
    expected_optimizer, expected = make()
    for g in gradients:
        expected_optimizer.apply(g)
    for n in range(1, 2 * 6 + 1):
        optimizer, weights = make()
        optimizer.apply(gradients[0])
        before = bits(optimizer, weights)
        left = n
        with pytest.raises(NoProduct):
            optimizer.apply(gradients[1])
        assert bits(optimizer, weights) == before
        assert optimizer.iterations == 1
        optimizer.apply(gradients[1])
        optimizer.apply(gradients[2])
        assert bits(optimizer, weights) == bits(expected_optimizer, expected)


def test_a_product_may_not_step_its_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    w, g = random(3, 4), random(3, 4, seed=1)
    optimizer: Any = None

    def meddling(a: Array, b: Array, product: Array) -> None:
        optimizer.apply([g])

    monkeypatch.setattr(np, "matmul", meddling)
    optimizer = fo.Muon()
    optimizer.build({"w": w})
    before = bits(optimizer, {"w": w})
    with pytest.raises(ValueError, match="of its own step"):
        optimizer.apply([g])
    assert bits(optimizer, {"w": w}) == before


def test_a_failing_product_among_several_optimizers(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(a: Array, b: Array, product: Array) -> None:
        raise NoProduct

    monkeypatch.setattr(np, "matmul", failing)
    optimizer = fo.MultiOptimizer(
        fo.OptimizerMap(fo.Adafactor(global_clipnorm=1.0, use_ema=True), {"body": fo.Muon()})
    )
    weights = {"head": random(3, 4), "body": random(4, 3)}
    optimizer.build(weights)
    before = bits(optimizer, weights)
    with pytest.raises(NoProduct):
        optimizer.apply({"head": random(3, 4), "body": random(4, 3)})
    assert bits(optimizer, weights) == before
    assert [part.global_norm for part in optimizer.optimizers] == [None, None]


def test_a_stateless_step_knows_the_names() -> None:
    weights = {"kernel": random(3, 4), "embedding": random(3, 4), "head": random(4, 3)}
    optimizer = fo.Muon(exclude_layers=["head"])
    optimizer.build(weights)
    gradients = [random(*w.shape, seed=1) for w in weights.values()]
    optimizer.apply(gradients)
    before = bits(optimizer, weights)
    state = [np.array(v) for v in optimizer.variables]
    updated, new_state = optimizer.stateless_apply(state, gradients, list(weights.values()))
    assert bits(optimizer, weights) == before
    optimizer.apply(gradients)
    assert bits(optimizer, weights) == [a.tobytes() for a in [*updated, *new_state]]
