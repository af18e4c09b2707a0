"""Hyperparameters that are assigned after construction act from the next step on, or they are refused."""

from __future__ import annotations

import math
import threading
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import LAZY_ONLY, RULES

# Another value for each hyperparameter, and the optimizer that it matters to, if that is not the plain one.
OTHER: dict[str, Any] = {
    "learning_rate": 0.05,
    "weight_decay": 0.3,
    "clipnorm": 0.5,
    "clipvalue": 0.1,
    "global_clipnorm": 0.5,
    "ema_momentum": 0.5,
    "ema_overwrite_frequency": 2,
    "loss_scale_factor": 8.0,
    "skip_nonfinite": True,
    "momentum": 0.6,
    "nesterov": True,
    "rho": 0.7,
    "epsilon": 1e-2,
    "beta_1": 0.6,
    "beta_2": 0.8,
    "learning_rate_power": -0.7,
    "l1_regularization_strength": 0.1,
    "l2_regularization_strength": 0.1,
    "l2_shrinkage_regularization_strength": 0.1,
    "beta": 0.2,
    "warmup_steps": 7,
    "beta_2_decay": -0.5,
    "epsilon_1": 1e-3,
    "epsilon_2": 5.0,
    "clip_threshold": 0.2,
    "relative_step": False,
    "adam_beta_1": 0.6,
    "adam_beta_2": 0.8,
    "adam_weight_decay": 0.3,
    "muon_a": 3.4,
    "muon_b": -4.7,
    "muon_c": 2.0,
    "adam_lr_ratio": 0.5,
    "ns_steps": 2,
    "rms_rate": 0.4,
    "seed": 12,
}
NEEDED: dict[str, dict[str, Any]] = {
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9},
    "ema_momentum": {"use_ema": True},
    "ema_overwrite_frequency": {"use_ema": True},
}
SHAPES_STATE = {
    "amsgrad": True,
    "centered": True,
    "rowwise": True,
    "use_ema": True,
    "gradient_accumulation_steps": 3,
    "initial_accumulator_value": 0.7,
    "exclude_layers": ["kernel"],
    "exclude_embeddings": False,
    "row_updates": "caught_up",
    "slot_dtype": "bfloat16",
    "slot_dtypes": {"kernel": "bfloat16"},
    "master": False,
}
WITHOUT_EFFECT_HERE = {"relative_step", "skip_nonfinite", "seed"}
WITHOUT_NUMBER = {"name", "matrix_product"}


def declared(rule: str) -> list[str]:
    return list(getattr(fo, rule)._hyperparameters)


ASSIGNED = [(rule, name) for rule in RULES for name in declared(rule) if name in OTHER]


def made(rule: str, name: str, **arguments: Any) -> Any:
    needed = {key: value for key, value in NEEDED.get(name, {}).items() if key in declared(rule)}
    if (rule, name) == ("Muon", "nesterov"):
        needed = {"nesterov": False}  # where it is the default
    return getattr(fo, rule)(**{"learning_rate": 0.1, **needed, **arguments})


def variables() -> dict[str, Any]:
    random = np.random.default_rng(5)
    return {
        "kernel": random.normal(size=(5, 3)).astype(np.float32),
        "embedding": random.normal(size=(2, 4)),
        "bias": random.normal(size=40).astype(np.float16),
    }


def gradients(step: int) -> dict[str, Any]:
    random = np.random.default_rng(100 + step)
    return {name: random.normal(size=w.shape).astype(w.dtype) for name, w in variables().items()}


def test_every_hyperparameter_is_covered() -> None:
    known = {*OTHER, *SHAPES_STATE, *WITHOUT_NUMBER}
    assert {name for rule in RULES for name in declared(rule)} == known


def steps(optimizer: Any, first: int) -> None:
    for step in range(first, first + 3):
        optimizer.apply(gradients(step))


def everything(optimizer: Any, weights: dict[str, Any]) -> list[bytes]:
    state = [array.tobytes() for _, array in optimizer._core.state() if _ != "skipped_steps"]
    return [*(w.tobytes() for w in weights.values()), *state]


