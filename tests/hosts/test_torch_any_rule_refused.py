"""What any rule refuses on PyTorch's parameters, and that nothing has changed then."""

from __future__ import annotations

from typing import Any

import fusedopt as fo
import pytest

torch = pytest.importorskip("torch")

import fusedopt.torch  # noqa: E402
import torch_parameters as given  # noqa: E402

# The optimizer


@pytest.mark.parametrize(
    ("optimizer", "text"),
    [
        (fo.LossScaleOptimizer(fo.Lion()), "GradScaler"),
        (fo.MultiOptimizer(fo.OptimizerMap(fo.Lion())), "parameter groups"),
        (fo.Lion, "such as fusedopt.Lion"),
        ("lion", "such as fusedopt.Lion"),
        (None, "such as fusedopt.Lion"),
        (torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]), "such as fusedopt.Lion"),
    ],
)
def test_other_objects_than_an_optimizer_of_one_rule(optimizer: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        fusedopt.torch.Optimizer(given.parameters(), optimizer)


def test_an_optimizer_that_is_built() -> None:
    optimizer = fo.Lion()
    optimizer.build([p.detach() for p in given.parameters()])
    with pytest.raises(ValueError, match="expected one that is not built"):
        fusedopt.torch.Optimizer(given.parameters(), optimizer)


# Parameters


class Wrapper(torch.Tensor):
    @staticmethod
    def __new__(cls: Any, inner: Any) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape)

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __tensor_flatten__(self) -> Any:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner: Any, *_: Any) -> Any:
        return Wrapper(inner["inner"])

    @classmethod
    def __torch_dispatch__(cls, *_: Any, **__: Any) -> Any:
        raise AssertionError("the values of a tensor of this kind were read")


def hostile_parameters() -> dict[str, tuple[Any, Any, str]]:
    base = torch.zeros(20)
    return {
        "complex64": (torch.zeros(2, dtype=torch.complex64), TypeError, "complex64"),
        "float8": (torch.zeros(2).to(torch.float8_e4m3fn), TypeError, "float8_e4m3fn"),
        "meta": (torch.zeros(2, device="meta"), ValueError, "meta"),
        "sparse": (torch.eye(2).to_sparse(), ValueError, "sparse_coo"),
        "expanded": (torch.zeros(1).expand(3), ValueError, r"strides \(0,\)"),
        "strided": (base[::2], ValueError, r"strides \(2,\)"),
        "overlapping itself": (base.as_strided((3, 3), (1, 1)), ValueError, "strides"),
        "negated": (torch.ones(1, dtype=torch.complex64).conj().imag, ValueError, "negated"),
        "lazy": (torch.nn.LazyLinear(2).weight, ValueError, "lazy"),
        "wrapper": (Wrapper(torch.zeros(2)), TypeError, "Wrapper"),
    }


@pytest.mark.parametrize("kind", hostile_parameters())
def test_parameters_that_cannot_be_updated(kind: str) -> None:
    bad, error, text = hostile_parameters()[kind]
    good = given.parameters()
    with pytest.raises(error, match=f"group 0, parameter 4: expected .*{text}"):
        fusedopt.torch.Optimizer([*good, bad], fo.Lion())
    optimizer = fusedopt.torch.Optimizer(good, fo.Lion())
    given.take_steps(optimizer, range(1))
    with pytest.raises(error, match=f"group 1, parameter 0: expected .*{text}"):
        optimizer.add_param_group({"params": [bad]})
    assert len(optimizer.param_groups) == 1
    given.take_steps(optimizer, range(1, 2))


def test_integers_stand_still() -> None:
    frozen = torch.nn.Parameter(torch.ones(3, dtype=torch.int8), requires_grad=False)
    optimizer = fusedopt.torch.Optimizer([frozen, weight := torch.zeros(2)], fo.Lion(0.5))
    weight.grad = torch.ones(2)
    optimizer.step()
    assert (frozen.tolist(), weight.tolist()) == ([1, 1, 1], [-0.5, -0.5])
    assert list(optimizer.state) == [weight]


@pytest.mark.parametrize("in_one_group", [True, False])
def test_parameters_that_overlap(in_one_group: bool) -> None:
    base = torch.zeros(10)
    params = [base[:6].view(2, 3), torch.zeros(3), base[5:]]
    groups = [params] if in_one_group else [params[:2], params[2:]]
    place = "group 0, parameter 2" if in_one_group else "group 1, parameter 0"
    with pytest.raises(
        ValueError, match=f"{place}: expected memory of its own, .* group 0, parameter 0"
    ):
        fusedopt.torch.Optimizer([{"params": group} for group in groups], fo.Lion())


@pytest.mark.parametrize(
    ("optimizer", "reason"),
    [(fo.Adafactor(), "rows and columns"), (fo.Adagrad(rowwise=True), "rowwise takes means")],
)
def test_means_need_rows_in_memory(optimizer: fo.Optimizer, reason: str) -> None:
    parameter = torch.nn.Parameter(torch.randn(3, 4).t())
    with pytest.raises(ValueError, match=f"group 0, parameter 0: .*{reason}"):
        fusedopt.torch.Optimizer([parameter], optimizer)


def test_a_name_that_two_parameters_have() -> None:
    params = given.parameters()[:2]
    groups = [{"params": [("w", p)]} for p in params]
    with pytest.raises(ValueError, match="group 1: expected names that no other parameter has"):
        fusedopt.torch.Optimizer(groups, fo.Lion())


