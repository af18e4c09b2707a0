"""Parameter groups of `fusedopt.torch`: options of their own, written to by hand, added, empty, replaced."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch_cases import (  # noqa: E402
    CASES,
    FULL,
    IDS,
    NAMES,
    OPTIONS,
    assert_same_numbers,
    bits,
    gradients,
    ours,
    parameters,
    snapshot,
    step_with,
    theirs,
)

TIGHT = {"rtol": 1e-11, "atol": 1e-13}


def _both(name: str, run: Any) -> None:
    """Let ours and PyTorch's do the same."""
    found, expected = [], []
    for make, result in ((ours(name), found), (theirs(name), expected)):
        of = parameters()
        result += [of, run(make, of)]
    assert_same_numbers(tuple(found), tuple(expected), **TIGHT)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_a_group_overrides_every_option(name: str, options: dict[str, Any]) -> None:
    start = {"initial_accumulator_value"}  # which PyTorch reads of the constructor alone
    own = {key: value for key, value in options.items() if key not in start}

    def run(make: Any, of: list[Any]) -> Any:
        optimizer = make([{"params": of[:2]}, {"params": of[2:], **own}], lr=0.003, foreach=False)
        for _, values in zip(range(8), gradients(of), strict=False):
            step_with(optimizer, of, values)
        return optimizer

    _both(name, run)


@pytest.mark.parametrize("name", NAMES)
def test_options_are_read_in_each_step(name: str) -> None:
    written: dict[str, list[Any]] = {
        "lr": [0.02, torch.tensor(0.03, dtype=torch.float64), 0.0],
        "betas": [(0.5, 0.75), (0.8, 0.9), (0.0, 0.5)],
        "eps": [1e-3, 1e-2, 1e-4],
        "weight_decay": [0.1, 0.0, 0.3],
        "momentum": [0.5, 0.7, 0.9],
        "dampening": [0.5, 0.1, 0.0],
        "alpha": [0.5, 0.7, 0.9],
        "rho": [0.5, 0.7, 0.9],
        "lr_decay": [0.5, 0.1, 0.0],
        "momentum_decay": [0.5, 0.1, 0.0],
        "maximize": [True, False, True],
    }
    if name in {"Adam", "NAdam"}:
        written["decoupled_weight_decay"] = [True, False, True]

    def run(make: Any, of: list[Any]) -> Any:
        optimizer = make([{"params": of[:2]}, {"params": of[2:]}], foreach=False, **FULL[name])
        for i, values in zip(range(9), gradients(of), strict=False):
            for key, sequence in written.items():
                if key in optimizer.defaults:
                    optimizer.param_groups[i % 2][key] = sequence[i % 3]
            step_with(optimizer, of, values)
        return optimizer

    _both(name, run)


def test_momentum_can_begin_and_pause() -> None:
    def run(make: Any, of: list[Any]) -> Any:
        optimizer = make(of, lr=0.01, foreach=False)
        momenta = [0.0, 0.0, 0.9, 0.9, 0.0, 0.0, 0.9, 0.9]
        for momentum, values in zip(momenta, gradients(of), strict=False):
            optimizer.param_groups[0].update(momentum=momentum, dampening=0.5)
            step_with(optimizer, of, values)
        return optimizer

    _both("SGD", run)


@pytest.mark.parametrize(
    ("name", "options", "slot"),
    [
        ("AdamW", {"amsgrad": True}, "max_exp_avg_sq"),
        ("Adam", {"amsgrad": True}, "max_exp_avg_sq"),
        ("RMSprop", {"centered": True}, "grad_avg"),
        ("RMSprop", {"momentum": 0.9}, "momentum_buffer"),
    ],
)
def test_a_slot_that_an_option_needs_is_made_when_it_is_set(
    name: str, options: dict[str, Any], slot: str
) -> None:
    of = parameters()
    optimizer = ours(name)(of)
    step_with(optimizer, of, next(gradients(of)))
    assert slot not in optimizer.state[of[0]]
    optimizer.param_groups[0].update(options)
    step_with(optimizer, of, next(gradients(of)))
    assert optimizer.state[of[0]][slot].abs().max() > 0.0
    assert optimizer.state[of[0]]["step"] == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_group_can_be_added_in_mid_training(name: str) -> None:
    if name == "Adagrad":
        late = torch.ones(1)
        model = theirs(name)([torch.ones(1)], foreach=False)
        model.add_param_group({"params": late})
        late.grad = torch.ones(1)
        try:
            model.step()
        except KeyError:
            pytest.skip("this PyTorch's Adagrad has no state for a group that is added")

    def run(make: Any, of: list[Any]) -> Any:
        optimizer = make(of[:3], foreach=False, **FULL[name])
        for i, values in zip(range(10), gradients(of), strict=False):
            if i == 4:
                optimizer.add_param_group({"params": of[3:5], "lr": 0.02})
            if i == 6:
                optimizer.add_param_group({"params": of[5]})
            step_with(optimizer, of, values)
        return optimizer

    _both(name, run)


def test_decay_differs_between_kinds_of_adam_under_one_norm() -> None:
    def run(make: Any, of: list[Any]) -> Any:
        own = make is ours("Adam")
        groups = [
            {"params": of[:2], "weight_decay": 0.1},
            {"params": of[2:], "weight_decay": 0.2, "decoupled_weight_decay": True},
        ]
        optimizer = make(groups, lr=0.01, foreach=False, **({"max_norm": 1.0} if own else {}))
        for _, values in zip(range(8), gradients(of), strict=False):
            for p, g in zip(of, values, strict=True):
                p.grad = g.clone()
            if not own:
                torch.nn.utils.clip_grad_norm_(of, 1.0)
            optimizer.step()
        return optimizer

    _both("Adam", run)


