"""`fusedopt.torch` computes what `torch.optim` does."""

from __future__ import annotations

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
    step_with,
    theirs,
    train,
)

TIGHT = {"rtol": 1e-11, "atol": 1e-13}
LOOSE = {"rtol": 2e-4, "atol": 2e-5}


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_float64_agrees_within_rounding(name: str, options: dict[str, Any]) -> None:
    found = train(lambda of: ours(name)(of, **options), 200)
    expected = train(lambda of: theirs(name)(of, foreach=False, **options), 200)
    assert_same_numbers(found, expected, **TIGHT)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_float32_agrees(name: str, options: dict[str, Any]) -> None:
    found = train(lambda of: ours(name)(of, **options), 50, torch.float32)
    expected = train(lambda of: theirs(name)(of, foreach=False, **options), 50, torch.float32)
    assert_same_numbers(found, expected, **LOOSE)


@pytest.mark.parametrize("name", NAMES)
def test_a_learning_rate_can_be_a_tensor(name: str) -> None:
    options = {key: value for key, value in FULL[name].items() if key != "lr"}
    as_number = train(lambda of: ours(name)(of, lr=0.0078125, **options), 5)
    as_tensor = train(lambda of: ours(name)(of, lr=torch.tensor(0.0078125), **options), 5)
    in_one = train(lambda of: ours(name)(of, lr=torch.tensor([0.0078125]), **options), 5)
    for p, q, r in zip(as_number[0], as_tensor[0], in_one[0], strict=True):
        assert bits(p) == bits(q) == bits(r)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "Adamax", "NAdam"])
def test_betas_can_be_tensors(name: str) -> None:
    betas = (torch.tensor(0.875), torch.tensor([0.9375]))
    as_tensors = train(lambda of: ours(name)(of, betas=betas), 5)
    as_numbers = train(lambda of: ours(name)(of, betas=(0.875, 0.9375)), 5)
    for p, q in zip(as_numbers[0], as_tensors[0], strict=True):
        assert bits(p) == bits(q)


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_without_a_gradient_stands_still(name: str) -> None:
    def trained(make: Any) -> tuple[list[Any], Any]:
        of = parameters()
        optimizer = make(of)
        for i, values in zip(range(12), gradients(of), strict=False):
            step_with(optimizer, of, [g if (i + k) % 3 else None for k, g in enumerate(values)])
        return of, optimizer

    found = trained(lambda of: ours(name)(of, **FULL[name]))
    expected = trained(lambda of: theirs(name)(of, foreach=False, **FULL[name]))
    assert_same_numbers(found, expected, **TIGHT)


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_that_joins_late_starts_at_step_1(name: str) -> None:
    def trained(make: Any) -> tuple[list[Any], Any]:
        of = parameters()
        optimizer = make(of)
        for i, values in zip(range(12), gradients(of), strict=False):
            late = [g if i >= 2 * k else None for k, g in enumerate(values)]
            step_with(optimizer, of, late)
        return of, optimizer

    found = trained(lambda of: ours(name)(of, **FULL[name]))
    expected = trained(lambda of: theirs(name)(of, foreach=False, **FULL[name]))
    assert_same_numbers(found, expected, **TIGHT)
    if name != "SGD":
        assert [found[1].state[p]["step"].item() for p in found[0]] == [12, 10, 8, 6, 4, 2]


def test_no_gradient_at_all_is_no_step() -> None:
    of = parameters()
    optimizer = ours("AdamW")(of)
    before = [bits(p) for p in of]
    optimizer.step()
    assert [bits(p) for p in of] == before
    assert not optimizer.state


def test_a_zero_gradient_is_a_step() -> None:
    of = parameters()
    optimizer = ours("AdamW")(of, lr=0.5, weight_decay=0.5)
    expected = [0.75 * p.detach() for p in of]
    step_with(optimizer, of, [torch.zeros_like(p) for p in of])
    torch.testing.assert_close([p.detach() for p in of], expected)
    assert all(optimizer.state[p]["step"] == 1 for p in of)


@pytest.mark.parametrize("name", NAMES)
def test_a_rate_of_0_leaves_parameters_as_they_are(name: str) -> None:
    options = {**FULL[name], "lr": 0.0}
    of, _ = train(lambda of: ours(name)(of, weight_decay=0.1, **options), 3)
    assert [bits(p) for p in of] == [bits(p) for p in parameters()]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("max_norm", [0.5, 8.0, 1e6, float("inf")])