@pytest.mark.parametrize("params", [[], [3.0], 3, torch.zeros(3), [{"params": {1.0}}]])
def test_what_holds_no_parameters(params: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        fusedopt.torch.Optimizer(params, fo.Lion())


# Groups


@pytest.mark.parametrize(
    ("own", "error", "text"),
    [
        ({"lr": -1.0}, ValueError, "group 1: lr: expected"),
        ({"lr": None}, TypeError, "group 1: lr: expected a number"),
        ({"learning_rate": 0.1}, ValueError, "group 1: .*'learning_rate'; did you mean lr"),
        ({"betas": (0.9, 0.99)}, ValueError, "did you mean adam_beta_1 and adam_beta_2"),
        ({"eps": 1e-3}, ValueError, "did you mean epsilon"),
        ({"exclude_layers": ["head"]}, ValueError, "give it to the optimizer itself"),
        ({"matrix_product": None}, ValueError, "give it to the optimizer itself"),
        ({"momentum": 2.0}, ValueError, "group 1: momentum: expected"),
        ({"ns_steps": 2.5}, ValueError, "group 1: ns_steps: expected"),
        ({"weight_decay": "much"}, TypeError, "group 1: weight_decay: expected"),
        ({"clipnorm": 1.0, "clipvalue": 1.0}, ValueError, "at most one of them"),
        ({"global_clipnorm": 1.0}, ValueError, "global_clipnorm: expected the same in all"),
        ({"loss_scale_factor": 8.0}, ValueError, "loss_scale_factor: expected the same in all"),
        ({"maximize": True}, ValueError, "maximize: expected False"),
        ({"capturable": True}, ValueError, "capturable: expected False"),
        ({"differentiable": True}, ValueError, "differentiable: expected False"),
    ],
)
def test_groups_with_bad_values(own: Any, error: Any, text: str) -> None:
    params = given.parameters()
    groups = [{"params": params[:2]}, {"params": params[2:], **own}]
    with pytest.raises(error, match=text):
        fusedopt.torch.Optimizer([dict(group) for group in groups], fo.Muon())
    optimizer = fusedopt.torch.Optimizer([groups[0]], fo.Muon())
    with pytest.raises(error, match=text):
        optimizer.add_param_group(groups[1])
    assert len(optimizer.param_groups) == 1


def test_keys_of_others_are_no_error() -> None:
    groups = [{"params": given.parameters(), "initial_lr": 0.1, "name": "all", "my_note": [1]}]
    optimizer = fusedopt.torch.Optimizer(
        [{**groups[0], "foreach": True, "fused": None, "maximize": False}], fo.Lion()
    )
    given.take_steps(optimizer, range(2))
    assert optimizer.state_dict()["param_groups"][0]["my_note"] == [1]


# Gradients


def hostile_gradients() -> dict[str, Any]:
    return {
        "sparse": torch.zeros(5, 1).to_sparse(),
        "meta": torch.zeros(5, device="meta"),
        "shape": torch.zeros(6),
        "complex": torch.zeros(5, dtype=torch.complex64),
        "integers": torch.zeros(5, dtype=torch.int64),
    }


@pytest.mark.parametrize("kind", hostile_gradients())
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("names", [None, "abcd"])
def test_gradients_that_cannot_be_used(kind: str, steps: int, names: str | None) -> None:
    class Careless(torch.nn.Parameter):
        grad = None  # PyTorch refuses most of these

    params = [Careless(tensor) for tensor in given.tensors(0)]
    members = list(zip(names, params, strict=True)) if names else params
    groups = [{"params": members[:1]}, {"params": members[1:]}]
    optimizer = fusedopt.torch.Optimizer(groups, fo.Adam(0.1))
    given.take_steps(optimizer, range(steps))
    before = given.bits(params)
    who = r"group 1, parameter 0 \('b'\): " if names else "group 1, parameter 0: "
    for parameter in params:
        parameter.grad = torch.ones_like(parameter)
    params[1].grad = hostile_gradients()[kind]
    with pytest.raises((TypeError, ValueError), match=f"gradient of {who}"):
        optimizer.step()
    assert given.bits(params) == before
    assert {int(own["iteration"]) for own in optimizer.state.values()} == (
        {steps} if steps else set()
    )
    given.take_steps(optimizer, range(steps, steps + 1))
    assert {int(own["iteration"]) for own in optimizer.state.values()} == {steps + 1}


def test_a_gradient_that_is_the_parameter() -> None:
    optimizer = fusedopt.torch.Optimizer([parameter := torch.zeros(3)], fo.Adam(0.1))
    parameter.grad = parameter.detach()
    with pytest.raises(ValueError, match="apart from the variables"):
        optimizer.step()


def test_a_gradient_that_is_the_state() -> None:
    optimizer = fusedopt.torch.Optimizer([parameter := torch.zeros(3)], fo.Adam(0.1))
    parameter.grad = torch.ones(3)
    optimizer.step()
    parameter.grad = optimizer.state[parameter]["momentum"]
    with pytest.raises(ValueError, match="apart from the optimizer's state"):
        optimizer.step()


def test_a_parameter_that_became_another() -> None:
    optimizer = fusedopt.torch.Optimizer(
        [parameter := torch.nn.Parameter(torch.zeros(3))], fo.Adam(0.1)
    )
    given.take_steps(optimizer, range(1))
    kept = parameter.data
    for data, text in [
        (torch.zeros(4), "expected shape"),
        (torch.zeros(6)[::2], "strides"),
    ]:
        parameter.data = data
        parameter.grad = None
        with pytest.raises((TypeError, ValueError), match=text):
            optimizer.learning_rates  # noqa: B018
    parameter.data = kept
    given.take_steps(optimizer, range(1, 2))
    assert int(optimizer.state[parameter]["iteration"]) == 2
