"""What other libraries call arguments and attributes: errors that say what it is here, and nothing else changes."""

from __future__ import annotations

import copy
import inspect
import pickle
import pydoc
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import RULES
from fusedopt.elsewhere import ATTRIBUTES, INSTEAD, MEANT, MEANT_IN_SCHEDULES, READ_ONLY

KNOWN = {name for rule in RULES for name in inspect.signature(getattr(fo, rule)).parameters}
KNOWN |= set(inspect.signature(fo.LossScaleOptimizer).parameters)
SCHEDULES = [getattr(fo.schedules, name) for name in fo.schedules.__all__ if "Decay" in name]


def multi() -> fo.MultiOptimizer:
    return fo.MultiOptimizer(fo.OptimizerMap(fo.AdamW()))


@pytest.mark.parametrize(
    ("make", "name", "advice"),
    [
        (fo.SGD, "dampening", "leave dampening out"),
        (fo.Adam, "foreach", "leave foreach out"),
        (fo.Adam, "fused", "leave fused out"),
        (fo.Adam, "params", "give the variables to build"),
        (fo.AdamW, "mask", "call exclude_from_weight_decay"),
        (fo.AdamW, "max_norm", "give global_clipnorm, clipnorm or clipvalue"),
        (fo.AdamW, "clip_grad_norm", "give global_clipnorm, clipnorm or clipvalue"),
        (fo.AdamW, "scheduler", "a schedule of fusedopt.schedules as learning_rate"),
        (fo.AdamW, "param_groups", "MultiOptimizer"),
        (fo.AdamW, "grad_accum", "did you mean gradient_accumulation_steps?"),
        (fo.AdamW, "num_threads", "call fusedopt.set_num_threads"),
        (fo.AdamW, "dtype", "slot_dtype"),
        (fo.AdamW, "skip_nan", "did you mean skip_nonfinite?"),
        (fo.Adam, "beta", "did you mean beta_1 and beta_2?"),
        (fo.RMSprop, "decay_rate", "did you mean rho?"),
        (fo.Muon, "ns_coeffs", "did you mean muon_a and muon_b and muon_c?"),
    ],
)
def test_argument_of_a_rule(make: Any, name: str, advice: str) -> None:
    with pytest.raises(ValueError, match=r"^unknown argument") as caught:
        make(**{name: 1})
    assert advice in str(caught.value)


@pytest.mark.parametrize("value", [1, None, 0.001])
def test_the_learning_rate_of_a_wrapper(value: float | None) -> None:
    for name in ("learning_rate", "beta_1", "momentum"):
        with pytest.raises(ValueError, match=f"^{name}: expected on the inner optimizer, found"):
            fo.LossScaleOptimizer(fo.AdamW(), **{name: value})
        with pytest.raises(ValueError, match=f"^{name}: expected on the optimizers of the map, fo"):
            fo.MultiOptimizer(fo.OptimizerMap(fo.AdamW()), **{name: value})


def test_other_names_on_a_wrapper() -> None:
    with pytest.raises(
        ValueError, match=r"lr: did you mean learning_rate on the inner optimizer\?"
    ):
        fo.LossScaleOptimizer(fo.AdamW(), lr=1)
    with pytest.raises(ValueError, match="learning_rate on the optimizers of the map"):
        fo.MultiOptimizer(fo.OptimizerMap(fo.AdamW()), lr=1)
    for name, advice in [
        ("growth_interval", "did you mean dynamic_growth_steps?"),
        ("init_scale", "did you mean initial_scale?"),
        ("growth_factor", "leave growth_factor out"),
        ("backoff_factor", "leave backoff_factor out"),
        ("enabled", "leave enabled out"),
        ("decay", "instead of decay give the inner optimizer a schedule"),
    ]:
        with pytest.raises(ValueError, match="^unknown") as caught:
            fo.LossScaleOptimizer(fo.AdamW(), **{name: 1})
        assert advice in str(caught.value)


@pytest.mark.parametrize(
    ("name", "argument", "advice"),
    [
        ("CosineDecay", "T_max", "did you mean decay_steps?"),
        ("CosineDecay", "eta_min", "give alpha, the last rate as a fraction of the first"),
        ("CosineDecay", "learning_rate", "did you mean initial_learning_rate?"),
        ("CosineDecayRestarts", "T_0", "did you mean first_decay_steps?"),
        ("ExponentialDecay", "gamma", "did you mean decay_rate?"),
        ("PolynomialDecay", "eta_min", "did you mean end_learning_rate?"),
        ("PiecewiseConstantDecay", "milestones", "did you mean boundaries?"),
        ("PiecewiseConstantDecay", "last_epoch", "leave last_epoch out"),
    ],
)
def test_argument_of_a_schedule(name: str, argument: str, advice: str) -> None:
    with pytest.raises(TypeError, match=rf"^{name}: unknown argument\(s\)") as caught:
        getattr(fo.schedules, name)(**{argument: 1})
    assert advice in str(caught.value)