def test_max_norm_clips_as_clip_grad_norm(name: str, max_norm: float) -> None:
    options = FULL[name]
    of, others = parameters(), parameters()
    optimizer = ours(name)(of, max_norm=max_norm, **options)
    expected = theirs(name)(others, foreach=False, **options)
    for _, values in zip(range(20), gradients(of), strict=False):
        step_with(optimizer, of, values)
        for p, g in zip(others, values, strict=True):
            p.grad = g.clone()
        norm = torch.nn.utils.clip_grad_norm_(others, max_norm)
        expected.step()
        assert optimizer.global_norm == pytest.approx(norm.item(), rel=1e-12)
        assert all(torch.equal(p.grad, g) for p, g in zip(of, values, strict=True))
    assert_same_numbers((of, optimizer), (others, expected), **TIGHT)


def test_max_norm_is_over_all_groups_and_can_be_assigned() -> None:
    of = parameters(shapes=[(3,), (4,)])
    optimizer = ours("SGD")([{"params": of[:1]}, {"params": of[1:], "lr": 1.0}], lr=2.0)
    assert optimizer.max_norm is None
    step_with(optimizer, of, [torch.ones(3), torch.ones(4)])
    assert optimizer.global_norm is None
    before = [p.detach().clone() for p in of]
    optimizer.max_norm = torch.tensor(1.0)
    assert optimizer.max_norm == 1.0
    step_with(optimizer, of, [torch.full((3,), 2.0), torch.full((4,), 3.0)])
    norm = (3 * 4 + 4 * 9) ** 0.5
    assert optimizer.global_norm == pytest.approx(norm)
    torch.testing.assert_close(of[0].detach(), before[0] - 2.0 * 2.0 / (norm + 1e-6))
    torch.testing.assert_close(of[1].detach(), before[1] - 3.0 / (norm + 1e-6))


def test_a_nan_shows() -> None:
    of = parameters(shapes=[(3,), (4,)])
    optimizer = ours("SGD")(of, lr=1.0, max_norm=1.0)
    step_with(optimizer, of, [torch.tensor([0.0, float("nan"), 0.0]), torch.zeros(4)])
    assert all(p.isnan().all() for p in of)


def _channels_last(p: Any) -> Any:
    return p.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "lay",
    [_channels_last, lambda p: p.permute(3, 1, 0, 2), lambda p: p.transpose(0, 3)],
    ids=["channels_last", "permuted", "transposed"],
)
def test_dense_layouts(name: str, lay: Any) -> None:
    def trained(make: Any, *, lies_as_its_parameter: bool) -> tuple[list[Any], Any]:
        of = [torch.nn.Parameter(lay(p.detach())) for p in parameters(shapes=[(2, 3, 4, 5)])]
        assert not of[0].is_contiguous()
        optimizer = make(of)
        for _, values in zip(range(5), gradients(of), strict=False):
            if lies_as_its_parameter:
                values = [torch.empty_like(p).copy_(g) for p, g in zip(of, values, strict=True)]
            of[0].grad = values[0]
            optimizer.step()
        return of, optimizer

    found = trained(lambda of: ours(name)(of, **FULL[name]), lies_as_its_parameter=True)
    other = trained(lambda of: ours(name)(of, **FULL[name]), lies_as_its_parameter=False)
    expected = trained(
        lambda of: theirs(name)(of, foreach=False, **FULL[name]), lies_as_its_parameter=True
    )
    assert_same_numbers(found, expected, **TIGHT)
    assert_same_numbers(other, found, rtol=0.0, atol=0.0)
    slots = [v for v in found[1].state[found[0][0]].values() if v.ndim]
    assert all(slot.stride() == found[0][0].stride() for slot in slots)


def test_gradients_of_any_strides() -> None:
    of = parameters(shapes=[(4, 6), (3, 5), (4,)])
    optimizer = ours("SGD")(of, lr=1.0)
    before = [p.detach().clone() for p in of]
    given = [torch.arange(24.0).double().reshape(6, 4).t(), torch.ones(1).double().expand(3, 5)]
    given.append(torch.arange(8.0).double()[::2])
    for p, g in zip(of, given, strict=True):
        p.grad = g
        assert p.grad.stride() == g.stride()
    optimizer.step()
    for p, w, g in zip(of, before, given, strict=True):
        assert torch.equal(p, w - g)


def test_one_thread_and_two_give_the_same_bits() -> None:
    import fusedopt as fo

    threads = fo.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            fo.set_num_threads(count)
            of, optimizer = train(
                lambda of: ours("AdamW")(of, max_norm=1.0, ema_decay=0.9),
                3,
                torch.float32,
                [(300, 700)],
            )
            found.append((bits(of[0]), bits(optimizer.averages[of[0]]), optimizer.global_norm))
    finally:
        fo.set_num_threads(threads)
    assert found[0] == found[1]
