"""Parameter groups of any rule: what they hold, what is written into them, schedulers, and who joins late."""

from __future__ import annotations

from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import VARIANTS, Case
from training import make

torch = pytest.importorskip("torch")

import fusedopt.torch  # noqa: E402
import torch_parameters as given  # noqa: E402
from torch.optim import lr_scheduler  # noqa: E402

every_variant = pytest.mark.parametrize("case", VARIANTS, ids=str)

# In groups by themselves each parameter has an optimizer of its own, as in a MultiOptimizer.


def in_groups(rule: Any, overrides: list[dict[str, Any]]) -> tuple[Any, list[Any]]:
    params = given.parameters()[: len(overrides)]
    groups = [{"params": [p], **own} for p, own in zip(params, overrides, strict=True)]
    return fusedopt.torch.Optimizer(groups, rule), params


def by_themselves(rules: list[Any]) -> tuple[Any, list[Any]]:
    arrays = [tensor.numpy() for tensor in given.tensors(0)[: len(rules)]]
    names = [str(i) for i in range(len(rules))]
    optimizers = fo.OptimizerMap(rules[-1], dict(zip(names[:-1], rules[:-1], strict=True)))
    multi = fo.MultiOptimizer(optimizers)
    multi.build(dict(zip(names, arrays, strict=True)))
    return multi, arrays


def check_equal(optimizer: Any, params: list[Any], multi: Any, arrays: list[Any]) -> None:
    for step in range(5):
        found = given.gradients(step)[: len(params)]
        given.give(params, found)
        optimizer.step()
        multi.apply([g.numpy() for g in found])
        assert given.bits(params) == [array.tobytes() for array in arrays]


@every_variant
def test_each_group_has_its_own_values(case: Case) -> None:
    overrides = [{}, {"lr": 0.5, "weight_decay": 0.3}, {"clipnorm": 0.1}]
    optimizer, params = in_groups(make(case), overrides)
    rules = [make(case) for _ in overrides]
    rules[1] = make(case, learning_rate=0.5, weight_decay=0.3)
    rules[2] = make(case, clipnorm=0.1)
    check_equal(optimizer, params, *by_themselves(rules))


def test_groups_hold_every_number_under_its_name() -> None:
    template = fo.Adam(learning_rate=0.25, beta_2=0.5, clipvalue=2.0)
    optimizer = fusedopt.torch.Optimizer(given.parameters(), template)
    own = {
        name: value
        for name, value in template.get_config().items()
        if name not in ("name", "learning_rate")
    }
    (group,) = optimizer.param_groups
    assert {name: group[name] for name in own} == own
    assert group["lr"] == optimizer.defaults["lr"] == 0.25


@every_variant
def test_what_is_written_acts_in_the_next_step(case: Case) -> None:
    optimizer, params = in_groups(make(case), [{}])
    multi, arrays = by_themselves([rule := make(case)])
    written = {
        "weight_decay": 0.1,
        "clipnorm": 0.3,
        "ema_momentum": 0.5,
        "epsilon": 1e-3,
        "beta_1": 0.7,
        "rho": 0.6,
    }
    check_equal(optimizer, params, multi, arrays)
    optimizer.param_groups[0]["lr"] = rule.learning_rate = 0.125
    for name, value in written.items():
        if name in rule._hyperparameters:
            optimizer.param_groups[0][name] = value
            setattr(rule, name, value)
    check_equal(optimizer, params, multi, arrays)


