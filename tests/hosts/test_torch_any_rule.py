"""Every rule on PyTorch's parameters computes what it computes on arrays."""

from __future__ import annotations

from typing import Any

import fusedopt as fo
import pytest
from cases import CASES, VARIANTS, Case
from training import make

torch = pytest.importorskip("torch")

import torch_parameters as given  # noqa: E402

every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_variant = pytest.mark.parametrize("case", VARIANTS, ids=str)


def on_arrays(case: Case, dtype: Any, steps: int) -> tuple[fo.Optimizer, list[Any]]:
    arrays = [given.array_of(tensor) for tensor in given.tensors(0, dtype)]
    optimizer = make(case)
    optimizer.build(arrays)
    for step in range(steps):
        optimizer.apply([given.array_of(g) for g in given.gradients(step, dtype)])
    return optimizer, arrays


def check_equal(case: Case, dtype: Any) -> None:
    expected, arrays = on_arrays(case, dtype, 6)
    params = given.parameters(0, dtype)
    optimizer = given.made(case, params)
    for step in range(6):
        given.give(params, given.gradients(step, dtype))
        optimizer.step()
    assert given.bits(params) == [array.tobytes() for array in arrays]
    for name, array in expected._core.state():
        slot, _, number = name.partition("/")
        if slot != "learning_rate":
            found = optimizer.state[params[int(number or 0)]][slot]
            assert found.numpy().tobytes() == array.tobytes(), name


@every_case
def test_bits_are_those_on_arrays(case: Case) -> None:
    check_equal(case, torch.float32)


@every_variant
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_bits_are_those_on_arrays_of_other_types(case: Case, dtype: str) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    check_equal(case, getattr(torch, dtype))


@every_variant
def test_bits_with_a_schedule_and_changing_betas(case: Case) -> None:
    arguments: dict[str, Any] = {"learning_rate": fo.schedules.ExponentialDecay(0.05, 2, 0.5)}
    if {"beta_1", "beta_2"} <= getattr(fo, case.rule)().get_config().keys():
        arguments |= {"beta_1": lambda: 0.75, "beta_2": lambda: 0.875}
    try:
        make(case, **arguments)
    except TypeError:  # betas that must be numbers
        arguments = {"learning_rate": arguments["learning_rate"]}
    check_equal(Case(case.rule, {**case.arguments, **arguments}, ""), torch.float32)


@every_variant
def test_one_norm_over_all_groups(case: Case) -> None:
    expected, arrays = on_arrays(
        Case(case.rule, {**case.arguments, "global_clipnorm": 0.5}, ""), torch.float32, 5
    )
    params = given.parameters(0, torch.float32)
    optimizer = given.made(
        case, [{"params": params[:1]}, {"params": params[1:]}], global_clipnorm=0.5
    )
    for step in range(5):
        given.give(params, given.gradients(step, torch.float32))
        optimizer.step()
    assert given.bits(params) == [array.tobytes() for array in arrays]
    assert optimizer.global_norm == expected.global_norm


@pytest.mark.parametrize("rule", [fo.Lion, fo.Adafactor, fo.Muon])
def test_the_optimizer_that_was_given_stays_as_it_is(rule: Any) -> None:
    template = rule(learning_rate=0.1)
    params = given.parameters()
    optimizer = fusedopt_torch().Optimizer(params, template)
    template.learning_rate = 100.0
    other = given.made(lambda: rule(learning_rate=0.1), copies := given.parameters())
    for one in (optimizer, other):
        given.take_steps(one, range(2))
    assert not template.built
    assert given.bits(params) == given.bits(copies)


def fusedopt_torch() -> Any:
    import fusedopt.torch

    return fusedopt.torch


@pytest.mark.parametrize("given_names", [True, False])
def test_names_reach_the_rule(given_names: bool) -> None:
    names = ["embedding.weight", "head.weight"]
    params = given.parameters(0, torch.float32, [(3, 3), (3, 3)])
    optimizer = given.made(
        lambda: fo.Muon(learning_rate=0.1),
        list(zip(names, params, strict=True)) if given_names else params,
    )
    given.take_steps(optimizer, range(1))
    assert ("velocity" in optimizer.state[params[0]]) == given_names
    assert "velocity" not in optimizer.state[params[1]]


def test_exclusions_of_the_optimizer_hold() -> None:
    template = fo.AdamW(learning_rate=0.1, weight_decay=0.5)
    by_list = given.parameters()
    by_name = given.parameters()
    template.exclude_from_weight_decay(var_list=by_list[1:])
    one = fusedopt_torch().Optimizer(by_list, template)
    template = fo.AdamW(learning_rate=0.1, weight_decay=0.5)
    template.exclude_from_weight_decay(var_names=["bias"])
    names = ["weight", "bias", "other_bias", "last_bias"]
    other = fusedopt_torch().Optimizer(zip(names, by_name, strict=True), template)
    groups = given.parameters()
    third = given.made(
        lambda: fo.AdamW(learning_rate=0.1, weight_decay=0.5),
        [{"params": groups[:1]}, {"params": groups[1:], "weight_decay": 0.0}],
    )
    for optimizer in (one, other, third):
        given.take_steps(optimizer, range(3))
    assert given.bits(by_list) == given.bits(by_name) == given.bits(groups)
