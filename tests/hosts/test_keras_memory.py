"""Steps on Keras's variables: in place, found where they lie, sharing state, all or nothing."""

from __future__ import annotations

import warnings
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from in_keras import (
    ON_TORCH,
    fused,
    ignore_keras,
    keras,
    same_bits,
    theirs,
    value,
    values,
    variables,
)

pytestmark = ignore_keras


def tensor(*numbers: float, dtype: str = "float32") -> Any:
    return keras.ops.convert_to_tensor(np.array(numbers), dtype)


def place(variable: Any) -> int:
    found: Any = variable._value
    return int(found.data_ptr()) if ON_TORCH else int(found.ctypes.data)


def test_a_step_writes_in_place() -> None:
    own = variables(np.ones((2, 3), "float32"), np.float32(1.0))
    optimizer = fused("AdamW", 0.1, weight_decay=0.1)
    optimizer.build(own)
    before = [place(v) for v in (*own, *optimizer.variables)]
    for _ in range(3):
        optimizer.apply([keras.ops.ones((2, 3)), keras.ops.ones(())])
    assert [place(v) for v in (*own, *optimizer.variables)] == before
    assert value(own[0]).max() < 1.0


def test_keras_variables_are_the_state() -> None:
    own = variables(np.ones(3, "float32"))
    optimizer = fused("Adam", 0.1)
    optimizer.build(own)
    optimizer.apply([tensor(1, 2, 3)])
    assert all(
        np.array_equal(a, b)
        for a, b in zip(values(optimizer), optimizer.fused.variables, strict=True)
    )


@pytest.mark.parametrize("wrap", ["none", "scale", "several"])
def test_what_keras_assigns_acts(wrap: str) -> None:
    """A fresh optimizer that is assigned another's state goes on like it."""
    make = {
        "none": lambda: fused("Adam", 0.1, use_ema=True),
        "scale": lambda: fused("LossScaleOptimizer", fo.Adam(0.1, use_ema=True)),
        "several": lambda: fused(
            "MultiOptimizer", fo.OptimizerMap(fo.Adam(0.1), {"v1": fo.SGD(0.1, 0.9)})
        ),
    }[wrap]
    one, other = (
        variables(np.ones(3, "float32"), np.ones(2, "float32")),
        variables(np.zeros(3, "float32"), np.zeros(2, "float32")),
    )
    first, second = make(), make()
    gradients = [tensor(1, 2, 3), tensor(-1, 2)]
    for _ in range(3):
        first.apply(gradients, one)
    second.build(other)
    for a, b in zip((*one, *first.variables), (*other, *second.variables), strict=True):
        b.assign(value(a))
    assert same_bits(first.variables, second.variables)
    first.apply(gradients)
    second.apply(gradients)
    assert same_bits(one, other)
    assert same_bits(first.variables, second.variables)


