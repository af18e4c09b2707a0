"""Slots of fewer bits in PyTorch: refused with the reason. Variables without a master copy: welcome."""

from __future__ import annotations

import copy
import io
from typing import Any

import fusedopt as fo
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fusedopt.torch  # noqa: E402

OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"slot_dtype": "bfloat16"}, "slot_dtype: expected 'float32', because .*, found 'bfloat16'"),
    ({"slot_dtype": "float8"}, "slot_dtype: expected 'float32', because .*, found 'float8'"),
    (
        {"slot_dtypes": {"a": "float32", "w": "float8"}},
        r"slot_dtypes\['w'\]: expected 'float32', because .*, found 'float8'",
    ),
]


@pytest.mark.parametrize(("option", "text"), OPTIONS)
def test_slots_of_fewer_bits_are_refused(option: dict[str, Any], text: str) -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match=text):
        fusedopt.torch.Optimizer([parameter], fo.Adam(**option))
    fusedopt.torch.Optimizer([parameter], fo.Adam(slot_dtypes={}))


@pytest.mark.parametrize("name", sorted(set(fusedopt.torch.__all__) - {"Optimizer"}))
def test_optimizers_in_pytorchs_numbers_do_not_know_the_option(name: str) -> None:
    with pytest.raises(TypeError, match="slot_dtype"):
        getattr(fusedopt.torch, name)([torch.nn.Parameter(torch.zeros(3))], slot_dtype="float8")


def test_in_a_group_it_is_the_optimizers() -> None:
    group = {"params": [torch.nn.Parameter(torch.zeros(3))], "slot_dtype": "float8"}
    with pytest.raises(ValueError, match=r"group 0.*slot_dtype.*optimizer itself"):
        fusedopt.torch.Optimizer([group], fo.Adam())


def parameters(dtype: Any) -> list[Any]:
    torch.manual_seed(1)
    return [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in ((65, 64), (7,))]


def step(optimizer: Any, given: list[Any], number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    for parameter in given:
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    optimizer.step()


def everything(optimizer: Any, given: list[Any]) -> list[Any]:
    state = [
        (name, value.tolist()) for p in given for name, value in sorted(optimizer.state[p].items())
    ]
    return [*(p.tolist() for p in given), state]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_without_master_copies(dtype: Any) -> None:
    """The numbers are those of the optimizer itself, and a checkpoint goes on with them."""
    rule = fo.AdamW(0.01, master=False, seed=6)
    given = parameters(dtype)
    optimizer = fusedopt.torch.Optimizer(given, rule)
    plain = copy.copy(rule)
    twins = [p.detach().clone() for p in given]
    plain.build(twins)
    for number in range(4):
        step(optimizer, given, number)
        plain.apply([p.grad for p in given])
        for p, twin in zip(given, twins, strict=True):
            assert torch.equal(p, twin)
    assert set(optimizer.state[given[0]]) == {"iteration", "momentum", "velocity", "seed"}
    file = io.BytesIO()
    torch.save([optimizer.state_dict(), given], file)
    file.seek(0)
    state, others = torch.load(file, weights_only=False)
    other = fusedopt.torch.Optimizer(others, fo.AdamW(0.01, master=False))
    other.load_state_dict(state)
    for number in range(4, 7):
        step(optimizer, given, number)
        step(other, others, number)
    assert everything(other, others) == everything(optimizer, given)


def test_seed_of_a_group_acts() -> None:
    results = []
    for seeds in ((1, 1), (1, 1), (1, 2)):
        given = parameters(torch.bfloat16)
        groups = [{"params": [given[0]], "seed": seeds[0]}, {"params": [given[1]]}]
        optimizer = fusedopt.torch.Optimizer(groups, fo.SGD(0.01, master=False))
        step(optimizer, given, 0)
        optimizer.param_groups[0]["seed"] = seeds[1]
        step(optimizer, given, 1)
        results.append(given[0].tolist())
    assert results[0] == results[1] != results[2]


def test_tensors_of_bfloat16_are_variables_of_slots_of_fewer_bits() -> None:
    """Without the adapter, PyTorch's tensors have them."""
    w = torch.ones(65, 64, dtype=torch.bfloat16)
    for dtype in ("bfloat16", "float8"):
        optimizer = fo.Adam(0.01, slot_dtype=dtype, master=False)  # type: ignore[arg-type]
        optimizer.build({"w": w})
        optimizer.apply({"w": torch.ones_like(w)})
        assert np.isfinite(optimizer.named_variables()["momentum/w"]).all()
        other = copy.deepcopy(optimizer)
        assert [a.tobytes() for _, a in other._core.state()] == [
            a.tobytes() for _, a in optimizer._core.state()
        ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_schedule_free_slot_of_a_bfloat16_tensor_begins_at_the_loaded_variable(
    dtype: Any, tmp_path: Any
) -> None:
    pytest.importorskip("safetensors")
    w = torch.linspace(1, 2, 20, dtype=torch.bfloat16)
    source = fo.SGD()
    source.build({"w": w})
    source.save(tmp_path / "state", variables=True)
    target = fo.ScheduleFreeAdamW(slot_dtype=dtype)
    target.build({"w": torch.zeros(20, dtype=torch.bfloat16)})
    target.load(tmp_path / "state", strict=False)
    found = target.named_variables()["momentum/w"]
    np.testing.assert_array_equal(found, w.float().numpy())
