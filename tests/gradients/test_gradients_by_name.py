"""Gradients by name do, bit for bit, what the same ones in a list do."""

from __future__ import annotations

import threading
from collections import ChainMap, OrderedDict, UserDict
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from reference import Array
from training import NAMES, everything, gradients, new_variables, wrapped_or_not

# Some build by a list, and then no key of the map has a name to match.
pytestmark = pytest.mark.filterwarnings("ignore:optimizer_map. no variable's name matches")
LAYERS = [f"layer_{k}/{kind}" for k in range(5) for kind in ("kernel", "bias")]


def multi() -> Any:
    return fo.MultiOptimizer(fo.OptimizerMap(fo.Adam(use_ema=True), {".*bias": fo.SGD(0.1, 0.9)}))


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "adam": lambda: fo.Adam(use_ema=True, global_clipnorm=1.0),
    "accumulation": lambda: fo.AdamW(gradient_accumulation_steps=2),
    "loss_scale": lambda: fo.LossScaleOptimizer(fo.Adam(), initial_scale=4.0),
    "multi": multi,
    "loss_scale_of_multi": lambda: fo.LossScaleOptimizer(multi(), initial_scale=4.0),
}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


class OwnText(str):
    """A string with a mind of its own."""

    __slots__ = ()

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        raise AssertionError("the text counts")


class Lazy(dict[str, Any]):
    """Makes its values when they are asked for."""

    def __getitem__(self, key: str) -> Any:
        return dict.__getitem__(self, key)()


def fresh(name: str) -> str:
    return "".join(list(name))  # another object of the same text


MAPPINGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "dict": lambda g: g,
    "reversed": lambda g: dict(reversed(g.items())),
    "shuffled": lambda g: {name: g[name] for name in sorted(g, key=lambda name: name[::-1])},
    "fresh": lambda g: {fresh(name): x for name, x in g.items()},
    "fresh_reversed": lambda g: {fresh(name): x for name, x in reversed(g.items())},
    "numpy_text": lambda g: {np.str_(name): x for name, x in g.items()},
    "own_text": lambda g: (
        {OwnText(name): x for name, x in list(g.items())[:1]} | dict(list(g.items())[1:])
    ),
    "holes": lambda g: {k: x for k, x in {"x": 0, **g}.items() if k != "x"},
    "ordered": OrderedDict,
    "user": UserDict,
    "chain": lambda g: ChainMap(dict(list(g.items())[:1]), dict(list(g.items())[1:])),
    "proxy": MappingProxyType,
    "lazy": lambda g: Lazy({name: lambda x=x: x for name, x in g.items()}),
}


def new(make: Callable[[], Any]) -> tuple[Any, dict[str, Array]]:
    weights = {
        name: np.linspace(-1, 1, k + 2).astype([np.float32, np.float64, np.float16][k % 3])
        for k, name in enumerate(LAYERS)
    }
    optimizer = make()
    optimizer.build(weights)
    return optimizer, weights


def gradients_of_layers(seed: int, names: list[str]) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    return {
        name: random.standard_normal(LAYERS.index(name) + 2).astype(np.float32) for name in names
    }


@pytest.mark.parametrize("names", [LAYERS, LAYERS[::3], LAYERS[::2], LAYERS[1::2], LAYERS[4:5]])
@pytest.mark.parametrize("mapping", MAPPINGS.values(), ids=MAPPINGS)
@every_optimizer
def test_same_as_a_list(
    make: Callable[[], Any], mapping: Callable[[dict[str, Any]], Any], names: list[str]
) -> None:
    by_name, named_weights = new(make)
    by_place, placed_weights = new(make)
    for seed in range(4):
        given = gradients_of_layers(seed, names)
        by_name.apply(mapping(given))
        if len(names) == len(LAYERS):
            by_place.apply([given[name] for name in LAYERS])
        else:
            by_place.apply(list(given.values()), [placed_weights[name] for name in names])
        for name in LAYERS:
            assert named_weights[name].tobytes() == placed_weights[name].tobytes()
    for one, other in zip(by_name.variables, by_place.variables, strict=True):
        assert one.tobytes() == other.tobytes()


@every_optimizer
def test_nothing_given_changes_nothing(make: Callable[[], Any]) -> None:
    optimizer, weights = new(make)
    optimizer.apply({})
    assert optimizer.iterations == 0
    assert weights[LAYERS[0]].tolist() == [-1.0, 1.0]


@every_optimizer
def test_missing_gradients_warn_by_name(make: Callable[[], Any]) -> None:
    for names in (LAYERS, LAYERS[:3]):
        optimizer, weights = new(make)
        given: dict[str, Any] = gradients_of_layers(0, names)
        given[LAYERS[2]] = None
        before = weights[LAYERS[2]].copy()
        with pytest.warns(UserWarning, match=rf"^No gradient for variable 2 \('{LAYERS[2]}'\);"):
            optimizer.apply(given)
        assert np.array_equal(weights[LAYERS[2]], before)


