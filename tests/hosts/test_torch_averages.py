"""Moving averages of the parameters in `fusedopt.torch`."""

from __future__ import annotations

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
    train,
)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_averages_follow_the_parameters(name: str, dtype: torch.dtype) -> None:
    of = parameters(dtype)
    optimizer = ours(name)(of, ema_decay=0.75, **FULL[name])
    assert optimizer.averages == {}
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    expected = [p.detach().to(wide, copy=True) for p in of]
    for _, values in zip(range(5), gradients(of), strict=False):
        step_with(optimizer, of, values)
        now = [optimizer.state[p].get("master", p.detach()) for p in of]
        expected = [0.75 * a + 0.25 * w for a, w in zip(expected, now, strict=True)]
    averages = optimizer.averages
    assert list(map(id, averages)) == list(map(id, of))
    for average, value in zip(averages.values(), expected, strict=True):
        assert average.dtype == wide
        torch.testing.assert_close(average, value)


def test_the_decay_can_be_assigned() -> None:
    w = torch.nn.Parameter(torch.zeros(1))
    optimizer = ours("SGD")([w], lr=1.0)
    found = []
    for decay in (None, 0.5, 0.25, None, 1.0):
        optimizer.ema_decay = decay
        w.grad = torch.ones(1)
        optimizer.step()
        found.append([average.item() for average in optimizer.averages.values()])
    # The average starts at -1, which the second step finds.
    assert found == [[], [-1.5], [-2.625], [-2.625], [-2.625]]


def test_evaluation_weights_come_and_go() -> None:
    of, optimizer = train(lambda of: ours("AdamW")(of, ema_decay=0.5), 3, torch.bfloat16)
    late = torch.nn.Parameter(torch.ones(2))
    optimizer.add_param_group({"params": [late]})
    before = snapshot(optimizer)
    with optimizer.evaluation_weights():
        for p, average in optimizer.averages.items():
            assert torch.equal(p, average.to(p.dtype))
        assert (late == 1.0).all()
        of[0].data.fill_(7.0)
    assert snapshot(optimizer) == before
    with pytest.raises(ZeroDivisionError), optimizer.evaluation_weights():
        raise ZeroDivisionError
    assert snapshot(optimizer) == before
    step_with(optimizer, [*of, late], [*next(gradients(of)), torch.ones(2)])


def test_a_step_while_evaluating_is_refused() -> None:
    of, optimizer = train(lambda of: ours("AdamW")(of, ema_decay=0.5), 3)
    before = snapshot(optimizer)
    with optimizer.evaluation_weights():
        with pytest.raises(RuntimeError, match="evaluation_weights at work"):
            step_with(optimizer, of, next(gradients(of)))
        with pytest.raises(ValueError, match="no other such block"), optimizer.evaluation_weights():
            pass
        inside = snapshot(optimizer)
        optimizer.load_state_dict(optimizer.state_dict())
        with pytest.raises(RuntimeError, match="evaluation_weights at work"):
            optimizer.step()
    assert snapshot(optimizer) == before != inside


def test_without_averages_there_is_nothing_to_evaluate_with() -> None:
    _, optimizer = train(ours("AdamW"), 1)
    with pytest.raises(ValueError, match="expected an optimizer with ema_decay"):
        optimizer.evaluation_weights().__enter__()


def test_averages_are_evaluated_by_the_model() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1, bias=False)
    optimizer = ours("SGD")(model.parameters(), lr=0.1, ema_decay=0.5)
    x = torch.ones(1, 2)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()
    training = model(x)
    with optimizer.evaluation_weights():
        torch.testing.assert_close(model(x), x @ optimizer.averages[model.weight].t())
        assert not torch.equal(model(x), training)
    assert torch.equal(model(x), training)


@pytest.mark.parametrize("decay", [-0.1, 1.1, float("nan")])
def test_a_decay_out_of_its_range_is_refused(decay: Any) -> None:
    with pytest.raises(ValueError, match="ema_decay: expected a number in"):
        ours("SGD")(parameters(), ema_decay=decay)
    optimizer = ours("SGD")(parameters(), ema_decay=0.5)
    with pytest.raises(ValueError, match="ema_decay: expected a number in"):
        optimizer.ema_decay = decay
    assert optimizer.ema_decay == 0.5


def test_a_parameter_in_evaluation_keeps_its_memory() -> None:
    of, optimizer = train(lambda of: ours("AdamW")(of, ema_decay=0.5), 1)
    places = [p.data_ptr() for p in of]
    with optimizer.evaluation_weights():
        assert [p.data_ptr() for p in of] == places
    assert [p.data_ptr() for p in of] == places
    assert bits(of[0]) != bits(parameters()[0])
