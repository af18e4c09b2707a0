"""The state of any rule as PyTorch sees it: in checkpoints, copies and pickles, replaced and moved."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import fusedopt as fo
import pytest
from cases import VARIANTS, Case

torch = pytest.importorskip("torch")

import fusedopt.torch  # noqa: E402
import torch_parameters as given  # noqa: E402

every_variant = pytest.mark.parametrize("case", VARIANTS, ids=str)
MIXED = [*given.DTYPES]
OPTIONS: dict[str, Any] = {
    "plain": {},
    "everything": {
        "use_ema": True,
        "gradient_accumulation_steps": 2,
        "global_clipnorm": 0.5,
        "skip_nonfinite": True,
    },
}
with_and_without_options = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def mixed_parameters(seed: int = 0) -> list[Any]:
    """One parameter of each type."""
    return [
        torch.nn.Parameter(tensor.to(dtype))
        for tensor, dtype in zip(given.tensors(seed), MIXED, strict=True)
    ]


def in_two_groups(case: Any, options: Any, seed: int = 0) -> Any:
    params = mixed_parameters(seed)
    groups = [{"params": params[:1], "lr": 0.3}, {"params": params[1:]}]
    return given.made(case, groups, **options)


def saved(state_dict: Any) -> Any:
    """What a file gives back, without trust in it."""
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def resumed(optimizer: Any, state_dict: Any, case: Any, options: Any) -> Any:
    """Another optimizer, on copies of the parameters, with a state that was saved."""
    other = in_two_groups(case, options, seed=5)
    with torch.no_grad():
        for group, own in zip(optimizer.param_groups, other.param_groups, strict=True):
            for parameter, copied in zip(group["params"], own["params"], strict=True):
                copied.copy_(parameter)
    other.load_state_dict(state_dict)
    return other


def check_goes_on(optimizer: Any, other: Any) -> None:
    assert given.everything(other) == given.everything(optimizer)
    for one in (optimizer, other):
        given.take_steps(one, range(10, 15))
    assert given.everything(other) == given.everything(optimizer)
    assert other.global_norm == optimizer.global_norm


@every_variant
@with_and_without_options
def test_a_checkpoint_goes_on_with_the_same_bits(case: Case, options: Any) -> None:
    optimizer = in_two_groups(case, options)
    given.take_steps(optimizer, range(3))
    other = resumed(optimizer, saved(optimizer.state_dict()), case, options)
    check_goes_on(optimizer, other)


@every_variant
@with_and_without_options
def test_copies_go_on_with_the_same_bits(case: Case, options: Any) -> None:
    optimizer = in_two_groups(case, options)
    given.take_steps(optimizer, range(3))
    by_pickle = pickle.loads(pickle.dumps(optimizer))
    by_copy = copy.deepcopy(optimizer)
    check_goes_on(copy.deepcopy(optimizer), by_pickle)
    check_goes_on(optimizer, by_copy)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("steps", [0, 2])
def test_a_copy_belongs_to_the_model_that_came_along(copied: Any, steps: int) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = fusedopt.torch.Optimizer(model.parameters(), fo.Adam(0.1))
    given.take_steps(optimizer, range(steps))
    before = given.bits([*model.parameters()])
    new_model, new_optimizer = copied((model, optimizer))
    given.take_steps(new_optimizer, range(steps, 4))
    assert given.bits([*model.parameters()]) == before
    given.take_steps(optimizer, range(steps, 4))
    assert given.bits([*new_model.parameters()]) == given.bits([*model.parameters()])


def test_a_shallow_copy_shares_state_and_parameters() -> None:
    optimizer = given.made(lambda: fo.Adam(0.1), params := given.parameters())
    given.take_steps(optimizer, range(1))
    other = copy.copy(optimizer)
    for step in range(1, 4):
        given.take_steps((optimizer, other)[step % 2], range(step, step + 1))
    alone = given.made(lambda: fo.Adam(0.1), given.parameters())
    given.take_steps(alone, range(4))
    assert other.state[params[0]] is optimizer.state[params[0]]
    assert given.everything(optimizer) == given.everything(alone)


def test_state_has_tensors_that_are_alive() -> None:
    optimizer = given.made(lambda: fo.Adam(0.1), params := given.parameters())
    given.take_steps(optimizer, range(2))
    state = optimizer.state[params[0]]
    assert list(state) == ["iteration", "momentum", "velocity"]
    held = state["momentum"]
    before = held.clone()
    given.take_steps(optimizer, range(2, 3))
    assert state["momentum"] is held
    assert not torch.equal(held, before)
    held.zero_()
    given.give(params, [torch.zeros_like(p) for p in params])
    optimizer.step()
    assert held.abs().max() == 0.0
    assert [state["iteration"].dtype, int(state["iteration"])] == [torch.int64, 4]


def test_the_state_outlives_its_optimizer() -> None:
    optimizer = given.made(lambda: fo.Adam(0.1), params := given.parameters())
    given.take_steps(optimizer, range(2))
    momentum = optimizer.state[params[0]]["momentum"]
    value = momentum.clone()
    del optimizer
    assert torch.equal(momentum, value)


def test_types_are_exact_after_loading() -> None:
    optimizer = in_two_groups(lambda: fo.Nadam(0.1), {})
    given.take_steps(optimizer, range(1))
    other = in_two_groups(lambda: fo.Nadam(0.1), {})
    other.load_state_dict(saved(optimizer.state_dict()))
    for group in other.param_groups:
        for parameter in group["params"]:
            wide = torch.float64 if parameter.dtype == torch.float64 else torch.float32
            found = {name: value.dtype for name, value in other.state[parameter].items()}
            expected = {"iteration": torch.int64, "momentum": wide, "velocity": wide}
            expected["product"] = torch.float64
            if parameter.dtype.itemsize == 2:
                expected["master"] = torch.float32
            assert found == expected


def test_loading_before_the_first_step() -> None:
    optimizer = in_two_groups(lambda: fo.Adam(0.1), {})
    optimizer.load_state_dict(saved(optimizer.state_dict()))
    other = in_two_groups(lambda: fo.Adam(0.1), {})
    check_goes_on(optimizer, other)


def test_loading_takes_the_hyperparameters_along() -> None:
    optimizer = given.made(lambda: fo.Adam(fo.schedules.CosineDecay(0.1, 9)), given.parameters())
    other = given.made(lambda: fo.Adam(fo.schedules.CosineDecay(0.1, 9)), given.parameters())
    optimizer.param_groups[0] |= {"beta_1": 0.5, "initial_lr": 3.0, "note": "mine"}
    given.take_steps(optimizer, range(3))
    given.take_steps(other, range(1))
    other.load_state_dict(saved(optimizer.state_dict()))
    group = other.param_groups[0]
    assert [group[name] for name in ("lr", "beta_1", "initial_lr", "note")] == [
        None,
        0.5,
        3.0,
        "mine",
    ]
    assert other.learning_rates == optimizer.learning_rates
    optimizer.param_groups[0]["lr"] = 0.5
    other.load_state_dict(saved(optimizer.state_dict()))
    assert other.learning_rates == [0.5]


def test_groups_of_an_older_version_get_what_they_lack() -> None:
    optimizer = given.made(lambda: fo.Adam(0.1), given.parameters())
    given.take_steps(optimizer, range(1))
    state_dict = saved(optimizer.state_dict())
    del state_dict["param_groups"][0]["skip_nonfinite"]
    optimizer.load_state_dict(state_dict)
    assert optimizer.param_groups[0]["skip_nonfinite"] is False


def test_hooks_of_loading_and_saving_run_once() -> None:
    optimizer = given.made(lambda: fo.Adam(0.1), params := given.parameters())
    given.take_steps(optimizer, range(1))
    seen = []
    optimizer.register_state_dict_pre_hook(lambda o: seen.append("before saving"))
    optimizer.register_state_dict_post_hook(lambda o, d: seen.append("after saving"))
    optimizer.register_load_state_dict_pre_hook(lambda o, d: seen.append("before loading"))

    def halve(one: Any) -> None:
        seen.append("after loading")
        for own in one.state.values():
            own["momentum"] = own["momentum"] / 2

    optimizer.register_load_state_dict_post_hook(halve)
    before = optimizer.state[params[0]]["momentum"].clone()
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == ["before saving", "after saving", "before loading", "after loading"]
    given.give(params, [torch.zeros_like(p) for p in params])
    optimizer.step()
    torch.testing.assert_close(optimizer.state[params[0]]["momentum"], before / 2 * 0.9)


# A state that is not ours


def fault_missing(own: dict[int, Any]) -> None:
    del own[1]["velocity"]


def fault_shape(own: dict[int, Any]) -> None:
    own[2]["momentum"] = torch.zeros(7)


def fault_kind(own: dict[int, Any]) -> None:
    own[2]["momentum"] = torch.zeros((), dtype=torch.int64)


def fault_counts(own: dict[int, Any]) -> None:
    own[2]["iteration"] = own[2]["iteration"] + 1


def fault_negative(own: dict[int, Any]) -> None:
    for one in own.values():
        one["iteration"] = torch.tensor(-1)


def fault_type(own: dict[int, Any]) -> None:
    own[0]["velocity"] = "fast"


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (fault_missing, "state of group 0, parameter 1: expected 'velocity', found only"),
        (fault_shape, r"state of group 0, parameter 2: .*expected shape \(\), found \(7,\)"),
        (fault_kind, "state of group 0, parameter 2: .*expected a floating dtype"),
        (
            fault_counts,
            "state of group 0, parameter 2: expected 'iteration' as in group 0, parameter 0",
        ),
        (fault_negative, "iteration: expected"),
        (fault_type, "state of group 0, parameter 0: .*expected a floating dtype"),
    ],
)
def test_a_bad_state_is_refused_and_nothing_changes(fault: Any, text: str) -> None:
    optimizer = given.made(lambda: fo.Adam(0.1), given.parameters())
    given.take_steps(optimizer, range(2))
    twin = copy.deepcopy(optimizer)
    before = given.everything(optimizer)
    state_dict = copy.deepcopy(optimizer.state_dict())
    state_dict["param_groups"][0]["lr"] = 3.0
    fault(state_dict["state"])
    with pytest.raises(ValueError, match=text):
        optimizer.load_state_dict(state_dict)
    assert given.everything(optimizer) == before
    assert optimizer.param_groups[0]["lr"] == 0.1
    check_goes_on(optimizer, twin)


@pytest.mark.parametrize("steps", [0, 1])
def test_the_state_of_another_rule_is_refused(steps: int) -> None:
    other = torch.optim.AdamW(given.parameters())
    given.take_steps(other, range(steps))
    optimizer = given.made(lambda: fo.AdamW(0.1), given.parameters())
    with pytest.raises(ValueError, match="betas|eps"):
        optimizer.load_state_dict(other.state_dict())
    optimizer = given.made(lambda: fo.Adam(0.1), given.parameters())
    lion = given.made(lambda: fo.Lion(0.2), given.parameters())
    given.take_steps(lion, range(1))
    with pytest.raises(ValueError, match="expected 'velocity', found only 'iteration', 'momentum'"):
        optimizer.load_state_dict(lion.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.1


# State and parameters that change hands


@every_variant
def test_state_that_was_replaced_is_found(case: Case) -> None:
    optimizer = given.made(case, given.parameters())
    other = given.made(case, given.parameters())
    for one in (optimizer, other):
        given.take_steps(one, range(2))
    for own in optimizer.state.values():
        for name in list(own):
            own[name] = own[name].clone()
    check_goes_on(optimizer, other)


@every_variant
@pytest.mark.parametrize("how", ["clone", "transposed"])
def test_parameters_whose_memory_moved_are_found(case: Case, how: str) -> None:
    options = {} if case.rule == "ScheduleFreeAdamW" else {"use_ema": True}
    optimizer = given.made(case, params := given.parameters(0, torch.float32), **options)
    other = given.made(case, others := given.parameters(0, torch.float32), **options)
    for step in range(6):
        for one in (optimizer, other):
            given.take_steps(one, range(step, step + 1))
        params[1].grad = others[1].grad = None  # and also if some have no gradient
        for one in (optimizer, other):
            one.step()
        for parameter in params:
            if how == "transposed" and parameter.dim() == 2 and case.rule in ("SGD", "Adam"):
                parameter.data = parameter.data.t().clone().t()
            else:
                parameter.data = parameter.data.clone()
    check_goes_on(optimizer, other)
    views = [own["iteration"].data_ptr() for own in optimizer.state.values()]
    if how == "clone":
        params[0].data = params[0].data.clone()
        given.take_steps(optimizer, range(1))
        assert [own["iteration"].data_ptr() for own in optimizer.state.values()] == views


def test_memory_of_parameters_can_be_exchanged() -> None:
    params = given.parameters(0, torch.float32, [(3,), (3,)])
    optimizer = given.made(lambda: fo.SGD(1.0, momentum=0.5), params)
    given.give(params, [torch.zeros(3), torch.zeros(3)])
    optimizer.step()
    first, second = (parameter.data for parameter in params)
    params[0].data, params[1].data = second, first
    start = [first.clone(), second.clone()]
    given.give(params, [torch.ones(3), torch.zeros(3)])
    optimizer.step()
    assert torch.equal(first, start[0])
    assert torch.equal(second, start[1] - 1.0)


def test_parameters_of_another_type_go_on() -> None:
    optimizer = given.made(lambda: fo.Adam(0.1), params := given.parameters(0, torch.float32))
    given.take_steps(optimizer, range(2))
    for parameter in params:
        parameter.grad = None
        parameter.data = parameter.data.double()
    momentum = optimizer.state[params[0]]["momentum"].double()
    given.give(params, [torch.zeros_like(p) for p in params])
    optimizer.step()
    found = optimizer.state[params[0]]
    assert (found["momentum"].dtype, int(found["iteration"])) == (torch.float64, 3)
    torch.testing.assert_close(found["momentum"], momentum * 0.9)


def test_shared_memory_is_found() -> None:
    optimizer = given.made(lambda: fo.Adam(0.1), params := given.parameters())
    other = given.made(lambda: fo.Adam(0.1), given.parameters())
    for one in (optimizer, other):
        given.take_steps(one, range(2))
    for parameter in params:
        parameter.share_memory_()
        for value in optimizer.state[parameter].values():
            value.share_memory_()
    check_goes_on(optimizer, other)


def test_state_that_was_removed_begins_anew() -> None:
    optimizer = given.made(lambda: fo.Adam(0.1), given.parameters())
    given.take_steps(optimizer, range(2))
    optimizer.state.clear()
    given.take_steps(optimizer, range(2, 3))
    assert {int(own["iteration"]) for own in optimizer.state.values()} == {1}


def test_what_others_keep_in_the_state_stays() -> None:
    optimizer = given.made(lambda: fo.Adam(0.1), params := given.parameters())
    given.take_steps(optimizer, range(1))
    optimizer.state[params[0]]["mine"] = "note"
    optimizer.state[params[0]]["theirs"] = {"momentum": torch.ones(1, dtype=torch.float16)}
    optimizer.state["global"] = {"number": 3}
    given.take_steps(optimizer, range(1, 3))
    optimizer.load_state_dict(saved(optimizer.state_dict()))
    assert (optimizer.state[params[0]]["mine"], optimizer.state["global"]) == (
        "note",
        {"number": 3},
    )
    assert optimizer.state[params[0]]["theirs"]["momentum"].dtype == torch.float16


def test_what_others_keep_there_before_the_first_step_is_no_state() -> None:
    optimizer = given.made(lambda: fo.Adam(0.1), params := given.parameters())
    optimizer.state[params[0]]["mine"] = kept = torch.ones(3)
    given.take_steps(optimizer, range(1))
    assert list(optimizer.state[params[0]]) == ["mine", "iteration", "momentum", "velocity"]
    assert optimizer.state[params[0]]["mine"] is kept


def test_one_group_for_a_while_and_then_all_again() -> None:
    """As DeepSpeed steps its partitions."""
    optimizer = given.made(lambda: fo.Adam(0.1), [{"params": [p]} for p in given.parameters()])
    other = given.made(lambda: fo.Adam(0.1), [{"params": [p]} for p in given.parameters()])
    for one in (optimizer, other):
        given.take_steps(one, range(1))
    groups = optimizer.param_groups
    for step in range(1, 3):
        params = [p for group in groups for p in group["params"]]
        for i, parameter in enumerate(params):
            parameter.grad = given.tensors(1000 * step + i, shapes=[parameter.shape])[0]
        for group in groups:
            optimizer.param_groups = [group]
            optimizer.step()
        optimizer.param_groups = groups
    given.take_steps(other, range(1, 3))
    check_goes_on(optimizer, other)


def test_the_state_can_be_made_with_a_rate_of_zero() -> None:
    """As torch.distributed.checkpoint makes it before it loads."""
    from torch.distributed.checkpoint.state_dict import (
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    model, other_model = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    other_model.load_state_dict(model.state_dict())
    optimizer, other = (
        fusedopt.torch.Optimizer(one.parameters(), fo.AdamW(0.1)) for one in (model, other_model)
    )
    given.take_steps(optimizer, range(3))
    other_model.load_state_dict(model.state_dict())
    before = given.bits([*other_model.parameters()])
    state = copy.deepcopy(get_optimizer_state_dict(model, optimizer))
    set_optimizer_state_dict(other_model, other, state)
    assert given.bits([*other_model.parameters()]) == before
    check_goes_on(optimizer, other)
