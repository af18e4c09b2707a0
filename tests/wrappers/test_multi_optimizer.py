"""`MultiOptimizer`: each optimizer does what it would do alone, and all of them write or none."""

from __future__ import annotations

from typing import Any

import fusedopt as fo
import numpy as np
import pytest

Arrays = dict[str, np.ndarray[Any, Any]]


def make_weights() -> Arrays:
    rng = np.random.default_rng(0)
    shapes = {
        "encoder/kernel": (40, 5),
        "encoder/bias": (5,),
        "decoder/kernel": (3000,),
        "head": (),
    }
    return {
        name: np.array(rng.standard_normal(shape), np.float32) for name, shape in shapes.items()
    }


def make_gradients(step: int) -> Arrays:
    rng = np.random.default_rng(100 + step)
    return {
        name: np.array(rng.standard_normal(w.shape), np.float32)
        for name, w in make_weights().items()
    }


def make_map() -> fo.OptimizerMap:
    return fo.OptimizerMap(
        fo.Nadam(learning_rate=0.01, use_ema=True),
        {
            "encoder/.*": fo.AdamW(learning_rate=0.1, global_clipnorm=0.5),
            "head": fo.SGD(learning_rate=0.5, momentum=0.9, gradient_accumulation_steps=2),
        },
    )


PARTS = [["encoder/kernel", "encoder/bias"], ["head"], ["decoder/kernel"]]


def run_apart(steps: int, scale: float | None = None) -> tuple[Arrays, list[fo.Optimizer]]:
    weights = make_weights()
    optimizers = make_map().optimizers()
    for optimizer, names in zip(optimizers, PARTS, strict=True):
        optimizer.build({name: weights[name] for name in names})
    for step in range(steps):
        gradients = make_gradients(step)
        for optimizer, names in zip(optimizers, PARTS, strict=True):
            optimizer.apply({name: gradients[name] for name in names})
    return weights, optimizers


def assert_same(a: Arrays, b: Arrays) -> None:
    for name in a:
        assert a[name].tobytes() == b[name].tobytes(), name


def test_it_does_what_its_optimizers_do_alone() -> None:
    expected, alone = run_apart(7)
    weights = make_weights()
    optimizer = fo.MultiOptimizer(make_map())
    optimizer.build(weights)
    for step in range(7):
        gradients = make_gradients(step)
        if step % 2:
            optimizer.apply(gradients)
        else:
            order = list(reversed(weights))
            optimizer.apply([gradients[n] for n in order], [weights[n] for n in order])
    assert_same(weights, expected)
    assert optimizer.iterations == 7
    listed = optimizer.variables
    inner = [variable for each in alone for variable in each.variables]
    assert (int(listed[0]), float(listed[1])) == (7, 0.0)
    assert [v.tobytes() for v in listed[2:]] == [v.tobytes() for v in inner]
    optimizer.finalize_variable_values(list(weights.values()))
    alone[2].finalize_variable_values([expected["decoder/kernel"]])
    assert_same(weights, expected)


def test_under_a_loss_scale_all_skip_together() -> None:
    expected, _ = run_apart(4)
    weights = make_weights()
    optimizer = fo.LossScaleOptimizer(fo.MultiOptimizer(make_map()), initial_scale=512.0)
    optimizer.build(weights)
    step = 0
    for call in range(6):
        scale = np.float32(optimizer.dynamic_scale)
        gradients = {name: np.array(g * scale) for name, g in make_gradients(step).items()}
        if call in (1, 4):
            gradients["head"][...] = np.inf
            before = [v.tobytes() for v in optimizer.variables[4:]]
            optimizer.apply(gradients)
            assert [v.tobytes() for v in optimizer.variables[4:]] == before
        else:
            optimizer.apply(gradients)
            step += 1
    assert optimizer.dynamic_scale == 128.0
    assert_same(weights, expected)


def test_a_refusal_by_one_leaves_all_as_they_were() -> None:
    weights = make_weights()
    optimizer = fo.MultiOptimizer(make_map())
    optimizer.build(weights)
    optimizer.apply(make_gradients(0))
    before = [w.tobytes() for w in weights.values()] + [v.tobytes() for v in optimizer.variables]
    for name, bad in {
        "decoder/kernel": np.zeros(3, np.float32),
        "head": np.zeros((), np.int64),
        "encoder/bias": weights["decoder/kernel"][:5],
    }.items():
        with pytest.raises((ValueError, TypeError), match="expected"):
            optimizer.apply(make_gradients(1) | {name: bad})
        after = [w.tobytes() for w in weights.values()] + [v.tobytes() for v in optimizer.variables]
        assert after == before


def test_a_failing_learning_rate_of_the_last_leaves_the_first_as_it_was() -> None:
    def fail() -> float:
        raise RuntimeError("no rate today")

    weights = {"a": np.ones(3), "b": np.ones(3)}
    optimizer = fo.MultiOptimizer(fo.OptimizerMap(fo.SGD(fail), {"a": fo.SGD(1.0)}))
    optimizer.build(weights)
    with pytest.raises(RuntimeError, match="no rate today"):
        optimizer.apply({"a": np.ones(3), "b": np.ones(3)})
    assert_same(weights, {"a": np.ones(3), "b": np.ones(3)})
    assert optimizer.iterations == 0