def test_a_variable_that_is_assigned_between_steps() -> None:
    (w,) = variables(np.ones(2, "float32"))
    optimizer = fused("SGD", 1.0)
    optimizer.apply([tensor(1, 1)], [w])
    w.assign([5.0, 6.0])
    optimizer.apply([tensor(1, 1)])
    np.testing.assert_array_equal(value(w), [4.0, 5.0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_variables_of_16_bits(dtype: str) -> None:
    (w,) = variables(np.ones(2), dtype=dtype)
    optimizer = fused("SGD", 1e-4)
    optimizer.build([w])
    for _ in range(200):
        optimizer.apply([tensor(1, 1, dtype=dtype)])
    assert value(w).astype("float32") == pytest.approx(0.98, rel=4e-3)
    w.assign([2.0, 2.0])
    optimizer.apply([tensor(1, 1, dtype=dtype)])
    assert value(w).astype("float32") == pytest.approx(2.0, rel=4e-3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_gradients_of_another_type(dtype: str) -> None:
    (w,) = variables(np.ones(2, "float32"))
    fused("SGD", 1.0).apply([tensor(0.5, 0.25, dtype=dtype)], [w])
    np.testing.assert_array_equal(value(w), [0.5, 0.75])


def test_arrays_are_gradients() -> None:
    (w,) = variables(np.ones((2, 2), "float32"))
    fused("SGD", 1.0).apply([np.array([[1.0, 2.0], [3.0, 4.0]]).T], [w])
    np.testing.assert_array_equal(value(w), [[0.0, -2.0], [-1.0, -3.0]])


def test_subsets_in_any_order() -> None:
    own = variables(*[np.ones(2, "float32")] * 3)
    optimizer = fused("SGD", 1.0)
    optimizer.build(own)
    optimizer.apply([tensor(1, 1), tensor(2, 2)], [own[2], own[0]])
    assert [value(w)[0] for w in own] == [-1.0, 1.0, 0.0]
    assert int(optimizer.apply_gradients([(tensor(1, 1), own[1])])) == 2
    assert [value(w)[0] for w in own] == [-1.0, 0.0, 0.0]


# All or nothing


def untouched(optimizer: Any, own: list[Any], call: Any, error: Any, message: str) -> None:
    before = [value(v) for v in (*own, *optimizer.variables)]
    with pytest.raises(error, match=message):
        call()
    after = [value(v) for v in (*own, *optimizer.variables)]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_refused_call_changes_nothing() -> None:
    own, (other,) = variables(*[np.ones(2, "float32")] * 2), variables(np.ones(2, "float32"))
    optimizer = fused("Adam", 0.1)
    optimizer.build(own)
    optimizer.apply([tensor(1, 1)] * 2)
    good = tensor(1, 1)
    for gradients, given, message in (
        ([good, tensor(1, 1, 1)], None, "shape"),
        ([good], None, "expected 2 gradients"),
        ([good, good], [own[0], other], "Unknown variable"),
        ([good, good], [own[0], own[0]], "variable 0"),
        ([None, None], None, "No gradients provided"),
    ):
        call = lambda g=gradients, v=given: optimizer.apply(g, v)  # noqa: E731
        untouched(optimizer, own, call, ValueError, message)
    optimizer.apply([])
    assert int(optimizer.iterations) == 1


def test_an_unbuilt_optimizer_needs_variables() -> None:
    with pytest.raises(ValueError, match="not built; give the variables, too"):
        fused("SGD").apply([tensor(1)])


def test_skipped_steps_change_nothing() -> None:
    own = variables(np.ones(2, "float32"))
    own[0].constraint = keras.constraints.MaxNorm(0.5)
    optimizer = fused("SGD", 1.0, skip_nonfinite=True)
    optimizer.build(own)
    optimizer.apply([tensor(np.nan, 1)])
    np.testing.assert_array_equal(value(own[0]), [1.0, 1.0])
    assert int(optimizer.iterations) == int(optimizer._iterations) == 0
    assert optimizer.fused.skipped_steps == 1


class Failing(keras.constraints.Constraint):  # type: ignore[misc]
    def __call__(self, w: Any) -> Any:
        return 1 / 0


def test_a_failing_constraint_leaves_the_count_of_the_step() -> None:
    own = variables(np.ones(2, "float32"))
    optimizer = fused("SGD", 1.0)
    optimizer.build(own)
    own[0].constraint = Failing()
    with pytest.raises(ZeroDivisionError):
        optimizer.apply([tensor(1, 1)])
    assert int(optimizer.iterations) == optimizer.fused.iterations == 1


def test_missing_gradients_are_told_as_keras_tells_them() -> None:
    own = variables(*[np.ones(2, "float32")] * 2)
    with pytest.warns(UserWarning, match=r"Gradients do not exist for variables \['v1'\]"):
        fused("SGD", 1.0).apply([tensor(1, 1), None], own)
    assert [value(w)[0] for w in own] == [0.0, 1.0]


# Growing


def test_more_variables_join() -> None:
    own = variables(*[np.ones(2, "float32")] * 3)
    optimizer = fused("Adam", 0.1, use_ema=True)
    optimizer.build(own[:2])
    optimizer.apply([tensor(1, 1)] * 2)
    kept = [value(v) for v in optimizer._variables]
    optimizer.build(own[:2])
    assert len(optimizer.variables) == len(kept)
    optimizer.build(own)
    assert len(optimizer.variables) == 2 + 3 * 3
    optimizer.apply([tensor(1, 1)] * 3)
    assert [round(float(value(w)[0]), 4) for w in own] == [0.8, 0.8, 0.9256]
    with pytest.raises(ValueError, match="build"):
        optimizer.build(own[:1])


def test_variables_of_the_same_path() -> None:
    own = [keras.Variable(np.ones(2, "float32"), name="w") for _ in range(3)]
    optimizer = fused("SGD", 1.0, 0.9)
    optimizer.build(own)
    optimizer.apply([tensor(1, 1), tensor(2, 2), tensor(3, 3)])
    assert [value(w)[0] for w in own] == [0.0, -1.0, -2.0]


# What is overwritten


def overwritten(optimizer: Any) -> tuple[list[float], list[str], int, list[Any]]:
    first, second = variables(np.ones(3, "float32"), np.ones(2, "float32"))
    first.overwrite_with_gradient = True
    seen = []
    for number in (3.0, 2.0, 4.0, 5.0, 1.0):
        optimizer.apply([keras.ops.full((3,), number), tensor(1, 1)], [first, second])
        seen.append(float(value(first)[0]))
    paths = [v.path.split("/")[-1] for v in optimizer.variables]
    return seen, paths, int(optimizer._iterations), [*values(optimizer), value(second)]


@pytest.mark.parametrize("steps", [None, 2])
def test_variables_that_their_gradient_overwrites(steps: int | None) -> None:
    arguments = {"use_ema": True, "gradient_accumulation_steps": steps}
    found = overwritten(fused("Adam", 0.1, **arguments))
    expected = overwritten(theirs("Adam", 0.1, **arguments))
    assert found[:3] == expected[:3]
    for a, b in zip(found[3], expected[3], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


def test_nothing_but_overwritten_variables() -> None:
    (w,) = variables(np.ones(2, "float32"))
    w.overwrite_with_gradient = True
    optimizer = fused("Adam")
    optimizer.apply([tensor(3, 4)], [w])
    np.testing.assert_array_equal(value(w), [3.0, 4.0])
    assert int(optimizer.iterations) == optimizer.fused.iterations == 1


def test_several_optimizers_refuse_overwritten_variables() -> None:
    (w,) = variables(np.ones(2, "float32"))
    w.overwrite_with_gradient = True
    several = fused("MultiOptimizer", fo.OptimizerMap(fo.SGD()))
    with pytest.raises(
        ValueError, match="expected no variable that its gradient overwrites, found v0"
    ):
        several.build([w])


# Without changing anything


@pytest.mark.parametrize("rule", ["SGD", "AdamW", "Nadam"])
def test_stateless_steps(rule: str) -> None:
    results = []
    for of in (fused, theirs):
        own = variables(np.ones(2, "float32"), np.ones(3, "float32"))
        own[0].constraint = keras.constraints.NonNeg()
        optimizer = of(rule, 0.5, weight_decay=0.1)
        optimizer.build(own)
        gradients = [tensor(3, -1), tensor(1, 2, 3)]
        before = [value(v) for v in (*own, *optimizer.variables)]
        state = [v.value for v in optimizer.variables]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*copy construct from a tensor")
            new, new_state = optimizer.stateless_apply(state, gradients, [w.value for w in own])
        if of is fused:
            after = [value(v) for v in (*own, *optimizer.variables)]
            assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
        results.append([value(each) for each in (*new, *new_state)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_apply_in_a_stateless_scope_is_refused() -> None:
    optimizer = fused("SGD")
    optimizer.build(variables(np.ones(2, "float32")))
    with keras.StatelessScope(), pytest.raises(ValueError, match="call stateless_apply"):
        optimizer.apply([tensor(1, 1)])


# Memory that moves


@pytest.mark.skipif(not ON_TORCH, reason="only PyTorch's tensors can be moved")
@pytest.mark.parametrize("wrap", ["none", "scale", "several"])
def test_moved_memory_is_found(wrap: str) -> None:
    make = {
        "none": lambda: fused("Adam", 0.1, use_ema=True),
        "scale": lambda: fused("LossScaleOptimizer", fo.Adam(lambda: 0.1)),
        "several": lambda: fused(
            "MultiOptimizer", fo.OptimizerMap(fo.Adam(0.1), {"v1": fo.SGD(0.1, 0.9)})
        ),
    }[wrap]
    results = []
    for moves in (True, False):
        own = variables(np.ones(3, "float32"), np.ones(2, "float32"))
        optimizer = make()
        optimizer.build(own)
        for _ in range(3):
            optimizer.apply([tensor(1, 2, 3), tensor(-1, 2)])
            if moves:
                own[0].value.data = own[0].value.data.clone()
                own[1].value.share_memory_()
                optimizer.variables[-1].value.data = optimizer.variables[-1].value.data.clone()
        results.append([value(v) for v in (*own, *optimizer.variables)])
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.skipif(not ON_TORCH, reason="only PyTorch's tensors can be moved")
def test_moved_memory_of_another_kind_is_refused() -> None:
    (w,) = variables(np.ones((2, 2), "float32"))
    optimizer = fused("Adam", 0.1)
    optimizer.build([w])
    kept = w.value.data
    for other, message in (
        (
            kept.double(),
            r"'v0'\): expected float32 of shape \(2, 2\), as it was built, .* now float64",
        ),
        (kept[:1].clone(), r"now float32 of shape \(1, 2\)"),
        (kept.t(), "v0"),
    ):
        w.value.data = other
        with pytest.raises(ValueError, match=message):
            optimizer.apply([keras.ops.ones((2, 2))])
    w.value.data = kept
    tensor_of_build, w._value = w._value, w._value.detach().clone()
    with pytest.raises(ValueError, match="'v0': expected the tensor of the build, found another"):
        optimizer.apply([keras.ops.ones((2, 2))])
    w._value = tensor_of_build
    optimizer.apply([keras.ops.ones((2, 2))])
    assert int(optimizer.iterations) == 1


@pytest.mark.skipif(not ON_TORCH, reason="NumPy has one device")
def test_other_devices_are_refused() -> None:
    (w,) = variables(np.ones(2, "float32"))
    w._value = w.value.to("meta")
    with pytest.raises(ValueError, match="'v0': expected CPU memory, found meta; set KERAS_TORCH"):
        fused("SGD").build([w])


@pytest.mark.skipif(ON_TORCH, reason="PyTorch's tensors are not arrays")
def test_arrays_that_cannot_be_updated_in_place_are_replaced() -> None:
    (w,) = variables(np.ones((2, 3), "float32"))
    w._value = np.asfortranarray(w._value)
    w._value.flags.writeable = False
    given = w._value
    fused("SGD", 1.0).apply([np.ones((2, 3))], [w])
    assert np.array_equal(value(w), np.zeros((2, 3)))
    assert np.array_equal(given, np.ones((2, 3)))