def test_groups_without_parameters_do_nothing() -> None:
    of = parameters()
    optimizer = ours("AdamW")(
        [{"params": []}, {"params": of}, {"params": []}], lr=0.5, max_norm=1.0
    )
    step_with(optimizer, of, [torch.ones_like(p) for p in of])
    assert all(optimizer.state[p]["step"] == 1 for p in of)
    alone = ours("AdamW")([{"params": []}], max_norm=1.0)
    alone.step()
    assert alone.global_norm == 0.0
    alone.load_state_dict(alone.state_dict())


def test_names_and_keys_of_the_user_stay() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = ours("SGD")(
        [{"params": list(model.named_parameters()), "name": "all", "lr_scale": 0.5}], lr=0.1
    )
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    group = optimizer.param_groups[0]
    assert group["param_names"] == ["weight", "bias"]
    assert (group["name"], group["lr_scale"]) == ("all", 0.5)


def test_groups_are_those_of_pytorch() -> None:
    for name in NAMES:
        of = parameters(torch.float32)
        found, expected = ours(name)(of), theirs(name)(of)
        assert found.param_groups[0] == expected.param_groups[0]
        assert repr(found) == repr(expected)


def test_the_list_of_groups_can_be_replaced() -> None:
    """DeepSpeed does so in each of its steps, for one group after the other."""
    of, others = parameters(), parameters()
    optimizer = ours("Adam")([{"params": of[:2]}, {"params": of[2:], "lr": 0.01}])
    whole = ours("Adam")([{"params": others[:2]}, {"params": others[2:], "lr": 0.01}])
    for _, values in zip(range(3), gradients(of), strict=False):
        step_with(whole, others, values)
        for p, g in zip(of, values, strict=True):
            p.grad = g.clone()
        groups = optimizer.param_groups
        for group in groups:
            optimizer.param_groups = [group]
            optimizer.step()
        optimizer.param_groups = groups
    assert_same_numbers((of, optimizer), (others, whole), rtol=0.0, atol=0.0)


def test_parameters_of_a_group_can_be_exchanged() -> None:
    """Accelerate does so when it moves a model."""
    of, others = parameters(), parameters()
    optimizer = ours("Adam")(of)
    optimizer.param_groups[0]["params"] = others
    step_with(optimizer, others, next(gradients(others)))
    assert [bits(p) for p in of] == [bits(p) for p in parameters()]
    assert all(optimizer.state[p]["step"] == 1 for p in others)


def test_memory_that_moves_is_found() -> None:
    of, still = parameters(), parameters()
    optimizer, expected = ours("AdamW")(of, ema_decay=0.5), ours("AdamW")(still, ema_decay=0.5)
    for i, values in zip(range(4), gradients(of), strict=False):
        if i == 1:
            for p in of:
                p.data = p.data.clone()
        if i == 2:
            for p in of:
                state = optimizer.state[p]
                state.update({key: value.clone() for key, value in state.items()})
        if i == 3:
            for p in of:
                p.share_memory_()
        step_with(optimizer, of, values)
        step_with(expected, still, values)
    assert_same_numbers((of, optimizer), (still, expected), rtol=0.0, atol=0.0)


@pytest.mark.parametrize("name", NAMES)
def test_an_option_out_of_its_range_is_refused_in_a_group(name: str) -> None:
    of = parameters()
    with pytest.raises(ValueError, match="Invalid learning rate: -1"):
        ours(name)([{"params": of[:1]}, {"params": of[1:], "lr": -1.0}])
    optimizer = ours(name)(of[:1], **FULL[name])
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match="Invalid learning rate: -1"):
        optimizer.add_param_group({"params": of[1:], "lr": -1.0})
    assert snapshot(optimizer) == before
    step_with(optimizer, of[:1], next(gradients(of[:1])))
    before = snapshot(optimizer)
    optimizer.param_groups[0]["lr"] = float("nan")
    before[0] = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    with pytest.raises(ValueError, match="^group 0: lr: expected"):
        step_with(optimizer, of[:1], next(gradients(of[:1])))
    assert snapshot(optimizer)[1:] == before[1:]


@pytest.mark.parametrize("name", NAMES)
def test_messages_of_a_step_name_options_as_pytorch_does(name: str) -> None:
    of = parameters()
    optimizer = ours(name)(of, ema_decay=0.5, **FULL[name])
    step_with(optimizer, of, next(gradients(of)))
    group = optimizer.param_groups[0]
    before = snapshot(optimizer)
    options = {
        key: key
        for key, value in group.items()
        if type(value) in (int, float) and key != "initial_accumulator_value"
    }
    if "betas" in group:
        options["betas"] = r"betas\[1\]"
    for key, shown in options.items():
        kept = group[key]
        for bad, error in ((float("nan"), ValueError), ("much", TypeError)):
            group[key] = (0.5, bad) if key == "betas" else bad
            with pytest.raises(error, match=rf"^group 0: {shown}: expected"):
                optimizer.step()
        group[key] = kept
    assert snapshot(optimizer) == before


def test_every_option_of_pytorch_is_tested() -> None:
    tested = {"lr", "foreach", "fused", "capturable", "differentiable"}
    for name in NAMES:
        used = {key for options in OPTIONS[name] for key in options}
        assert theirs(name)([torch.zeros(1)]).defaults.keys() - used <= tested | (
            {"decoupled_weight_decay"} if name == "AdamW" else set()
        )
