"""float16 and bfloat16 parameters of `fusedopt.torch`, with a float32 copy and without."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch_cases import (  # noqa: E402
    FULL,
    NAMES,
    bits,
    gradients,
    ours,
    parameters,
    snapshot,
    step_with,
    theirs,
    train,
)

TYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


@TYPES
@pytest.mark.parametrize("name", NAMES)
def test_with_a_copy_the_numbers_are_those_of_float32(name: str, dtype: torch.dtype) -> None:
    of = parameters(dtype)
    wide = [torch.nn.Parameter(p.detach().float()) for p in of]
    optimizer, expected = ours(name)(of, **FULL[name]), ours(name)(wide, **FULL[name])
    assert optimizer.master_weights
    for _, values in zip(range(5), gradients(of), strict=False):
        step_with(optimizer, of, values)
        step_with(expected, wide, values)
        for p, w in zip(of, wide, strict=True):
            assert bits(p) == bits(w.to(dtype))
            state, model = optimizer.state[p], expected.state[w]
            assert bits(state["master"]) == bits(w)
            assert {key: bits(state[key]) for key in model} == {
                key: bits(value) for key, value in model.items()
            }


@TYPES
@pytest.mark.parametrize("has_masters", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_state_is_float32(name: str, has_masters: bool, dtype: torch.dtype) -> None:
    options = {**FULL[name], "ema_decay": 0.9}
    of, optimizer = train(
        lambda of: ours(name)(of, master_weights=has_masters, **options), 1, dtype
    )
    for p in of:
        assert p.dtype == dtype
        state = optimizer.state[p]
        assert ("master" in state) == has_masters
        assert all(value.dtype == torch.float32 for value in state.values())


def test_small_updates_are_not_lost() -> None:
    """A step of 2^-12 is lost in the 8 bits of bfloat16 at 1."""
    steps = 1024
    for has_masters, tolerance in ((True, 1e-6), (False, 0.02)):
        w = torch.nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
        optimizer = ours("SGD")([w], lr=2.0**-12, master_weights=has_masters)
        for _ in range(steps):
            w.grad = torch.ones_like(w)
            optimizer.step()
        assert w.float().mean().item() == pytest.approx(1.0 - steps * 2.0**-12, abs=tolerance)
    w = torch.nn.Parameter(torch.ones(8, dtype=torch.bfloat16))
    w.grad = torch.ones_like(w)
    torch.optim.SGD([w], lr=2.0**-12).step()
    assert (w == 1.0).all()


def test_what_is_written_to_a_parameter_wins_over_its_copy() -> None:
    w = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = ours("SGD")([w], lr=2.0**-12)
    for _ in range(3):
        w.grad = torch.ones_like(w)
        optimizer.step()
    with torch.no_grad():
        w[1] = 5.0
    optimizer.step()
    master = optimizer.state[w]["master"]
    assert master.tolist() == [1 - 4 * 2.0**-12, 5 - 2.0**-12, 1 - 4 * 2.0**-12]
    assert w.tolist() == [1.0, 5.0, 1.0]


def _rounded(seed: int | None, **options: Any) -> tuple[list[Any], Any]:
    if seed is not None:
        torch.manual_seed(seed)
    return train(
        lambda of: ours("AdamW")(of, master_weights=False, **options), 3, torch.bfloat16, [(64, 32)]
    )


def test_stochastic_rounding_follows_the_seed() -> None:
    found = [bits(_rounded(seed)[0][0]) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]
    of, optimizer = _rounded(1)
    assert isinstance(optimizer.param_groups[0]["rounding_seed"], int)
    torch.manual_seed(5)  # from here on the group's seed counts
    state = copy.deepcopy(optimizer.state_dict())
    others = [torch.nn.Parameter(p.detach().clone()) for p in of]
    resumed = ours("AdamW")(others, master_weights=False)
    resumed.load_state_dict(state)
    for _, values in zip(range(3), gradients(of), strict=False):
        step_with(optimizer, of, values)
        step_with(resumed, others, values)
    assert snapshot(optimizer) == snapshot(resumed)


def test_each_step_rounds_with_other_bits() -> None:
    torch.manual_seed(1)
    w = torch.nn.Parameter(torch.ones(1024, dtype=torch.bfloat16))
    optimizer = ours("SGD")([w], lr=2.0**-9, master_weights=False)
    moved = []
    for _ in range(3):
        w.data.fill_(1.0)
        w.grad = torch.ones_like(w)
        optimizer.step()
        moved.append(w.detach() != 1.0)
    assert all(0.3 < each.float().mean() < 0.7 for each in moved)
    agreements = [(moved[i] == moved[k]).float().mean() for i, k in ((0, 1), (0, 2), (1, 2))]
    assert all(0.4 < each < 0.6 for each in agreements)


def test_a_skipped_step_uses_no_bits_up() -> None:
    of, optimizer = _rounded(1)
    before = snapshot(optimizer)
    optimizer.found_inf = torch.ones(())
    step_with(optimizer, of, next(gradients(of)))
    del optimizer.found_inf
    assert snapshot(optimizer) == before


def test_no_seed_is_kept_if_nothing_is_rounded_so() -> None:
    _, optimizer = train(ours("AdamW"), 1, torch.bfloat16)
    assert "rounding_seed" not in optimizer.param_groups[0]


@TYPES
@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_of_pytorch_is_widened(name: str, dtype: torch.dtype) -> None:
    of, theirs_ = train(lambda of: theirs(name)(of, foreach=False, **FULL[name]), 3, dtype)
    state = copy.deepcopy(theirs_.state_dict())
    others = [torch.nn.Parameter(p.detach().clone()) for p in of]
    optimizer = ours(name)(others)
    optimizer.load_state_dict(state)
    for p, q in zip(of, others, strict=True):
        for key, value in theirs_.state[p].items():
            if key not in ("step", "mu_product"):
                assert value.dtype == dtype
                assert optimizer.state[q][key].dtype == torch.float32
            assert torch.equal(optimizer.state[q][key].float(), value.float())
    step_with(optimizer, others, next(gradients(others)))


@TYPES
def test_a_checkpoint_goes_on_in_pytorch(dtype: torch.dtype) -> None:
    of, optimizer = train(ours("AdamW"), 3, dtype)
    others = [torch.nn.Parameter(p.detach().clone()) for p in of]
    expected = theirs("AdamW")(others, foreach=False)
    expected.load_state_dict(optimizer.state_dict())
    assert expected.state[others[0]]["exp_avg"].dtype == dtype
    step_with(expected, others, next(gradients(others)))


def test_copies_are_loaded_only_where_they_are_kept() -> None:
    of, optimizer = train(ours("AdamW"), 3, torch.bfloat16)
    others = [torch.nn.Parameter(p.detach().clone()) for p in of]
    without = ours("AdamW")(others, master_weights=False)
    without.load_state_dict(optimizer.state_dict())
    assert all("master" not in without.state[p] for p in others)
    step_with(without, others, next(gradients(others)))
    again = ours("AdamW")(of)
    again.load_state_dict(without.state_dict())
    step_with(again, of, next(gradients(of)))
    assert all("master" in again.state[p] for p in of)


def test_types_can_be_mixed() -> None:
    types = [torch.bfloat16, torch.float32, torch.float64, torch.float16]
    of = [torch.nn.Parameter(torch.ones(3, dtype=dtype)) for dtype in types]
    optimizer = ours("SGD")(of, lr=1.0, max_norm=1.0)
    step_with(optimizer, of, [torch.full((3,), 2.0) for _ in of])
    assert optimizer.global_norm == pytest.approx(48.0**0.5)
    for p in of:
        torch.testing.assert_close(
            p.double().detach(), torch.full((3,), 1 - 2 / 48.0**0.5).double(), rtol=0, atol=4e-3
        )


@pytest.mark.skipif(
    not hasattr(torch.Tensor, "grad_dtype"),
    reason="this PyTorch has gradients of the parameter's type",
)
def test_gradients_of_another_type() -> None:
    w = torch.nn.Parameter(torch.ones(3))
    w.grad_dtype = None
    w.grad = torch.full((3,), 0.5, dtype=torch.bfloat16)
    optimizer = ours("SGD")([w], lr=1.0)
    optimizer.step()
    assert w.tolist() == [0.5, 0.5, 0.5]


def test_a_model_that_is_cast_goes_on() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = ours("AdamW")(model.parameters())
    of = list(model.parameters())
    step_with(optimizer, of, next(gradients(of)))
    model.to(torch.bfloat16)
    assert next(model.parameters()) is of[0]
    step_with(optimizer, of, next(gradients(of)))
    assert optimizer.state[of[0]]["step"] == 2
    assert optimizer.state[of[0]]["master"].dtype == torch.float32