def test_variables_of_different_optimizers_must_not_overlap() -> None:
    memory = np.zeros(10)
    optimizer = fo.MultiOptimizer(fo.OptimizerMap(fo.SGD(), {"a": fo.Adam()}))
    with pytest.raises(ValueError, match="overlapping"):
        optimizer.build({"a": memory[:6], "b": memory[5:]})
    assert not optimizer.built
    assert not any(inner.built for inner in optimizer.optimizers)


def test_the_map_looks_up_keys_first_then_whole_matches() -> None:
    sgd, adam, lion = fo.SGD(), fo.Adam(), fo.Lion()
    optimizers = fo.OptimizerMap(sgd, {"encoder/.*": adam, "encoder/bias": lion})
    assert optimizers["encoder/bias"] is lion
    assert optimizers["encoder/kernel"] is adam
    assert optimizers["the/encoder/kernel"] is sgd
    optimizers[".*/kernel"] = lion
    with pytest.raises(ValueError, match=r"'encoder/kernel'.*found 'encoder/\.\*', '\.\*/kernel'"):
        optimizers["encoder/kernel"]
    with pytest.raises(ValueError, match="set already"):
        optimizers["encoder/bias"] = sgd
    del optimizers[".*/kernel"]
    assert (len(optimizers), list(optimizers)) == (2, ["encoder/.*", "encoder/bias"])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fo.OptimizerMap("sgd"), TypeError, "default_optimizer: expected an Optimizer"),
        (lambda: fo.OptimizerMap(fo.SGD(), {"a": 3}), TypeError, r"optimizer_map\['a'\]: expected"),
        (lambda: fo.OptimizerMap(fo.SGD(), {"(": fo.SGD()}), ValueError, "regular expression"),
        (lambda: fo.OptimizerMap(fo.SGD(), [1]), TypeError, "expected a dict"),
        (
            lambda: fo.OptimizerMap(fo.LossScaleOptimizer(fo.SGD())),
            ValueError,
            "found a LossScaleOptimizer",
        ),
        (
            lambda: fo.OptimizerMap(fo.SGD(), {"a": fo.MultiOptimizer(fo.OptimizerMap(fo.SGD()))}),
            ValueError,
            "found a MultiOptimizer",
        ),
        (lambda: fo.MultiOptimizer(fo.SGD()), TypeError, "expected an OptimizerMap"),
        (
            lambda: fo.MultiOptimizer(fo.OptimizerMap(fo.SGD()), loss_scale_factor=0.0),
            ValueError,
            "loss_scale_factor: expected a finite number > 0",
        ),
    ],
)
def test_bad_arguments(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_what_belongs_to_each_optimizer_is_refused_here() -> None:
    optimizer = fo.MultiOptimizer(make_map())
    with pytest.raises(AttributeError, match="no learning rate"):
        _ = optimizer.learning_rate
    built = fo.SGD()
    built.build([np.zeros(2)])
    with pytest.raises(ValueError, match="expected unbuilt ones"):
        fo.MultiOptimizer(fo.OptimizerMap(built))


def test_loss_scale_factor_replaces_the_inner_ones() -> None:
    inner = fo.SGD(1.0, loss_scale_factor=8.0)
    w = np.zeros(2)
    optimizer = fo.MultiOptimizer(fo.OptimizerMap(inner), loss_scale_factor=4.0)
    optimizer.build({"w": w})
    assert (inner.loss_scale_factor, optimizer.scale_loss(2.0)) == (4.0, 8.0)
    optimizer.apply({"w": np.full(2, 4.0)})
    np.testing.assert_array_equal(w, [-1.0, -1.0])


def test_config_and_state_make_an_equal_optimizer() -> None:
    weights = make_weights()
    optimizer = fo.MultiOptimizer(make_map())
    optimizer.build(weights)
    for step in range(3):
        optimizer.apply(make_gradients(step))
    other = fo.deserialize(fo.serialize(optimizer))
    assert isinstance(other, fo.MultiOptimizer)
    copies = {name: w.copy() for name, w in weights.items()}
    other.build(copies)
    store: dict[str, Any] = {}
    optimizer.save_own_variables(store)
    other.load_own_variables(store)
    for step in range(3, 6):
        optimizer.apply(make_gradients(step))
        other.apply(make_gradients(step))
    assert_same(weights, copies)


def test_stateless_apply_equals_apply() -> None:
    weights = make_weights()
    optimizer = fo.MultiOptimizer(make_map())
    optimizer.build(weights)
    optimizer.apply(make_gradients(0))
    before = {name: w.copy() for name, w in weights.items()}
    new, state = optimizer.stateless_apply(
        optimizer.variables, list(make_gradients(1).values()), list(weights.values())
    )
    assert_same(weights, before)
    optimizer.apply(make_gradients(1))
    assert [a.tobytes() for a in new] == [w.tobytes() for w in weights.values()]
    assert [a.tobytes() for a in state] == [v.tobytes() for v in optimizer.variables]


def test_a_variable_that_is_refused_in_another_build_is_named() -> None:
    weights: Any = make_weights()
    optimizer = fo.MultiOptimizer(make_map())
    optimizer.build(weights)
    weights["odd"] = np.ma.masked_array(np.ones(2), mask=True)
    with pytest.raises(TypeError, match=r"variable 4 \('odd'\): expected an array without a mask"):
        optimizer.build(weights)