def test_one_kind_of_clipping_takes_the_place_of_another() -> None:
    kinds = ["global_clipnorm", "clipnorm", "clipvalue", "global_clipnorm"]
    params = given.parameters()
    optimizer = given.made(lambda: fo.SGD(0.1), params)
    for old, new in zip([None, *kinds], kinds, strict=False):
        before = [p.detach().clone() for p in params]
        optimizer.param_groups[0] |= {old: None, new: 1e-3} if old else {new: 1e-3}
        given.take_steps(optimizer, range(1))
        assert all((p - b).abs().max() < 2e-4 for p, b in zip(params, before, strict=True))


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("lr", -1.0, ValueError),
        ("lr", None, TypeError),
        ("lr", "fast", TypeError),
        ("lr", float("nan"), ValueError),
        ("lr", fo.schedules.ExponentialDecay(0.1, 1, 0.5), TypeError),
        ("beta_1", 1.5, ValueError),
        ("beta_1", lambda: 0.9, TypeError),
        ("clipnorm", 0.0, ValueError),
        ("clipvalue", True, TypeError),
        ("weight_decay", [0.1, 0.2], TypeError),
        ("use_ema", True, AttributeError),
        ("amsgrad", True, AttributeError),
        ("gradient_accumulation_steps", 2, AttributeError),
        ("global_clipnorm", 1.0, ValueError),
        ("loss_scale_factor", 2.0, ValueError),
    ],
)
def test_bad_values_are_refused_and_nothing_changes(name: str, value: Any, kind: Any) -> None:
    params = given.parameters()
    groups = [{"params": params[:2]}, {"params": params[2:]}]
    optimizer = given.made(lambda: fo.Adam(0.1), groups)
    given.take_steps(optimizer, range(2))
    before = given.everything(optimizer)
    kept = optimizer.param_groups[1][name]
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.param_groups[1][name] = value
    for _ in range(2):
        with pytest.raises(kind, match=name):
            optimizer.step()
        assert given.everything(optimizer) == before
    optimizer.param_groups[1][name] = kept
    other_params = given.parameters()
    other = given.made(
        lambda: fo.Adam(0.1), [{"params": other_params[:2]}, {"params": other_params[2:]}]
    )
    given.take_steps(other, range(2))
    other.param_groups[0]["lr"] = 0.5
    for one in (optimizer, other):
        given.take_steps(one, range(2, 4))
    assert given.everything(optimizer) == given.everything(other)


def test_values_that_are_taken_back_after_a_refusal_act_again() -> None:
    params = given.parameters()[:2]
    optimizer = given.made(lambda: fo.SGD(1.0), [{"params": [p]} for p in params])
    given.give(params, [torch.zeros_like(p) for p in params])
    optimizer.step()
    before = [p.detach().clone() for p in params]
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.param_groups[1]["lr"] = -1.0
    with pytest.raises(ValueError, match="group 1: lr"):
        optimizer.step()
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 1.0
    given.give(params, [torch.ones_like(p) for p in params])
    optimizer.step()
    assert all(torch.equal(p, b - 1.0) for p, b in zip(params, before, strict=True))


def test_values_are_written_under_a_loss_scale() -> None:
    params = given.parameters(0, torch.float32, [(3,)])
    optimizer = given.made(lambda: fo.SGD(1.0, loss_scale_factor=4.0), params)
    given.give(params, [torch.zeros(3)])
    optimizer.step()
    start = params[0].detach().clone()
    optimizer.param_groups[0]["weight_decay"] = 0.5
    given.give(params, [torch.full((3,), 4.0)])
    optimizer.step()
    assert torch.equal(params[0], start * 0.5 - 1.0)
    optimizer.param_groups[0] |= {"loss_scale_factor": 2.0, "weight_decay": None}
    optimizer.step()
    assert torch.equal(params[0], start * 0.5 - 1.0 - 2.0)


# Rates


def test_a_tensor_as_rate_is_read_in_every_step() -> None:
    rate = torch.tensor(0.5, dtype=torch.float64)
    optimizer, params = in_groups(fo.SGD(), [{"lr": rate}])
    multi, arrays = by_themselves([rule := fo.SGD(0.5)])
    check_equal(optimizer, params, multi, arrays)
    rate.fill_(0.25)
    rule.learning_rate = 0.25
    check_equal(optimizer, params, multi, arrays)
    assert optimizer.param_groups[0]["lr"] is rate