@pytest.mark.parametrize(("rule", "name"), ASSIGNED)
@pytest.mark.parametrize("when", ["before build", "after build"])
def test_assigned_acts_from_the_next_step_on(rule: str, name: str, when: str) -> None:
    value = OTHER[name]
    optimizer, weights = made(rule, name), variables()
    other, other_weights = made(rule, name, **{name: value}), variables()
    if when == "before build":
        setattr(optimizer, name, value)
        optimizer.build(weights)
        other.build(other_weights)
    else:
        optimizer.build(weights)
        steps(optimizer, 0)
        setattr(optimizer, name, value)
        for key, w in weights.items():
            other_weights[key][...] = w
        other.build(other_weights)
        state = {key: array.copy() for key, array in optimizer._core.state()}
        own = dict(other._core.state())
        state["learning_rate"] = own["learning_rate"]
        if "skipped_steps" in own:
            state.setdefault("skipped_steps", own["skipped_steps"])
        other._core.set_state([state[key] for key in own])
    assert getattr(optimizer, name) == value
    assert optimizer.get_config() == other.get_config()
    steps(optimizer, 3)
    steps(other, 3)
    assert everything(optimizer, weights) == everything(other, other_weights)


@pytest.mark.parametrize(
    ("rule", "name"), [pair for pair in ASSIGNED if pair[1] not in WITHOUT_EFFECT_HERE]
)
def test_it_makes_a_difference(rule: str, name: str) -> None:
    """What the test above compares is not the same anyway."""
    results = []
    for assigns in (False, True):
        optimizer, weights = made(rule, name), variables()
        optimizer.build(weights)
        steps(optimizer, 0)
        if assigns:
            setattr(optimizer, name, OTHER[name])
        steps(optimizer, 3)
        results.append(everything(optimizer, weights))
    assert results[0] != results[1]


def test_weight_decay_of_adamw() -> None:
    w = np.ones(3)
    optimizer = fo.AdamW(0.1, weight_decay=0.004)
    optimizer.build([w])
    optimizer.weight_decay = 0.5
    optimizer.apply([np.zeros(3)])
    assert w.tolist() == [0.95] * 3


def test_loss_scale_factor_scales_and_unscales() -> None:
    w = np.ones(3)
    optimizer = fo.SGD(0.1, loss_scale_factor=1.0)
    optimizer.build([w])
    optimizer.loss_scale_factor = 1024.0
    assert optimizer.scale_loss(1.0) == 1024.0
    optimizer.apply([np.full(3, 1024.0)])
    assert w.tolist() == [0.9] * 3
    optimizer.loss_scale_factor = None
    assert optimizer.scale_loss(1.0) == 1.0


@pytest.mark.parametrize("rule", RULES)
def test_skip_nonfinite(rule: str) -> None:
    w = np.ones((2, 2))
    optimizer = getattr(fo, rule)()
    optimizer.build([w])
    optimizer.skip_nonfinite = True
    optimizer.apply([np.full((2, 2), np.nan)])
    assert (w.tolist(), optimizer.iterations) == ([[1.0, 1.0]] * 2, 0)
    assert optimizer.skipped_steps == 1
    optimizer.skip_nonfinite = False
    optimizer.apply([np.full((2, 2), np.nan)])
    assert optimizer.iterations == 1


@pytest.mark.parametrize("kind", ["number to function", "function to number"])
def test_betas_of_another_kind(kind: str) -> None:
    first, then = (0.9, lambda: 0.5) if kind == "number to function" else (lambda: 0.9, 0.5)
    results = []
    for start, change in [(first, then), (0.9, 0.5)]:
        w = np.ones(3)
        optimizer: Any = fo.Adam(0.1, beta_1=start)
        optimizer.build([w])
        optimizer.apply([np.array([1.0, -2.0, 3.0])])
        optimizer.beta_1 = change
        optimizer.apply([np.array([1.0, -2.0, 3.0])])
        results.append(w.tolist())
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (rule, name)
        for rule in RULES
        for name in declared(rule)
        if name in SHAPES_STATE and not (name == "row_updates" and rule in LAZY_ONLY)
    ],
)
def test_what_shapes_the_state(rule: str, name: str) -> None:
    optimizer, other = getattr(fo, rule)(0.1), getattr(fo, rule)(0.1, **{name: SHAPES_STATE[name]})
    setattr(optimizer, name, SHAPES_STATE[name])
    weights, other_weights = variables(), variables()
    optimizer.build(weights)
    other.build(other_weights)
    assert optimizer.get_config() == other.get_config()
    steps(optimizer, 0)
    steps(other, 0)
    assert everything(optimizer, weights) == everything(other, other_weights)

    built = getattr(fo, rule)(0.1)
    built.build(variables())
    before = built.get_config()
    setattr(built, name, getattr(built, name))
    with pytest.raises(
        AttributeError, match=f"^{name}: expected before build.*make a new optimizer"
    ):
        setattr(built, name, SHAPES_STATE[name])
    assert built.get_config() == before


