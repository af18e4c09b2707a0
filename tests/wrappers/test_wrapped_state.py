"""A wrapper's state, counters and warnings include those of the optimizer inside, and all of it comes back."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import fusedopt as fo
import numpy as np
import pytest


def multi(**options: Any) -> fo.MultiOptimizer:
    return fo.MultiOptimizer(fo.OptimizerMap(fo.Adam(), {"a": fo.SGD(momentum=0.9)}), **options)


WRAPPERS: dict[str, Callable[[], Any]] = {
    "loss scale": lambda: fo.LossScaleOptimizer(fo.Adam(global_clipnorm=1.0)),
    "multi": lambda: multi(global_clipnorm=1.0),
    "multi in loss scale": lambda: fo.LossScaleOptimizer(multi(global_clipnorm=1.0)),
}
wrappers = pytest.mark.parametrize("make", WRAPPERS.values(), ids=WRAPPERS)


def built(make: Callable[[], Any], steps: int = 3) -> Any:
    optimizer = make()
    optimizer.build({"a": np.ones(3), "b": np.ones(2)})
    for _ in range(steps):
        optimizer.apply({"a": np.ones(3), "b": np.full(2, 0.5)})
    return optimizer


def state(optimizer: Any) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in optimizer._core.state()}


@wrappers
def test_counters_are_those_inside(make: Callable[[], Any]) -> None:
    optimizer = make()
    assert not optimizer.built
    assert optimizer.iterations == 0
    optimizer = built(make)
    assert optimizer.built
    assert optimizer.iterations == 3
    assert optimizer.global_norm > 0
    w = optimizer._core.arrays
    assert optimizer.apply_gradients([(np.ones(3), w[0]), (np.ones(2), w[1])]) == 4
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    assert (inner.iterations, inner.global_norm) == (4, optimizer.global_norm)


@wrappers
@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))]
)
@pytest.mark.parametrize("steps", [0, 3])
def test_everything_listed_comes_back(make: Any, copied: Any, steps: int) -> None:
    """Also the counters and rates of wrappers that nothing reads, which Keras lists."""
    optimizer = built(make, steps)
    for name, array in optimizer.named_variables().items():
        if name.endswith(("iteration", "learning_rate")):
            array[...] = 7
    same = copied(optimizer)
    assert state(same) == state(optimizer)
    other = built(make, 0)
    other.set_weights(optimizer.variables)
    listed = optimizer.named_variables()
    assert {n: a.tobytes() for n, a in other.named_variables().items()} == {
        n: a.tobytes() for n, a in listed.items()
    }


@wrappers
def test_an_unbuilt_copy_keeps_what_was_assigned(make: Any) -> None:
    optimizer = make()
    for name, array in optimizer._core.state():
        if name.endswith("iteration"):
            array[...] = 5
    assert state(copy.deepcopy(optimizer)) == state(optimizer)


def test_what_a_wrapper_has_not() -> None:
    optimizer = fo.LossScaleOptimizer(multi())
    for each in (optimizer, optimizer.inner_optimizer):
        with pytest.raises(AttributeError, match="MultiOptimizer has no learning rate"):
            _ = each.learning_rate
        with pytest.raises(AttributeError, match="MultiOptimizer has no learning rate"):
            each.learning_rate = 0.1
    with pytest.raises(AttributeError, match="LossScaleOptimizer has no skipped_steps"):
        _ = optimizer.skipped_steps


def excluding(optimizer: Any, *, part: Any = None) -> Any:
    (part or optimizer).exclude_from_weight_decay(var_names=["nothing"])
    return optimizer


def loss_scale_of_multi() -> Any:
    member = fo.AdamW()
    optimizers = fo.OptimizerMap(fo.SGD(), {"a": member})
    return excluding(fo.LossScaleOptimizer(fo.MultiOptimizer(optimizers)), part=member)


@pytest.mark.parametrize(
    "make",
    [
        lambda: excluding(fo.AdamW()),
        lambda: excluding(fo.LossScaleOptimizer(fo.AdamW())),
        lambda: fo.MultiOptimizer(fo.OptimizerMap(fo.SGD(), {"none": fo.Adam()})),
        loss_scale_of_multi,
    ],
    ids=["rule", "loss scale", "multi", "multi in loss scale"],
)
@pytest.mark.parametrize(
    "way",
    [
        lambda optimizer, w: optimizer.build({"a": w}),
        lambda optimizer, w: optimizer.apply([np.ones(2)], [w]),
    ],
    ids=["build", "apply"],
)
def test_a_warning_points_to_the_line_that_led_to_it(make: Any, way: Any) -> None:
    optimizer = make()
    with pytest.warns(UserWarning, match="no variable's name matches") as caught:
        way(optimizer, np.ones(2))
    assert {warning.filename for warning in caught} == {__file__}


def test_a_schedule_checks_what_is_assigned() -> None:
    schedule = fo.schedules.CosineDecay(0.1, 100)
    with pytest.raises(TypeError, match="alpha: expected a real number"):
        schedule.alpha = "half"  # type: ignore[assignment]
    schedule.alpha = 1
    assert schedule(50) == 0.1
    assert schedule.get_config()["alpha"] == 1


def test_a_member_that_refuses_keeps_all_from_loading() -> None:
    # Keras lists no product for a wrapped Nadam. It is restored by beta_1, a function of the caller's.
    refuses = False

    def beta_1() -> float:
        if refuses:
            raise RuntimeError("no beta_1 today")
        return 0.9

    def make() -> Any:
        members = fo.OptimizerMap(fo.Adam(), {"b": fo.Nadam(beta_1=beta_1)})
        return fo.LossScaleOptimizer(fo.MultiOptimizer(members))

    trained, other = built(make), built(make, 1)
    before = state(other)
    refuses = True
    with pytest.raises(RuntimeError, match="no beta_1 today"):
        other.set_weights(trained.variables)
    assert state(other) == before
    refuses = False
    other.set_weights(trained.variables)
    assert state(other) == state(trained)
