"""thinc's numbers: over many steps, each optimizer of fusedopt.thinc is thinc's own within the rounding of float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

thinc = pytest.importorskip("thinc.api")
ft = pytest.importorskip("fusedopt.thinc")

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "decay": {"L2": 0.1},
    "strong decay": {"L2": 20.0},
    "decay in the gradient": {"L2": 0.1, "L2_is_weight_decay": False},
    "unclipped": {"grad_clip": 0.0},
    "clipped hard": {"grad_clip": 0.01, "L2": 0.1, "L2_is_weight_decay": False},
    "no averages": {"use_averages": False},
}
ADAM_OPTIONS: dict[str, dict[str, Any]] = {
    "quick betas": {"beta1": 0.5, "beta2": 0.6},
    "slow betas": {"beta1": 0.99, "beta2": 0.9999},
    "large epsilon": {"eps": 0.1},
}
CASES = [
    pytest.param(rule, options, id=f"{rule}-{name}")
    for rule in ("Adam", "RAdam", "SGD")
    for name, options in (OPTIONS if rule == "SGD" else OPTIONS | ADAM_OPTIONS).items()
]
SHAPES = {
    (1, "W"): (7, 5),
    (1, "b"): (7,),
    (2, "W"): (3, 2, 4),
    (3, "E"): (2000, 3),
    (4, "p"): (1,),
}


def weights_of(seed: int = 0) -> dict[Any, Any]:
    random = np.random.default_rng(seed)
    return {key: random.normal(size=shape).astype(np.float32) for key, shape in SHAPES.items()}


def gradients_of(shape: tuple[int, ...], seed: int = 1) -> Iterator[Any]:
    """Gradients of many sizes, on both sides of the limit of clipping, with zeros among them."""
    random = np.random.default_rng(seed)
    while True:
        gradient = random.normal(size=shape) * random.choice([0.0, 1e-3, 0.1, 1.0, 30.0])
        yield np.where(random.random(shape) < 0.1, 0.0, gradient).astype(np.float32)


def assert_close(found: Any, expected: Any, what: str = "weights") -> None:
    """Assert that two arrays are the same but for rounding, of which 150 steps have made many."""
    rounding = 3e-6 * np.abs(expected).max(initial=0.0)
    np.testing.assert_allclose(found, expected, rtol=5e-6, atol=rounding, err_msg=what)


def assert_same_state(ours: Any, theirs: Any) -> None:
    assert ours.nr_update == theirs.nr_update
    for name in ("mom1", "mom2", "averages"):
        mine, thincs = getattr(ours, name), getattr(theirs, name)
        assert (mine is None) == (thincs is None)
        if mine is None:
            continue
        assert mine.keys() == thincs.keys()
        for key, array in thincs.items():
            assert mine[key].shape == array.shape
            assert mine[key].dtype == array.dtype
            assert_close(mine[key], array, name)


@pytest.mark.parametrize(("rule", "options"), CASES)
def test_many_steps(rule: str, options: dict[str, Any]) -> None:
    ours = getattr(ft, rule)(0.01, **options)
    theirs = getattr(thinc, rule)(0.01, **options)
    weights, expected = weights_of(), weights_of()
    gradients = {key: gradients_of(shape) for key, shape in SHAPES.items()}
    for _ in range(150):
        for key, w in weights.items():
            g = next(gradients[key])
            theirs(key, expected[key], g.copy())
            returned = ours(key, w, g)
            assert returned[0] is w
            assert returned[1] is g
            assert not g.any()
        ours.step_schedules()
        theirs.step_schedules()
    for key, w in weights.items():
        assert_close(w, expected[key])
    assert_same_state(ours, theirs)


@pytest.mark.parametrize("rule", ["Adam", "RAdam", "SGD"])
def test_each_key_has_its_own_count(rule: str) -> None:
    """A parameter that joins late starts at update 1, with its own corrections and average."""
    ours, theirs = getattr(ft, rule)(0.01, L2=0.1), getattr(thinc, rule)(0.01, L2=0.1)
    weights, expected = weights_of(), weights_of()
    gradients = {key: gradients_of(shape) for key, shape in SHAPES.items()}
    for step in range(40):
        for number, (key, w) in enumerate(weights.items()):
            if step >= 5 * number and (step + number) % (number + 1) == 0:
                g = next(gradients[key])
                theirs(key, expected[key], g.copy())
                ours(key, w, g)
    assert len(set(ours.nr_update.values())) == len(SHAPES)
    for key, w in weights.items():
        assert_close(w, expected[key])
    assert_same_state(ours, theirs)


@pytest.mark.parametrize("rule", ["Adam", "RAdam", "SGD"])
def test_lr_scale(rule: str) -> None:
    ours, theirs = getattr(ft, rule)(0.01, L2=0.1), getattr(thinc, rule)(0.01, L2=0.1)
    w, expected = np.ones((2, 3), np.float32), np.ones((2, 3), np.float32)
    gradients = gradients_of((2, 3))
    for scale in [1.0, 0.0, 3.5, 0.25] * 5:
        g = next(gradients)
        theirs((1, "W"), expected, g.copy(), lr_scale=scale)
        ours((1, "W"), w, g, lr_scale=scale)
    assert_close(w, expected)
    with pytest.raises(TypeError):
        ours((1, "W"), w, g, 0.5)


@pytest.mark.parametrize("rule", ["Adam", "RAdam", "SGD"])
def test_a_rate_of_zero_leaves_the_weights_as_they_are(rule: str) -> None:
    optimizer = getattr(ft, rule)(0.0, L2=0.1)
    w = weights_of()[1, "W"]
    before = w.copy()
    optimizer((1, "W"), w, np.ones_like(w))
    assert w.tobytes() == before.tobytes()
    assert optimizer.nr_update[1, "W"] == 1


def test_radam_before_and_after_its_variance_is_known() -> None:
    """It moves along m alone at first, whatever the size of the gradient, and is like Adam from then on."""
    for size in (1e-12, 1.0, 1e6):
        ours, theirs = ft.RAdam(0.01, grad_clip=0.0), thinc.RAdam(0.01, grad_clip=0.0)
        w, expected = np.zeros(3, np.float32), np.zeros(3, np.float32)
        for _ in range(12):
            g = np.array([size, -size, size / 3], np.float32)
            theirs((1, "W"), expected, g.copy())
            ours((1, "W"), w, g)
            assert_close(w, expected)


@pytest.mark.parametrize("t", [0, 10, 1_000, 89_000, 10**6, 10**12])
def test_the_average_of_a_long_training(t: int) -> None:
    """Its decay grows with the count, until 0.9999."""
    ours, theirs = ft.Adam(0.1), thinc.Adam(0.1)
    w, expected = np.ones(50, np.float32), np.ones(50, np.float32)
    gradients = gradients_of((50,))
    for step in range(100):
        g = next(gradients)
        theirs((1, "W"), expected, g.copy())
        ours((1, "W"), w, g)
        if step == 0:
            ours.nr_update[1, "W"] = theirs.nr_update[1, "W"] = t
    assert_close(w, expected)
    assert_same_state(ours, theirs)


@pytest.mark.parametrize("rule", ["Adam", "RAdam", "SGD"])
def test_float64_is_computed_in_float64(rule: str) -> None:
    """thinc takes it in SGD alone. Against a float32 run, the numbers are the same within float32's rounding."""
    wide, narrow = getattr(ft, rule)(0.01, L2=0.1), getattr(ft, rule)(0.01, L2=0.1)
    w, single = np.linspace(-1.0, 1.0, 9), np.linspace(-1.0, 1.0, 9, dtype=np.float32)
    gradients = gradients_of((9,))
    for _ in range(50):
        g = next(gradients)
        narrow((1, "W"), single, g.copy())
        wide((1, "W"), w, g.astype(np.float64))
    assert_close(w, single)
    assert wide.averages[1, "W"].dtype == np.float64
    assert all(store[1, "W"].dtype == np.float64 for store in (wide.mom1, wide.mom2) if store)


