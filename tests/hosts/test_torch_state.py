"""State of `fusedopt.torch`: what it is, and that it is saved, loaded, copied and exchanged with `torch.optim`."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch_cases import (  # noqa: E402
    CASES,
    FULL,
    IDS,
    NAMES,
    assert_same_numbers,
    bits,
    gradients,
    ours,
    parameters,
    snapshot,
    step_with,
    theirs,
    train,
)

TIGHT = {"rtol": 1e-11, "atol": 1e-13}


def _taken_over(make: Any, of: list[Any], state: dict[str, Any]) -> tuple[list[Any], Any]:
    others = [torch.nn.Parameter(p.detach().clone()) for p in of]
    optimizer = make(others)
    optimizer.load_state_dict(state)
    return others, optimizer


def _go_on(steps: int, *trained: tuple[list[Any], Any]) -> None:
    for _, values in zip(range(steps), gradients(trained[0][0], seed=3), strict=False):
        for of, optimizer in trained:
            step_with(optimizer, of, values)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_state_has_the_keys_shapes_and_types_of_pytorch(name: str, options: dict[str, Any]) -> None:
    for dtype in (torch.float32, torch.float64):
        found = train(lambda of: ours(name)(of, **options), 2, dtype)
        expected = train(lambda of: theirs(name)(of, foreach=False, **options), 2, dtype)
        for p, q in zip(found[0], expected[0], strict=True):
            state, model = found[1].state.get(p, {}), expected[1].state.get(q, {})
            assert {k: (v.dtype, v.shape, v.device) for k, v in state.items()} == {
                k: (v.dtype, v.shape, v.device) for k, v in model.items()
            }


def test_counts_are_of_the_default_type() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        of, optimizer = train(ours("NAdam"), 1, torch.float32)
    finally:
        torch.set_default_dtype(torch.float32)
    state = optimizer.state[of[0]]
    assert state["step"].dtype == state["mu_product"].dtype == torch.float64


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_a_checkpoint_of_pytorch_goes_on_here(name: str, options: dict[str, Any]) -> None:
    of, expected = train(lambda of: theirs(name)(of, foreach=False, **options), 5)
    found = _taken_over(ours(name), of, copy.deepcopy(expected.state_dict()))
    _go_on(5, (of, expected), found)
    assert_same_numbers(found, (of, expected), **TIGHT)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_a_checkpoint_goes_on_in_pytorch(name: str, options: dict[str, Any]) -> None:
    of, optimizer = train(lambda of: ours(name)(of, max_norm=1e9, ema_decay=0.9, **options), 5)
    expected = _taken_over(
        lambda others: theirs(name)(others, foreach=False),
        of,
        copy.deepcopy(optimizer.state_dict()),
    )
    for state in expected[1].state.values():
        if "mu_product" in state:  # which PyTorch has cast to the parameter's type
            state["mu_product"] = state["mu_product"].float()
    _go_on(5, (of, optimizer), expected)
    for state in expected[1].state.values():
        del state["average"]  # which PyTorch lets stand still
    assert_same_numbers((of, optimizer), expected, **TIGHT)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)
def test_a_saved_checkpoint_goes_on_bit_for_bit(
    name: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    more = {**options, "ema_decay": 0.9, "max_norm": 1.0}
    of, optimizer = train(lambda of: ours(name)(of, **more), 5, dtype)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed = _taken_over(
        lambda others: ours(name)(others, ema_decay=0.9, max_norm=1.0),
        of,
        torch.load(file, weights_only=True),
    )
    assert snapshot(resumed[1]) == snapshot(optimizer)
    _go_on(3, (of, optimizer), resumed)
    assert snapshot(resumed[1]) == snapshot(optimizer)


@pytest.mark.parametrize("name", NAMES)
def test_loaded_state_is_a_copy(name: str) -> None:
    of, optimizer = train(lambda of: ours(name)(of, **FULL[name]), 3)
    twin = _taken_over(ours(name), of, optimizer.state_dict())
    still = _taken_over(ours(name), of, optimizer.state_dict())
    before = snapshot(still[1])
    _go_on(3, (of, optimizer), twin)
    assert snapshot(twin[1]) == snapshot(optimizer)
    assert snapshot(still[1]) == before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"]
)
def test_copies_go_on_bit_for_bit(name: str, copied: Any) -> None:
    options = {**FULL[name], "max_norm": 1.0, "ema_decay": 0.9, "master_weights": False}
    of, optimizer = train(lambda of: ours(name)(of, **options), 3, torch.bfloat16)
    others, twin = copied((of, optimizer))
    assert others[0] is twin.param_groups[0]["params"][0]
    assert (twin.max_norm, twin.ema_decay, twin.master_weights) == (1.0, 0.9, False)
    assert twin._step_supports_amp_scaling
    _go_on(3, (of, optimizer), (others, twin))
    assert snapshot(twin) == snapshot(optimizer)
    assert twin.global_norm == optimizer.global_norm


@pytest.mark.parametrize("name", NAMES)
def test_a_state_before_the_first_step_can_be_loaded(name: str) -> None:
    of = parameters()
    optimizer = ours(name)(of, **FULL[name])
    optimizer.load_state_dict(optimizer.state_dict())
    expected = train(lambda others: ours(name)(others, **FULL[name]), 2)
    for _, values in zip(range(2), gradients(of), strict=False):
        step_with(optimizer, of, values)
    assert_same_numbers((of, optimizer), expected, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("name", NAMES)
def test_numbers_of_old_checkpoints_become_tensors(name: str) -> None:
    of, optimizer = train(lambda of: ours(name)(of, **FULL[name]), 3)
    state = copy.deepcopy(optimizer.state_dict())
    for each in state["state"].values():
        for key in ("step", "mu_product"):
            if key in each:
                each[key] = each[key].item() if key != "step" else int(each[key].item())
    others, old = _taken_over(ours(name), of, state)
    assert snapshot(old) == snapshot(optimizer)
    _go_on(2, (of, optimizer), (others, old))
    assert snapshot(old) == snapshot(optimizer)


def test_options_that_old_checkpoints_lack_are_the_constructors() -> None:
    of, optimizer = train(theirs("Adam"), 1)
    state = copy.deepcopy(optimizer.state_dict())
    for key in ("maximize", "foreach", "capturable", "decoupled_weight_decay", "amsgrad"):
        del state["param_groups"][0][key]
    others, found = _taken_over(ours("Adam"), of, state)
    _go_on(2, (others, found))
    _, decoupled = _taken_over(ours("AdamW"), of, optimizer.state_dict())
    assert decoupled.param_groups[0]["decoupled_weight_decay"] is True


def test_state_takes_the_layout_and_type_of_its_parameter() -> None:
    p = torch.nn.Parameter(torch.randn(2, 3, 4, 5))
    optimizer = ours("Adam")([p])
    step_with(optimizer, [p], [torch.randn(2, 3, 4, 5)])
    state = optimizer.state_dict()
    lain = torch.nn.Parameter(p.detach().double().contiguous(memory_format=torch.channels_last))
    other = ours("Adam")([lain])
    other.load_state_dict(state)
    for key in ("exp_avg", "exp_avg_sq"):
        slot = other.state[lain][key]
        assert slot.stride() == lain.stride()
        assert slot.dtype == torch.float64
        assert torch.equal(slot, optimizer.state[p][key].double())
    step_with(other, [lain], [torch.randn(2, 3, 4, 5)])


def test_state_of_another_shape_is_refused() -> None:
    of, optimizer = train(ours("Adam"), 1)
    before = snapshot(optimizer)
    state = copy.deepcopy(optimizer.state_dict())
    state["state"][1]["exp_avg_sq"] = torch.zeros(1)
    state["state"][0]["exp_avg"].zero_()
    state["param_groups"][0]["lr"] = 7.0
    with pytest.raises(ValueError, match=r"parameter 1, 'exp_avg_sq': .*\(7,\), found \(1,\)"):
        optimizer.load_state_dict(state)
    assert snapshot(optimizer) == before
    _go_on(1, (of, optimizer))


@pytest.mark.parametrize(("name", "other"), [("Adam", "RMSprop"), ("Adagrad", "Adamax")])
def test_the_state_of_another_kind_is_refused(name: str, other: str) -> None:
    _, optimizer = train(ours(name), 1)
    _, found = train(theirs(other), 1)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=f"parameter 0: expected the state of {name}"):
        optimizer.load_state_dict(found.state_dict())
    assert snapshot(optimizer) == before


def test_other_groups_are_refused_as_pytorch_does() -> None:
    of, optimizer = train(ours("Adam"), 1)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match="different number of parameter groups"):
        optimizer.load_state_dict(
            ours("Adam")([{"params": of[:1]}, {"params": of[1:]}]).state_dict()
        )
    with pytest.raises(ValueError, match="doesn't match the size"):
        optimizer.load_state_dict(ours("Adam")(of[1:]).state_dict())
    assert snapshot(optimizer) == before


def test_hooks_on_state_dicts_fire_once() -> None:
    of, optimizer = train(ours("Adam"), 1)
    calls: list[Any] = []

    def replace(_: Any, state: dict[str, Any]) -> dict[str, Any]:
        calls.append("load before")
        groups = [{**group, "lr": 7.0} for group in state["param_groups"]]
        return {**state, "param_groups": groups}

    def look(loaded: Any) -> None:
        calls.append(("load after", loaded.state[of[0]]["exp_avg"].dtype))

    optimizer.register_state_dict_pre_hook(lambda _: calls.append("before"))
    optimizer.register_state_dict_post_hook(lambda *_: calls.append("after"))
    optimizer.register_load_state_dict_pre_hook(replace)
    optimizer.register_load_state_dict_post_hook(look)
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.register_load_state_dict_pre_hook(replace, prepend=True)
    optimizer.load_state_dict(optimizer.state_dict())
    once = ["before", "after", "load before", ("load after", torch.float64)]
    assert calls == [*once, "before", "after", "load before", *once[2:]]
    assert optimizer.param_groups[0]["lr"] == 7.0


def test_state_of_the_user_is_kept() -> None:
    of, optimizer = train(ours("Adam"), 1)
    optimizer.state["note"] = {"epoch": 3}
    optimizer.state[of[0]]["mine"] = torch.ones(2, dtype=torch.int64)
    others, found = _taken_over(ours("Adam"), of, optimizer.state_dict())
    assert found.state["note"] == {"epoch": 3}
    assert torch.equal(found.state[others[0]]["mine"], torch.ones(2, dtype=torch.int64))
    _go_on(1, (others, found))


def test_adagrad_has_its_state_from_the_start() -> None:
    of = parameters()
    optimizer = ours("Adagrad")(of, initial_accumulator_value=0.5)
    assert all((optimizer.state[p]["sum"] == 0.5).all() for p in of)
    assert all(optimizer.state[p]["step"] == 0 for p in of)
    optimizer.share_memory()
    assert all(optimizer.state[p]["sum"].is_shared() for p in of)
    step_with(optimizer, of, next(gradients(of)))


@pytest.mark.parametrize("name", NAMES)
def test_state_for_distributed_checkpoints(name: str) -> None:
    from torch.distributed.checkpoint.state_dict import (
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    def made() -> tuple[Any, Any]:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        return model, ours(name)(model.parameters(), **FULL[name])

    model, optimizer = made()
    before = [bits(p) for p in model.parameters()]
    fresh = get_optimizer_state_dict(model, optimizer)  # takes a step to make the state
    assert [bits(p) for p in model.parameters()] == before
    assert fresh["state"].keys() == {"weight", "bias"}
    of = list(model.parameters())
    for _, values in zip(range(3), gradients(of), strict=False):
        step_with(optimizer, of, values)
    state = copy.deepcopy(get_optimizer_state_dict(model, optimizer))
    other, resumed = made()
    other.load_state_dict(model.state_dict())
    set_optimizer_state_dict(other, resumed, state)
    _go_on(2, (of, optimizer), (list(other.parameters()), resumed))
    assert_same_numbers((list(other.parameters()), resumed), (of, optimizer), rtol=0.0, atol=0.0)
