"""Optax and Keras on the same numbers. PyTorch has a module of its own.

Each public function makes a step from a workload, or raises Absent. A library is imported only when it
is asked for.
"""

from __future__ import annotations

import importlib
import os
from functools import cache, partial
from typing import Any

import fusedopt as fo
from fusedopt.bench.peer_settings import (
    BACKOFF,
    GROWTH,
    GROWTH_STEPS,
    INITIAL_SCALE,
    made,
    settings_of,
)
from fusedopt.bench.workload import Absent, Array, Ready, Workload


def in_optax(workload: Workload, variables: list[Array], gradients: list[Array]) -> Ready:
    """Optax, everything in one program of XLA's that takes its own results' memory back."""
    if not workload.is_mixed or workload.rule != "AdamW":
        raise Absent("written for the mixed pipeline with AdamW only")
    if _threads_of_xla() != fo.get_num_threads():
        raise Absent("keeps the number of threads that it began with")
    jax: Any = importlib.import_module("jax")
    optax: Any = importlib.import_module("optax")
    settings = settings_of(workload)
    jnp = jax.numpy
    rule = optax.chain(
        optax.clip_by_global_norm(settings["global_clipnorm"]),
        optax.adamw(
            settings["learning_rate"],
            b1=settings["beta_1"],
            b2=settings["beta_2"],
            eps=settings["epsilon"],
            weight_decay=settings["weight_decay"],
        ),
    )

    def advanced(state: Any, scaled: Any) -> Any:
        parameters, averages, inner, scale, good_steps = state
        grads = [g.astype(jnp.float32) / scale for g in scaled]
        # A float16's square is no infinity in float32.
        is_finite = jnp.isfinite(optax.tree.norm(grads))
        updates, new_inner = rule.update(grads, inner, parameters)
        new_parameters = optax.apply_updates(parameters, updates)
        rate = 1 - settings["ema_momentum"]
        new_averages = optax.incremental_update(new_parameters, averages, rate)
        kept = jax.tree.map(
            partial(jnp.where, is_finite),
            (new_parameters, new_averages, new_inner),
            (parameters, averages, inner),
        )
        grows = good_steps + 1 == GROWTH_STEPS
        new_scale = jnp.where(is_finite, jnp.where(grows, GROWTH, 1.0), BACKOFF) * scale
        return *kept, new_scale, jnp.where(is_finite & ~grows, good_steps + 1, 0)

    program = jax.jit(advanced, donate_argnums=0)
    scaled = [jnp.array(g) for g in gradients]
    own = [jnp.array(w) for w in variables]
    averages = [jnp.array(w) for w in variables]
    scale = jnp.float32(INITIAL_SCALE)
    state = (own, averages, rule.init(own), scale, jnp.int32(0))
    # Results come in other arrays; this list always holds the last ones.
    current = list(own)

    def step() -> None:
        nonlocal state
        state = jax.block_until_ready(program(state, scaled))
        current[:] = state[0]

    return Ready(step, current, list)


@cache
def _threads_of_xla() -> int:
    """Give XLA the number of threads; it reads it once, when the first array is made."""
    threads = fo.get_num_threads()
    os.environ["PJRT_NPROC"] = os.environ["NPROC"] = str(threads)
    return threads


def in_keras(workload: Workload, variables: list[Array], gradients: list[Array]) -> Ready:
    """Keras, on the backend that `environment` chose."""
    keras: Any = importlib.import_module("keras")

    rule_class = getattr(keras.optimizers, workload.rule, None)
    if rule_class is None:
        raise Absent("no such rule")
    optimizer = made(rule_class, workload.arguments)
    if workload.is_mixed:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    own = [keras.Variable(w) for w in variables]
    tensors = [keras.ops.convert_to_tensor(g) for g in gradients]
    optimizer.build(own)

    def step() -> None:
        optimizer.apply(tensors, own)

    return Ready(step, own, list)