def test_a_strided_weight_and_a_strided_gradient() -> None:
    base, gradients = np.ones((6, 8), np.float32), np.full((4, 6), 0.1, np.float32)
    w, g = base[::2, ::2], gradients.T[::2]
    expected = w.copy()
    thinc.Adam(0.1)((1, "W"), expected, g.copy())
    returned = ft.Adam(0.1)((1, "W"), w, g)
    assert returned[0] is w
    assert_close(base[::2, ::2], expected)
    assert (base[1::2] == 1.0).all()
    assert (base[:, 1::2] == 1.0).all()
    assert not gradients[:, ::2].any()
    assert (gradients[:, 1::2] == np.float32(0.1)).all()


@pytest.mark.parametrize("rule", ["Adam", "RAdam", "SGD"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_shows(rule: str, bad: float) -> None:
    w = np.ones(3, np.float32)
    optimizer = getattr(ft, rule)(0.1)
    g = np.array([0.1, bad, 0.2], np.float32)
    optimizer((1, "W"), w, g)
    assert np.isnan(w[1])
    assert not g.any()  # thinc's SGD and RAdam keep it, and every later gradient is added to it


def test_a_norm_beyond_the_range_of_float32_is_clipped() -> None:
    """thinc finds an infinite norm here, and takes the gradient for zero."""
    w = np.ones(3, np.float32)
    ft.SGD(0.1)((1, "W"), w, np.full(3, 1e30, np.float32))
    np.testing.assert_allclose(w, 1.0 - 0.1 / np.sqrt(3.0), rtol=1e-6)


def test_the_weights_may_be_another_array_each_time() -> None:
    """As where PyTorch's parameters pass through thinc: the state is the key's, and not the memory's."""
    ours, theirs = ft.Adam(0.01), thinc.Adam(0.01)
    w, expected = np.ones(4, np.float32), np.ones(4, np.float32)
    gradients = gradients_of((4,))
    for _ in range(20):
        g = next(gradients)
        w, expected = w.copy(), expected.copy()
        theirs((1, "W"), expected, g.copy())
        ours((1, "W"), w, g)
    assert_close(w, expected)
