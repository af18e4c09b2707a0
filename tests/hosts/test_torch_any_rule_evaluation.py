"""Weights to evaluate with, of any rule on PyTorch's parameters."""

from __future__ import annotations

import copy
import io
from typing import Any

import fusedopt as fo
import pytest
from cases import VARIANTS, Case
from training import make

torch = pytest.importorskip("torch")

import fusedopt.torch  # noqa: E402
import torch_parameters as given  # noqa: E402

RULES: dict[str, Any] = {
    "schedule-free": lambda: fo.ScheduleFreeAdamW(0.1),
    "averages": lambda: fo.Lion(0.1, use_ema=True, ema_momentum=0.8),
    "both": lambda: fo.ScheduleFreeAdamW(0.1, use_ema=True),
    "accumulation": lambda: fo.SGD(0.1, use_ema=True, gradient_accumulation_steps=2),
    "overwriting": lambda: fo.SGD(0.1, use_ema=True, ema_overwrite_frequency=3),
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
every_dtype = pytest.mark.parametrize("dtype", given.DTYPES, ids=str)


@every_rule
@every_dtype
def test_weights_are_those_on_arrays_and_training_goes_on(rule: Any, dtype: Any) -> None:
    if dtype == torch.bfloat16:
        pytest.importorskip("ml_dtypes")
    params = given.parameters(0, dtype)
    optimizer = given.made(rule, params)
    arrays = [given.array_of(tensor) for tensor in given.tensors(0, dtype)]
    expected = rule()
    expected.build(arrays)
    for step in range(5):
        given.give(params, given.gradients(step, dtype))
        optimizer.step()
        expected.apply([given.array_of(g) for g in given.gradients(step, dtype)])
        in_training = given.everything(optimizer)
        for _ in range(2):
            optimizer.eval()
        with expected.evaluation_weights():
            assert given.bits(params) == [array.tobytes() for array in arrays]
        for _ in range(2):
            optimizer.train()
        assert given.everything(optimizer) == in_training
        assert given.bits(params) == [array.tobytes() for array in arrays]


@pytest.mark.parametrize("case", VARIANTS, ids=str)
def test_other_rules_stay_as_they_are(case: Case) -> None:
    if case.rule == "ScheduleFreeAdamW":
        case = Case("Adam", {}, "")
    optimizer = given.made(case, given.parameters())
    given.take_steps(optimizer, range(2))
    before = given.everything(optimizer)
    optimizer.eval()
    assert given.everything(optimizer) == before
    given.take_steps(optimizer, range(2, 3))
    optimizer.train()
    expected = fusedopt.torch.Optimizer(given.parameters(), make(case))
    given.take_steps(expected, range(3))
    assert given.everything(optimizer) == given.everything(expected)


def test_before_the_first_step_nothing_happens() -> None:
    optimizer = given.made(RULES["averages"], params := given.parameters())
    before = given.bits(params)
    optimizer.eval()
    optimizer.train()
    assert given.bits(params) == before


@every_rule
def test_steps_are_refused_meanwhile(rule: Any) -> None:
    optimizer = given.made(rule, params := given.parameters())
    given.take_steps(optimizer, range(3))
    optimizer.eval()
    before = given.everything(optimizer)
    with pytest.raises(ValueError, match=r"step: expected the weights in training.*call train\(\)"):
        optimizer.step()
    assert given.everything(optimizer) == before
    versions = [p._version for p in params]
    optimizer.train()
    assert all(p._version > old for p, old in zip(params, versions, strict=True))


@every_rule
@every_dtype
@pytest.mark.parametrize("by", ["file", "copy"])
def test_a_checkpoint_written_meanwhile_goes_on(rule: Any, dtype: Any, by: str) -> None:
    def new_model(seed: int) -> Any:
        return torch.nn.ParameterList(given.parameters(seed, dtype))

    model = new_model(0)
    optimizer = given.made(rule, model.parameters())
    given.take_steps(optimizer, range(3))
    optimizer.eval()
    if by == "file":
        torch.save((model.state_dict(), optimizer.state_dict()), file := io.BytesIO())
        file.seek(0)
        weights, state = torch.load(file, weights_only=True)
        other_model = new_model(1)
        other = given.made(rule, other_model.parameters())
        other_model.load_state_dict(weights)
        other.load_state_dict(state)
    else:
        other_model, other = copy.deepcopy((model, optimizer))
    assert given.everything(other) == given.everything(optimizer)
    with pytest.raises(ValueError, match="train"):
        other.step()
    for one in (optimizer, other):
        one.train()
        given.take_steps(one, range(3, 6))
    assert given.everything(other) == given.everything(optimizer)
    alone = given.made(rule, given.parameters(0, dtype))
    given.take_steps(alone, range(6))
    assert given.everything(optimizer) == given.everything(alone)


def test_only_groups_with_averages_change() -> None:
    params = given.parameters()
    groups = [{"params": params[:2], "use_ema": True}, {"params": params[2:]}]
    optimizer = given.made(lambda: fo.SGD(0.1), groups)
    given.take_steps(optimizer, range(3))
    before = given.bits(params)
    optimizer.eval()
    after = given.bits(params)
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, False, True, True]
    assert ["training_weight" in optimizer.state[p] for p in params] == [True, True, False, False]


def test_weights_that_do_not_fit_are_refused() -> None:
    optimizer = given.made(RULES["averages"], params := given.parameters())
    given.take_steps(optimizer, range(3))
    optimizer.eval()
    kept = optimizer.state[params[1]]["training_weight"]
    optimizer.state[params[1]]["training_weight"] = torch.zeros(1)
    before = given.bits(params)
    with pytest.raises(ValueError, match="train: expected the weights in training"):
        optimizer.train()
    assert given.bits(params) == before
    optimizer.state[params[1]]["training_weight"] = kept
    optimizer.train()
    alone = given.made(RULES["averages"], given.parameters())
    given.take_steps(alone, range(3))
    assert given.everything(optimizer) == given.everything(alone)
