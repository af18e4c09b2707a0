"""JAX's arrays as gradients; as variables they are refused, because they never change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fusedopt as fo
import numpy as np
import pytest

jax = pytest.importorskip("jax")
pytestmark = pytest.mark.filterwarnings("ignore:optimizer_map. no variable's name matches")

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "adam": fo.Adam,
    "loss_scale": lambda: fo.LossScaleOptimizer(fo.SGD(), initial_scale=1.0),
    "multi": lambda: fo.MultiOptimizer(fo.OptimizerMap(fo.SGD(), {"b": fo.Adam()})),
}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@every_optimizer
def test_gradients(make: Callable[[], Any], dtype: str) -> None:
    w, copy = (np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3) for _ in range(2))
    optimizer, other = make(), make()
    optimizer.build({"b": w})
    other.build({"b": copy})
    gradient = jax.grad(lambda x: (x**2).sum())(jax.numpy.asarray(copy)).astype(dtype)
    for _ in range(3):
        optimizer.apply([gradient])
        optimizer.apply({"b": gradient})
        for _ in range(2):
            other.apply([np.asarray(gradient)])
    assert w.tobytes() == copy.tobytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@every_optimizer
def test_variables_are_refused(make: Callable[[], Any], dtype: str) -> None:
    x = jax.numpy.ones(3, dtype)
    optimizer = make()
    with pytest.raises(
        ValueError,
        match=r"^variable 0 \('b'\): expected writable memory, .* read-only; give numpy.array",
    ):
        optimizer.build({"b": x})
    with pytest.raises(ValueError, match="expected writable memory"):
        optimizer.apply([np.ones(3)], [x])
    assert not optimizer.built
    assert (x == 1).all()


def test_state() -> None:
    optimizer = fo.Adam()
    optimizer.build([np.ones(3, np.float32)])
    optimizer.set_weights([jax.numpy.asarray(x) for x in optimizer.variables])
    new, _ = optimizer.stateless_apply(
        optimizer.variables, [jax.numpy.ones(3)], [jax.numpy.ones(3)]
    )
    assert (new[0] < 1).all()


def test_what_holds_no_numbers_is_refused() -> None:
    w = np.ones(3)
    optimizer = fo.SGD()
    optimizer.build([w])
    deleted = jax.numpy.ones(3)
    deleted.delete()
    for value, message in (
        (deleted, "deleted"),
        (jax.random.key(0), "PRNGKey"),
        (jax.numpy.ones(3, int), "found dtype int"),
        (jax.numpy.ones(3, complex), "found dtype complex"),
    ):
        with pytest.raises(TypeError, match=f"^gradient of variable 0: .*{message}"):
            optimizer.apply([value])
    with pytest.raises(TypeError, match="^gradient of variable 0: .*Tracer"):
        jax.jit(lambda x: optimizer.apply([x]))(jax.numpy.ones(3))
    assert w.tolist() == [1.0] * 3