@every_optimizer
def test_unknown_names(make: Callable[[], Any]) -> None:
    optimizer, weights = new(make)
    known = ", ".join(map(repr, LAYERS))
    for other in ("layer_0", LAYERS[0] + " ", 3, None, b"layer_0/bias", ("layer_0", "bias")):
        unknown: dict[Any, Any] = {other: np.ones(2)}
        for given in (
            unknown,
            {**gradients_of_layers(0, LAYERS), **unknown},
            {**gradients_of_layers(0, LAYERS[1:]), **unknown},
        ):
            with pytest.raises(ValueError, match="^grads: expected names") as caught:
                optimizer.apply(given)
            message = f"grads: expected names given to build ({known}), found {other!r}"
            assert str(caught.value) == message
    assert optimizer.iterations == 0
    assert weights[LAYERS[0]].tolist() == [-1.0, 1.0]


def test_one_name_in_two_spellings() -> None:
    weights = {"a": np.ones(2), "b": np.ones(2)}
    optimizer = fo.SGD()
    optimizer.build(weights)
    with pytest.raises(ValueError, match=r"found 'a'$"):
        optimizer.apply({"a": np.ones(2), OwnText("a"): np.ones(2)})
    assert weights["a"].tolist() == weights["b"].tolist() == [1.0, 1.0]


@every_optimizer
def test_before_build_and_without_names(make: Callable[[], Any]) -> None:
    optimizer = make()
    with pytest.raises(ValueError, match="not built; call build first"):
        optimizer.apply({"a": np.ones(2)})
    optimizer.build([np.ones(2)])
    with pytest.raises(ValueError, match="expected a sequence, as build was given one, found a"):
        optimizer.apply({"a": np.ones(2)})


def test_parts_of_a_group_know_their_names() -> None:
    optimizer, weights = new(multi)
    part = optimizer.optimizers[0]
    part.apply({name: np.ones_like(weights[name]) for name in LAYERS[1::2]})
    assert part.iterations == 1
    with pytest.raises(ValueError, match=f"found '{LAYERS[0]}'"):
        part.apply({LAYERS[0]: np.ones(2)})


def test_dict_that_its_own_gradients_change() -> None:
    """What a conversion does to the dict, or to what it holds, does not reach this step."""
    weights = {"a": np.ones(2), "b": np.ones(2)}

    class Clears:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
            given.clear()
            return np.full(2, 0.5)

    optimizer = fo.SGD(learning_rate=1.0)
    optimizer.build(weights)
    given: dict[str, Any] = {"a": Clears(), "b": np.full(2, 0.25)}
    optimizer.apply(given)
    assert given == {}
    assert weights["a"].tolist() == [0.5, 0.5]
    assert weights["b"].tolist() == [0.75, 0.75]


def test_dict_that_another_thread_changes() -> None:
    weights = {name: np.zeros(50) for name in LAYERS}
    optimizer = fo.SGD(learning_rate=1.0)
    optimizer.build(weights)
    given = {name: np.ones(50) for name in LAYERS}
    done = threading.Event()

    def change() -> None:
        while not done.is_set():
            for name in LAYERS:
                given[name] = np.ones(50)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(300):
            optimizer.apply(given)
    finally:
        done.set()
        thread.join()
    assert all((w == -300.0).all() for w in weights.values())


@pytest.mark.parametrize(
    "order", [[0, 1, 2], [2, 0, 1], [1], [2, 1]], ids=["all", "shuffled", "one", "two"]
)
@wrapped_or_not
def test_gradients_by_name(wrap: Callable[[Any], Any], order: list[int]) -> None:
    variables, expected = new_variables(), new_variables()
    optimizer, reference = wrap(fo.Adam()), wrap(fo.Adam())
    optimizer.build(dict(zip(NAMES, variables, strict=True)))
    reference.build(expected)
    for step in range(3):
        some = gradients(step)
        optimizer.apply({NAMES[i]: some[i] for i in order})
        reference.apply([some[i] for i in order], [expected[i] for i in order])
        assert everything(optimizer, variables) == everything(reference, expected)


def test_gradient_by_name_that_is_none() -> None:
    variables = new_variables()
    optimizer = fo.SGD()
    optimizer.build(dict(zip(NAMES, variables, strict=True)))
    with pytest.warns(UserWarning, match="bias"):
        optimizer.apply({"kernel": np.ones((3, 4)), "bias": None, "gain": np.ones(())})
    assert variables[1].tobytes() == new_variables()[1].tobytes()
    assert variables[2].tobytes() != new_variables()[2].tobytes()
