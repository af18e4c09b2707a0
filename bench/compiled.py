"""The mixed pipeline by compilers: PyTorch's, and XLA with optax's rule. Each is imported only when it is asked for."""

from __future__ import annotations

import importlib
import os
from functools import cache, partial
from typing import Any

import fusedopt as fo
from fusedopt.bench.peer_settings import settings_of
from fusedopt.bench.workload import Absent, Array, Ready, Workload
from mixed import BACKOFF, GROWTH, GROWTH_STEPS, INITIAL_SCALE, MixedWorkload

# PyTorch's compiler needs a minute for a hundred tensors, and three for half as many more.
MOST_COMPILED_TENSORS = 200


def require_known(workload: Workload) -> None:
    if not isinstance(workload, MixedWorkload) or workload.rule != "AdamW":
        raise Absent("written for the mixed pipeline with AdamW only")


def torch_compiled(workload: Workload, variables: list[Array], gradients: list[Array]) -> Ready:
    """The same for AdamW, compiled: two sweeps, and no float32 gradient is ever written.

    The question whether to skip lies between the two, as in GradScaler, whose own update follows.
    """
    require_known(workload)
    if len(variables) > MOST_COMPILED_TENSORS:
        raise Absent(f"takes minutes to compile {workload.name}")
    # No processes of the compiler that start during a measurement.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    torch: Any = importlib.import_module("torch")
    adamw = importlib.import_module("torch.optim.adamw").adamw
    settings = settings_of(workload)
    scaled = [torch.from_numpy(g) for g in gradients]
    parameters = [torch.from_numpy(w) for w in variables]
    momenta, velocities = ([torch.zeros_like(w) for w in parameters] for _ in range(2))
    averages = [w.clone() for w in parameters]
    counts = [torch.zeros(()) for _ in parameters]
    scale = torch.tensor(INITIAL_SCALE)
    growth = torch.tensor(0, dtype=torch.int32)

    def measured() -> tuple[Any, Any]:
        norm = torch.nn.utils.get_total_norm([g.float() / scale for g in scaled])
        clip = torch.clamp(settings["global_clipnorm"] / (norm + 1e-6), max=1.0)
        # A float16's square is no infinity in float32.
        return (~torch.isfinite(norm)).float(), clip / scale

    def update(factor: Any) -> None:
        adamw(
            parameters,
            [g.float() * factor for g in scaled],
            momenta,
            velocities,
            [],
            counts,
            foreach=True,
            capturable=True,
            amsgrad=settings["amsgrad"],
            beta1=settings["beta_1"],
            beta2=settings["beta_2"],
            lr=settings["learning_rate"],
            weight_decay=settings["weight_decay"],
            eps=settings["epsilon"],
            maximize=False,
        )
        torch._foreach_lerp_(averages, parameters, 1 - settings["ema_momentum"])

    # Other shapes' versions of these two functions count against a limit.
    torch.compiler.reset()
    compiled_measured, compiled_update = (
        torch.compile(one, fullgraph=True, dynamic=False) for one in (measured, update)
    )

    def step() -> None:
        overflow, factor = compiled_measured()
        if not overflow.item():
            compiled_update(factor)
        torch._amp_update_scale_(scale, growth, overflow, GROWTH, BACKOFF, GROWTH_STEPS)

    slots = [[slot.numpy() for slot in own] for own in zip(momenta, velocities, strict=True)]
    return Ready(step, variables, lambda: slots)


def in_optax(workload: Workload, variables: list[Array], gradients: list[Array]) -> Ready:
    """Optax, everything in one program of XLA's that takes its own results' memory back."""
    require_known(workload)
    if _threads_of_xla() != fo.get_num_threads():
        raise Absent("keeps the number of threads that it began with")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
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