def test_a_schedule_counts_the_updates_of_its_group() -> None:
    schedule = fo.schedules.ExponentialDecay(0.5, 2, 0.5)
    optimizer, params = in_groups(fo.SGD(schedule), [{}, {"lr": 0.25}])
    assert [group["lr"] for group in optimizer.param_groups] == [None, 0.25]
    assert optimizer.learning_rates == [0.5, 0.25]
    check_equal(optimizer, params, *by_themselves([fo.SGD(schedule), fo.SGD(0.25)]))
    assert optimizer.learning_rates == [schedule(5), 0.25]
    optimizer.param_groups[0]["lr"] = 1.0
    assert optimizer.learning_rates == [1.0, 0.25]
    optimizer.param_groups[0]["lr"] = None
    assert optimizer.learning_rates == [schedule(5), 0.25]


def test_a_scheduler_on_top_of_a_schedule_is_refused() -> None:
    optimizer, params = in_groups(fo.SGD(fo.schedules.ExponentialDecay(0.5, 2, 0.5)), [{}])
    lr_scheduler.StepLR(optimizer, 2)
    given.give(params, given.gradients(0)[:1])
    with pytest.raises(ValueError, match="group 0: lr: expected one schedule"):
        optimizer.step()
    assert given.bits(params) == given.bits(given.parameters()[:1])


def test_callables_are_called_once_in_each_update() -> None:
    calls = []

    def beta_1() -> float:
        calls.append(None)
        return 0.9

    optimizer, params = in_groups(fo.Adam(lambda: 0.1, beta_1=beta_1), [{}])
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["beta_1"]) == (None, None)
    check_equal(optimizer, params, *by_themselves([fo.Adam(0.1)]))
    assert len(calls) == 5


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.5**epoch),
        lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.9),
        lambda o: lr_scheduler.StepLR(o, 2),
        lambda o: lr_scheduler.MultiStepLR(o, [1, 3]),
        lr_scheduler.ConstantLR,
        lr_scheduler.LinearLR,
        lambda o: lr_scheduler.ExponentialLR(o, 0.9),
        lr_scheduler.PolynomialLR,
        lambda o: lr_scheduler.CosineAnnealingLR(o, 4),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
        lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.2, step_size_up=2, cycle_momentum=True),
        lambda o: lr_scheduler.OneCycleLR(o, 0.3, total_steps=8),
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o), lr_scheduler.ExponentialLR(o, 0.9)], [2]
        ),
        lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.ExponentialLR(o, 0.9)], optimizer=o),
        lambda o: torch.optim.swa_utils.SWALR(o, 0.05),
    ],
)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_schedulers(scheduler: Any, as_tensor: bool) -> None:
    rate = torch.tensor(0.1, dtype=torch.float64) if as_tensor else 0.1
    optimizer, params = in_groups(fo.SGD(momentum=0.5), [{"lr": rate}, {"lr": 0.2}])
    schedule = scheduler(optimizer)
    multi, arrays = by_themselves(rules := [fo.SGD(momentum=0.5) for _ in range(2)])
    rates = set()
    for _ in range(6):
        for rule, group in zip(rules, optimizer.param_groups, strict=True):
            rule.learning_rate = float(group["lr"])
            rule.momentum = group["momentum"]
        check_equal(optimizer, params, multi, arrays)
        rates.add(rules[0].learning_rate)
        schedule.step()
    assert len(rates) > 1


def test_reduce_on_plateau() -> None:
    optimizer, _ = in_groups(fo.Lion(0.5), [{}])
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    for _ in range(3):
        scheduler.step(1.0)
    assert optimizer.learning_rates == [pytest.approx(0.005)]


# Who joins late


@every_variant
def test_a_parameter_joins_with_its_first_gradient(case: Case) -> None:
    params = given.parameters()
    optimizer = given.made(case, params)
    arrays = [tensor.numpy() for tensor in given.tensors(0)]
    expected = make(case)
    expected.build(arrays[:2])
    for step in range(6):
        known = 2 if step < 3 else 4
        expected.build(arrays[:known])
        found = given.gradients(step)[:known]
        expected.apply([g.numpy() for g in found])
        given.give(params, [*found, *[None] * (4 - known)])
        optimizer.step()
        assert given.bits(params) == [array.tobytes() for array in arrays]
        assert len(optimizer.state) == known