@pytest.mark.parametrize("rule", ["SGD", "RMSprop"])
def test_momentum_of_no_slot(rule: str) -> None:
    optimizer = getattr(fo, rule)(0.1)
    optimizer.build([np.ones(3)])
    with pytest.raises(AttributeError, match="^momentum: expected before build"):
        optimizer.momentum = 0.9
    assert optimizer.momentum == 0.0
    optimizer.apply([np.ones(3)])


@pytest.mark.parametrize("rule", ["SGD", "RMSprop"])
def test_momentum_rests_at_zero(rule: str) -> None:
    w = np.ones(3)
    optimizer = getattr(fo, rule)(0.1, momentum=0.9)
    optimizer.build({"w": w})
    optimizer.apply([np.ones(3)])
    names = [name for name, _ in optimizer._core.state()]
    optimizer.momentum = 0.0
    optimizer.apply([np.ones(3)])
    optimizer.momentum = 0.9
    optimizer.apply([np.ones(3)])
    assert [name for name, _ in optimizer._core.state()] == names


REFUSED = [
    ("learning_rate", -1.0, ValueError),
    ("weight_decay", -1.0, ValueError),
    ("clipnorm", 0.0, ValueError),
    ("ema_momentum", 1.5, ValueError),
    ("ema_overwrite_frequency", -1, ValueError),
    ("loss_scale_factor", math.inf, ValueError),
    ("gradient_accumulation_steps", 1, ValueError),
    ("epsilon", -1.0, ValueError),
    ("beta_1", 1.0, ValueError),
    ("beta_2", "0.9", TypeError),
    ("use_ema", 1, TypeError),
    ("name", 5, TypeError),
]


@pytest.mark.parametrize(("name", "value", "error"), REFUSED)
@pytest.mark.parametrize("is_built", [False, True])
def test_refused_value_changes_nothing(
    name: str, value: Any, error: type[Exception], is_built: bool
) -> None:
    results = []
    for assigns in (False, True):
        w = np.ones(3)
        optimizer: Any = fo.Adam(0.1)
        if is_built:
            optimizer.build([w])
        before = optimizer.get_config()
        if assigns:
            allowed = (error, AttributeError) if name == "gradient_accumulation_steps" else error
            with pytest.raises(allowed, match=f"^{name}: expected"):
                setattr(optimizer, name, value)
        assert optimizer.get_config() == before
        optimizer.apply([np.arange(3.0)], [w])
        results.append(w.tolist())
    assert results[0] == results[1]


def test_two_clips_are_refused_one_after_the_other_is_not() -> None:
    optimizer = fo.Adam(clipnorm=1.0)
    with pytest.raises(ValueError, match="at most one"):
        optimizer.clipvalue = 1.0
    assert optimizer.clipvalue is None
    optimizer.clipnorm = None
    optimizer.clipvalue = 1.0


def test_all_faces_agree(tmp_path: Any) -> None:
    pytest.importorskip("safetensors")
    w = np.ones(3)
    optimizer = fo.AdamW(0.1)
    optimizer.build({"w": w})
    optimizer.apply([np.ones(3)])
    optimizer.weight_decay = 0.25
    optimizer.epsilon = 0.5
    assert fo.serialize(optimizer)["config"]["weight_decay"] == 0.25
    assert "epsilon=0.5" in repr(optimizer)
    (new,), _ = optimizer.stateless_apply(optimizer.variables, [np.ones(3)], [w])
    optimizer.save(tmp_path / "state")
    other = fo.deserialize(fo.serialize(optimizer))
    w_of_other = w.copy()
    other.build({"w": w_of_other})
    other.load(tmp_path / "state")
    other.apply([np.ones(3)])
    optimizer.apply([np.ones(3)])
    assert new.tolist() == w.tolist() == w_of_other.tolist()


