"""The state of fusedopt.thinc's optimizers: handed to thinc's and back, copied, pickled, and used as parameters."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

thinc = pytest.importorskip("thinc.api")
ft = pytest.importorskip("fusedopt.thinc")

RULES = ["Adam", "RAdam", "SGD"]
STATE = ("mom1", "mom2", "averages", "nr_update")
SETTINGS = ("learn_rate", "L2", "b1", "b2", "eps", "grad_clip")


def model_and_data() -> tuple[Any, Any, Any]:
    thinc.fix_random_seed(0)
    random = np.random.default_rng(0)
    inputs = random.normal(size=(64, 8)).astype(np.float32)
    labels = (inputs[:, 0] * inputs[:, 1] > 0).astype(int)
    model = thinc.chain(thinc.Relu(32), thinc.Relu(16), thinc.Softmax(2))
    model.initialize(inputs, np.eye(2, dtype=np.float32)[labels])
    return model, inputs, np.eye(2, dtype=np.float32)[labels]


def train(optimizer: Any, model: Any, inputs: Any, targets: Any, steps: int) -> None:
    for step in range(steps):
        batch = slice(step % 4 * 16, step % 4 * 16 + 16)
        outputs, backprop = model.begin_update(inputs[batch])
        backprop((outputs - targets[batch]) / 16)
        model.finish_update(optimizer)
        optimizer.step_schedules()


def parameters_of(model: Any) -> list[Any]:
    return [
        node.get_param(name).copy()
        for node in model.walk()
        for name in node.param_names
        if node.has_param(name)
    ]


def hand_over(giver: Any, taker: Any) -> None:
    for name in STATE:
        getattr(taker, name).update(copy.deepcopy(getattr(giver, name)))


def assert_close(found: list[Any], expected: list[Any]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_a_model_trains_as_with_thinc(rule: str) -> None:
    trained = []
    for library in (ft, thinc):
        problem = model_and_data()
        train(getattr(library, rule)(0.01, L2=0.01), *problem, 40)
        trained.append(parameters_of(problem[0]))
    assert_close(*trained)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_the_state_moves_to_thincs_optimizer_and_back(rule: str, first: str) -> None:
    expected, found = model_and_data(), model_and_data()
    train(getattr(thinc, rule)(0.01, L2=0.01), *expected, 24)

    libraries = [ft, thinc, ft] if first == "ours" else [thinc, ft, thinc]
    before = None
    for library in libraries:
        optimizer = getattr(library, rule)(0.01, L2=0.01)
        if before is not None:
            hand_over(before, optimizer)
        train(optimizer, *found, 8)
        before = optimizer
    assert_close(parameters_of(found[0]), parameters_of(expected[0]))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "twin_of",
    [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))],
    ids=["deepcopy", "pickle"],
)
def test_a_copy_goes_on_in_the_same_bits(rule: str, twin_of: Any) -> None:
    optimizer = getattr(ft, rule)(0.01)
    for name in SETTINGS:  # thinc 9's own schedules are functions that pickle does not find
        value = getattr(optimizer, name)
        setattr(optimizer, name, value(0) if callable(value) else value)
    weights = np.ones((3, 4), np.float32)
    random = np.random.default_rng(0)
    for _ in range(7):
        optimizer((1, "W"), weights, random.normal(size=(3, 4)).astype(np.float32))
    twin, twins_weights = twin_of(optimizer), weights.copy()
    assert type(twin) is ft.Optimizer
    for _ in range(7):
        g = random.normal(size=(3, 4)).astype(np.float32)
        optimizer((1, "W"), weights, g.copy())
        twin((1, "W"), twins_weights, g)
    assert weights.tobytes() == twins_weights.tobytes()
    assert optimizer.averages[1, "W"].tobytes() == twin.averages[1, "W"].tobytes()
    assert not np.shares_memory(optimizer.averages[1, "W"], twin.averages[1, "W"])


def test_a_model_of_bytes_goes_on() -> None:
    """What thinc serialises is the model; the optimizer stays, and takes the new arrays."""
    whole, parted = model_and_data(), model_and_data()
    train(ft.Adam(0.01), *whole, 16)
    optimizer = ft.Adam(0.01)
    train(optimizer, *parted, 8)
    parted[0].from_bytes(parted[0].to_bytes())
    train(optimizer, *parted, 8)
    for one, other in zip(parameters_of(parted[0]), parameters_of(whole[0]), strict=True):
        assert one.tobytes() == other.tobytes()


def test_the_averages_serve_as_parameters() -> None:
    problem = model_and_data()
    model = problem[0]
    optimizer = ft.Adam(0.01)
    train(optimizer, *problem, 20)
    kept = {key: id(array) for key, array in optimizer.averages.items()}
    trained = parameters_of(model)
    with model.use_params(optimizer.averages):
        averaged = parameters_of(model)
        for node in model.walk():
            for name in node.param_names:
                assert node.get_param(name) is optimizer.averages[node.id, name]
    assert any((one != other).any() for one, other in zip(trained, averaged, strict=True))
    for one, other in zip(parameters_of(model), trained, strict=True):
        assert one.tobytes() == other.tobytes()
    train(optimizer, *problem, 4)
    assert kept == {key: id(array) for key, array in optimizer.averages.items()}


@pytest.mark.parametrize("library", [ft, thinc], ids=["ours", "theirs"])
def test_training_goes_on_from_the_averages(library: Any) -> None:
    """Then the weights are their own average."""
    optimizer = library.Adam(0.1)
    w = np.ones(4, np.float32)
    optimizer((1, "W"), w, np.ones(4, np.float32))
    w = optimizer.averages[1, "W"]
    before = w.copy()
    optimizer((1, "W"), w, np.ones(4, np.float32))
    assert (w < before).all()
    np.testing.assert_allclose(before - w, 0.1, rtol=1e-4)


@pytest.mark.filterwarnings(
    "ignore:grad and param do not obey the gradient layout contract:UserWarning",
    r"ignore:`torch.cuda.amp.autocast\(args...\)` is deprecated:FutureWarning",
)
def test_keys_of_pytorch_in_thinc() -> None:
    """A wrapped PyTorch model hands over views of its tensors, and takes what is returned."""
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(0)
    inputs = random.normal(size=(20, 6)).astype(np.float32)
    found = []
    for library in (ft, thinc):
        torch.manual_seed(0)
        layer = torch.nn.Linear(6, 3)
        # A transposed parameter: thinc sees an array that is not C-contiguous.
        layer.weight = torch.nn.Parameter(layer.weight.detach().T.contiguous().T)
        model = thinc.PyTorchWrapper(layer)
        optimizer = library.Adam(0.01)
        for _ in range(10):
            outputs, backprop = model.begin_update(inputs)
            backprop(outputs - 1.0)
            model.finish_update(optimizer)
        found.append([one.detach().numpy().copy() for one in layer.parameters()])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