def test_the_tables_name_what_there_is() -> None:
    assert {each for meant in MEANT.values() for each in meant} - KNOWN == {"initial_learning_rate"}
    schedules = {name for each in SCHEDULES for name in inspect.signature(each).parameters}
    assert {each for meant in MEANT_IN_SCHEDULES.values() for each in meant} <= schedules
    assert not INSTEAD.keys() & MEANT.keys()
    assert not ATTRIBUTES.keys() & KNOWN
    assert all(hasattr(fo.Optimizer, name) for name in READ_ONLY)


# Attributes


@pytest.mark.parametrize("make", [fo.AdamW, lambda: fo.LossScaleOptimizer(fo.SGD()), multi])
@pytest.mark.parametrize(
    "name",
    [
        "step",
        "zero_grad",
        "state_dict",
        "load_state_dict",
        "param_groups",
        "update",
        "init",
        "minimize",
    ],
)
def test_attribute(make: Any, name: str) -> None:
    optimizer = make()
    for owner in (optimizer, type(optimizer)):
        with pytest.raises(AttributeError) as caught:
            getattr(owner, name)
        expected = (
            f"{type(optimizer).__name__!r} object has no attribute {name!r}; {ATTRIBUTES[name]}"
        )
        assert str(caught.value) == expected
    with pytest.raises(AttributeError, match="has no attribute"):
        setattr(optimizer, name, 1)
    assert not hasattr(optimizer, name)
    assert getattr(optimizer, name, None) is None


def test_attribute_by_another_name() -> None:
    with pytest.raises(AttributeError, match=r"'AdamW' .* 'lr'; did you mean learning_rate\?$"):
        _ = fo.AdamW().lr
    with pytest.raises(AttributeError, match=r"'Adam' .* 'momentum'; did you mean beta_1\?$"):
        _ = fo.Adam().momentum
    assert fo.SGD(momentum=0.5).momentum == 0.5
    with pytest.raises(AttributeError, match="^'AdamW' object has no attribute 'nothing'$"):
        _ = fo.AdamW().nothing


def test_they_are_not_listed() -> None:
    for cls in (fo.Optimizer, fo.Adam, fo.MultiOptimizer):
        assert not {*ATTRIBUTES, "lr", "betas", "momentum"} & set(dir(cls))
    assert not {*ATTRIBUTES, "lr", "momentum"} & set(dir(fo.Adam()))
    assert {"momentum", "apply", "learning_rate"} <= set(dir(fo.SGD)) & set(dir(fo.SGD()))
    assert "zero_grad" not in pydoc.render_doc(fo.Adam)
    assert not {"step", "lr"} & {name for name, _ in inspect.getmembers(fo.Adam())}


def test_a_subclass_may_have_them() -> None:
    class Mine(fo.Adam):
        state = 3

        def step(self, gradients: Any) -> None:
            self.apply(gradients)

    w = np.ones(1)
    optimizer: Any = Mine(0.5)
    optimizer.init = 7
    optimizer.build([w])
    optimizer.step([np.ones(1)])
    assert (optimizer.state, optimizer.init, optimizer.iterations) == (3, 7, 1)
    assert {"step", "state"} <= set(dir(Mine)) & set(dir(optimizer))
    assert copy.copy(optimizer).init == 7


@pytest.mark.parametrize("make", [fo.AdamW, lambda: fo.LossScaleOptimizer(fo.SGD()), multi])
def test_copies_know_them_as_well(make: Any) -> None:
    optimizer = make()
    for each in (copy.copy, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))):
        copied = each(optimizer)
        assert type(copied) is type(optimizer)
        with pytest.raises(AttributeError, match="call apply"):
            _ = copied.step
    bare = object.__new__(type(optimizer))
    with pytest.raises(AttributeError, match="call apply"):
        _ = bare.step


@pytest.mark.parametrize("name", ["iterations", "variables", "built", "global_norm", "nbytes"])
def test_what_can_only_be_read(name: str) -> None:
    optimizer: Any = fo.SGD(momentum=0.5)
    optimizer.build([np.ones(1)])
    before = optimizer.named_variables()["iteration"].copy()
    with pytest.raises(AttributeError, match=f"^{name}: expected no assignment") as caught:
        setattr(optimizer, name, 5)
    assert READ_ONLY.get(name, "") in str(caught.value)
    assert optimizer.named_variables()["iteration"] == before


def test_the_way_to_other_iterations() -> None:
    optimizer = fo.SGD()
    optimizer.build([np.ones(1)])
    optimizer.named_variables()["iteration"][...] = 5
    assert optimizer.iterations == 5