def test_wrapped_and_mapped_optimizers() -> None:
    w, x = np.ones(2), np.ones(2)
    inner = fo.SGD(1.0)
    optimizer = fo.LossScaleOptimizer(inner, initial_scale=4.0, dynamic_growth_steps=1)
    optimizer.initial_scale = 2.0
    optimizer.build([w])
    optimizer.dynamic_growth_steps = 2
    inner.weight_decay = 0.5
    optimizer.apply([np.zeros(2)])
    assert (w.tolist(), optimizer.dynamic_scale) == ([0.5, 0.5], 2.0)
    optimizer.apply([np.zeros(2)])
    assert optimizer.dynamic_scale == 4.0
    optimizer.dynamic_scale = 16.0
    assert optimizer.scale_loss(1.0) == 16.0
    with pytest.raises(AttributeError, match="assign dynamic_scale instead"):
        optimizer.initial_scale = 8.0
    with pytest.raises(ValueError, match="dynamic_growth_steps: expected"):
        optimizer.dynamic_growth_steps = 0
    assert optimizer.get_config()["dynamic_growth_steps"] == 2

    member = fo.SGD(1.0)
    multi = fo.MultiOptimizer(fo.OptimizerMap(member))
    multi.build({"x": x})
    multi.loss_scale_factor = 2.0
    member.weight_decay = 0.5
    multi.apply([np.full(2, 0.5)])
    assert x.tolist() == [0.25, 0.25]
    multi.global_clipnorm = 0.125
    multi.skip_nonfinite = True
    member.weight_decay = None
    multi.apply([np.array([0.0, 8.0])])
    assert x.tolist() == [0.25, 0.125]
    multi.apply([np.array([0.0, np.nan])])
    assert multi.skipped_steps == 1


@pytest.mark.parametrize(
    ("rule", "slip", "meant"),
    [
        ("AdamW", "lr", "learning_rate"),
        ("AdamW", "wd", "weight_decay"),
        ("Adam", "momentum", "beta_1"),
        ("Adam", "beta1", "beta_1"),
        ("SGD", "momentun", "momentum"),
        ("RMSprop", "eps", "epsilon"),
        ("Lion", "betas", "beta_1 and beta_2"),
        ("Muon", "clip_norm", "clipnorm"),
    ],
)
def test_slips(rule: str, slip: str, meant: str) -> None:
    optimizer = getattr(fo, rule)()
    with pytest.raises(AttributeError, match=rf"has no attribute '{slip}'; did you mean {meant}\?"):
        setattr(optimizer, slip, 0.1)
    with pytest.raises(ValueError, match=rf"{slip}: did you mean {meant}\?"):
        getattr(fo, rule)(**{slip: 0.1})


def test_attributes_of_a_subclass() -> None:
    class Mine(fo.Adam):
        decays = 3

        def __init__(self, patience: int, **options: Any) -> None:
            super().__init__(**options)
            self.patience = patience

    optimizer: Any = Mine(patience=5, beta_1=0.5)
    optimizer.history = [1]
    assert (optimizer.patience, optimizer.history, optimizer.beta_1) == (5, [1], 0.5)
    with pytest.raises(AttributeError, match="did you mean learning_rate"):
        optimizer.lr = 0.1
    optimizer.build([np.ones(2)])
    optimizer.beta_1 = 0.25
    assert optimizer.get_config()["beta_1"] == 0.25


def test_assigned_before_the_constructor() -> None:
    class Mine(fo.Adam):
        def __init__(self) -> None:
            self.beta_1 = 0.5
            super().__init__()

    with pytest.raises(AttributeError, match="beta_1: expected after"):
        Mine()


def test_variables_in_the_place_of_the_learning_rate() -> None:
    for given in ([np.ones(2)], {"w": np.ones(2)}, (1.0, 2.0), np.ones((2, 2))):
        with pytest.raises(TypeError, match="(?s)^learning_rate: .*build takes the variables"):
            fo.AdamW(given)  # type: ignore[arg-type]


def test_threads_that_assign_and_step() -> None:
    w = np.ones(1000)
    optimizer = fo.Adam(0.1)
    optimizer.build([w])
    stop = threading.Event()

    def assigns(name: str) -> None:
        for k in range(2000):
            setattr(optimizer, name, 0.5 + k % 2 / 4)
        stop.set()

    threads = [threading.Thread(target=assigns, args=(name,)) for name in ("beta_1", "epsilon")]
    for thread in threads:
        thread.start()
    while not stop.is_set():
        optimizer.apply([np.ones(1000)])
    for thread in threads:
        thread.join()
    assert (optimizer.beta_1, optimizer.epsilon) == (0.75, 0.75)
    x, y = np.ones(3), np.ones(3)
    other = fo.Adam(0.1, beta_1=0.75, epsilon=0.75)
    for each, v in ((optimizer, x), (other, y)):
        twin = type(each).from_config(each.get_config())
        twin.apply([np.ones(3)], [v])
    assert x.tolist() == y.tolist()
