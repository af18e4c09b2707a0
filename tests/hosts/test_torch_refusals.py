"""What `fusedopt.torch` refuses: what PyTorch does, in its words, and what cannot be done, before anything changes."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch_cases import (  # noqa: E402
    FULL,
    NAMES,
    gradients,
    ours,
    parameters,
    snapshot,
    step_with,
    theirs,
    train,
)

BAD: list[tuple[str, dict[str, Any]]] = [
    *[(name, {"lr": -1.0}) for name in NAMES],
    *[(name, {"lr": torch.ones(2)}) for name in NAMES],
    *[(name, {"weight_decay": -0.1}) for name in NAMES],
    *[(name, {"eps": -1e-8}) for name in NAMES if name != "SGD"],
    *[(name, {"betas": (1.0, 0.9)}) for name in ("Adam", "AdamW", "Adamax", "NAdam")],
    *[(name, {"betas": (0.9, -0.1)}) for name in ("Adam", "AdamW", "Adamax", "NAdam")],
    *[(name, {"betas": (0.9, torch.tensor(0.9))}) for name in ("Adam", "AdamW")],
    *[(name, {"lr": torch.tensor(0.1), "foreach": True}) for name in ("Adam", "AdamW")],
    *[(name, {"momentum": -0.1}) for name in ("SGD", "RMSprop")],
    ("SGD", {"nesterov": True}),
    ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.5}),
    ("RMSprop", {"alpha": -0.1}),
    ("Adagrad", {"lr_decay": -0.1}),
    ("Adagrad", {"initial_accumulator_value": -0.1}),
    ("Adadelta", {"rho": 1.1}),
    ("Adadelta", {"rho": -0.1}),
    ("NAdam", {"momentum_decay": -0.1}),
]


@pytest.mark.parametrize(("name", "options"), BAD, ids=str)
def test_what_pytorch_refuses_is_refused_in_its_words(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=r"Invalid|1-element|betas|Nesterov|as a Tensor"
    ) as expected:
        theirs(name)(parameters(), **options)
    with pytest.raises(ValueError, match=f"^{re.escape(str(expected.value))}$"):
        ours(name)(parameters(), **options)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "params",
    [
        lambda p: [],
        lambda p: p,
        lambda p: [{"params": [p]}, {"params": [p]}],
        lambda p: [1.0],
        lambda p: [("w", p), torch.ones(1)],
        lambda p: [p * 2],
        lambda p: [{"params": {p}}],
    ],
    ids=["none", "tensor", "shared", "number", "half named", "no leaf", "set in a group"],
)
def test_parameters_that_pytorch_refuses(name: str, params: Any) -> None:
    p = torch.nn.Parameter(torch.ones(3))
    with pytest.raises((ValueError, TypeError)) as expected:
        theirs(name)(params(p))
    with pytest.raises((ValueError, TypeError)) as found:
        ours(name)(params(p))
    assert (type(found.value), str(found.value)) == (type(expected.value), str(expected.value))


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_twice_in_a_group_only_warns_as_in_pytorch(name: str) -> None:
    p = torch.nn.Parameter(torch.ones(3))
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optimizer = ours(name)([p, p], **FULL[name])
    before = snapshot(optimizer)
    p.grad = torch.ones(3)
    with pytest.raises(ValueError, match="group 0, parameter 1.*overlapping"):
        optimizer.step()
    assert snapshot(optimizer) == before


@pytest.mark.parametrize(
    ("name", "option"),
    [
        (name, option)
        for name in NAMES
        for option in ("capturable", "differentiable")
        if option in theirs(name)([torch.ones(1)]).defaults
        and (name, option) != ("SGD", "capturable")
    ],
)
def test_what_cannot_be_done_is_refused(name: str, option: str) -> None:
    with pytest.raises(ValueError, match=f"{option}: expected False, found True"):
        ours(name)(parameters(), **{option: True})
    of = parameters()
    with pytest.raises(ValueError, match=f"{option}: expected False, found True"):
        ours(name)([{"params": of, option: True}])


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad"])
def test_foreach_and_fused_change_nothing(name: str) -> None:
    def trained(**options: bool) -> list[Any]:
        of, _ = train(lambda of: ours(name)(of, **options, **FULL[name]), 3)
        return [p.tolist() for p in of]

    assert trained() == trained(foreach=True) == trained(fused=True)
    assert trained() == trained(foreach=False, fused=False)


@pytest.mark.parametrize(
    ("tensor", "error", "match"),
    [
        (lambda: torch.ones(2, dtype=torch.complex64), TypeError, "complex64"),
        (lambda: torch.ones(2, dtype=torch.complex128), TypeError, "complex128"),
        (lambda: torch.ones(2).to(torch.float8_e4m3fn), TypeError, "float8"),
        (lambda: torch.ones(2, device="meta"), ValueError, "meta tensor"),
        (lambda: torch.eye(2).to_sparse(), ValueError, "layout torch.sparse_coo"),
        (lambda: torch._neg_view(torch.ones(2)), ValueError, "negated view"),
    ],
    ids=["complex64", "complex128", "float8", "meta", "sparse", "negated"],
)
@pytest.mark.parametrize("name", NAMES)
def test_parameters_that_cannot_be_updated(name: str, tensor: Any, error: Any, match: str) -> None:
    good = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(error, match=f"{name}: group 0, parameter 1: expected .*{match}"):
        ours(name)([good, tensor()])
    optimizer = ours(name)([good])
    before = snapshot(optimizer)
    with pytest.raises(error, match=f"{name}: group 1, parameter 0: expected .*{match}"):
        optimizer.add_param_group({"params": tensor()})
    assert snapshot(optimizer) == before


@pytest.mark.parametrize("name", NAMES)
def test_frozen_parameters_of_integers_stand_still(name: str) -> None:
    frozen = torch.nn.Parameter(torch.ones(3, dtype=torch.int8), requires_grad=False)
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = ours(name)([frozen, p], **FULL[name])
    p.grad = torch.ones(2)
    optimizer.step()
    assert (frozen == 1).all()


def _refused(of: list[Any], optimizer: Any, match: str) -> None:
    before = snapshot(optimizer)
    with pytest.raises((ValueError, TypeError), match=match):
        optimizer.step()
    assert snapshot(optimizer) == before
    assert not optimizer.state or all(state for state in optimizer.state.values())


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_sparse_gradients_are_refused(name: str, is_first: bool) -> None:
    of = parameters(shapes=[(3,), (4, 2)])
    optimizer = ours(name)(of, max_norm=1.0, ema_decay=0.5, **FULL[name])
    step = gradients(of)
    if not is_first:
        step_with(optimizer, of, next(step))
    of[0].grad, of[1].grad = next(step)
    of[1].grad = torch.eye(4, 2, dtype=torch.float64).to_sparse()
    _refused(of, optimizer, "group 0, parameter 1: gradient: (?i:.*sparse)")


def test_parameters_whose_elements_share_memory_are_refused() -> None:
    p = torch.nn.Parameter(torch.ones(1).expand(3))
    optimizer = ours("SGD")([torch.nn.Parameter(torch.ones(2)), p], lr=0.5)
    optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
    p.grad = torch.ones(3)
    _refused([p], optimizer, "group 0, parameter 1: expected memory that its elements fill")


def test_parameters_that_overlap_are_refused() -> None:
    base = torch.ones(6)
    of = [torch.nn.Parameter(base[:4]), torch.nn.Parameter(base[2:])]
    optimizer = ours("SGD")(of, lr=0.5)
    for p in of:
        p.grad = torch.ones(4)
    _refused(of, optimizer, "overlapping")


def test_state_that_does_not_fit_is_refused() -> None:
    of, optimizer = train(ours("Adam"), 1)
    kept = optimizer.state[of[0]]["exp_avg"]
    for wrong, match in (
        (kept.float(), "exp_avg: expected float64, found float32"),
        (kept.t().contiguous(), "exp_avg: expected shape"),
        (kept.t().contiguous().t(), "exp_avg: expected its elements in memory"),
    ):
        optimizer.state[of[0]]["exp_avg"] = wrong
        _refused(of, optimizer, f"group 0, parameter 0: {match}")
    optimizer.state[of[0]]["exp_avg"] = kept
    optimizer.state[of[0]]["step"] = torch.tensor(-1.0)
    _refused(of, optimizer, "group 0, parameter 0: step")


def test_a_wrapper_of_tensors_is_refused() -> None:
    from torch.testing._internal.two_tensor import TwoTensor

    p = torch.nn.Parameter(TwoTensor(torch.ones(2), torch.ones(2)))
    with pytest.raises(
        TypeError, match="AdamW: group 0, parameter 0: expected a tensor with memory"
    ):
        ours("AdamW")([p])


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_max_norm_out_of_its_range_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="max_norm: expected a number > 0, found"):
        ours("SGD")(parameters(), max_norm=bad)
    optimizer = ours("SGD")(parameters(), max_norm=2.0)
    with pytest.raises(ValueError, match="max_norm: expected a number > 0, found"):
        optimizer.max_norm = bad
    assert optimizer.max_norm == 2.0
    with pytest.raises(AttributeError):
        optimizer.master_weights = False


def test_without_pytorch_the_import_says_what_to_do() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import fusedopt\n"
        "try:\n    import fusedopt.torch\n"
        "except ImportError as error:\n    print(error)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "fusedopt.torch: expected PyTorch, found none" in found.stdout
    assert "fusedopt[torch]" in found.stdout


def test_fusedopt_does_not_import_pytorch() -> None:
    code = "import sys, fusedopt; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