@every_variant
@pytest.mark.filterwarnings("ignore:No gradient for variable 1, variable 3; left as it is")
@pytest.mark.parametrize("options", [{}, {"use_ema": True, "gradient_accumulation_steps": 2}])
def test_without_a_gradient_a_parameter_stands_still(case: Case, options: Any) -> None:
    params = given.parameters()
    optimizer = given.made(case, params, **options)
    arrays = [tensor.numpy() for tensor in given.tensors(0)]
    expected = make(case, **options)
    expected.build(arrays)
    for step in range(6):
        found = given.gradients(step)
        if step % 2:
            found[1] = found[3] = None
        given.give(params, found)
        optimizer.step()
        expected.apply([g if g is None else g.numpy() for g in found])
        assert given.bits(params) == [array.tobytes() for array in arrays]


def test_without_any_gradient_nothing_counts() -> None:
    optimizer, params = in_groups(fo.Adam(0.1, use_ema=True), [{}, {}])
    optimizer.step()
    assert not optimizer.state
    given.take_steps(optimizer, range(2))
    given.give(params, [None, given.gradients(9)[1]])
    optimizer.step()
    assert [int(optimizer.state[p]["iteration"]) for p in params] == [2, 3]
    optimizer.zero_grad()
    before = given.everything(optimizer)
    optimizer.step()
    assert given.everything(optimizer) == before


@every_variant
def test_a_group_that_is_added_begins_at_zero_and_others_go_on(case: Case) -> None:
    params, late = given.parameters(), given.parameters(7)
    optimizer = given.made(case, params)
    others = [given.made(case, given.parameters()), given.made(case, given.parameters(7))]
    given.take_steps(optimizer, range(3))
    given.take_steps(others[0], range(3))
    optimizer.add_param_group({"params": late})
    for step in range(3, 6):
        found = given.gradients(step)
        for all_params in (
            params,
            late,
            *(one.param_groups[0]["params"] for one in others),
        ):
            given.give(all_params, found)
        for one in (optimizer, *others):
            one.step()
    assert given.bits([*params, *late]) == [
        word for one in others for word in given.bits(one.param_groups[0]["params"])
    ]


def test_a_parameter_can_be_appended_to_a_group() -> None:
    params = given.parameters()
    optimizer = given.made(lambda: fo.Adam(0.1), params[:2])
    given.take_steps(optimizer, range(2))
    optimizer.param_groups[0]["params"].append(params[2])
    given.take_steps(optimizer, range(2, 4))
    assert [int(optimizer.state[p]["iteration"]) for p in params[:3]] == [4, 4, 4]


def test_empty_groups_and_empty_parameters_do_nothing() -> None:
    params = given.parameters()
    optimizer = given.made(
        lambda: fo.Adam(0.1),
        [{"params": []}, {"params": params}, {"params": [torch.nn.Parameter(torch.ones(0, 3))]}],
    )
    given.take_steps(optimizer, range(2))
    alone = given.made(lambda: fo.Adam(0.1), given.parameters())
    given.take_steps(alone, range(2))
    assert given.bits(params) == given.bits(alone.param_groups[0]["params"])


def test_one_optimizer_per_parameter() -> None:
    params = given.parameters()
    for parameter in params:
        one = fusedopt.torch.Optimizer([{"params": parameter, "lr": 0.5}], fo.Lion())
        given.give([parameter], [torch.ones_like(parameter)])
        one.step()
    for parameter, start in zip(params, given.tensors(0), strict=True):
        np.testing.assert_array_equal(parameter.detach(), start - 0.5)


def test_a_parameter_in_a_group_twice_steps_once() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optimizer = fusedopt.torch.Optimizer([parameter, parameter], fo.SGD(1.0))
    given.give([parameter], [torch.ones(3)])
    optimizer.step()
    assert parameter.tolist() == [-1.0, -1.0, -1.0]
