"""`load(strict=False)` takes what fits by name, and tells what does not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fusedopt as fo
import ml_dtypes
import numpy as np
import pytest
from cases import VARIANTS, Case
from fusedopt import files
from fusedopt.arrays import Array
from sample_arrays import DTYPES_BY_VARIABLE

pytest.importorskip("safetensors")
pytestmark = pytest.mark.filterwarnings("ignore:optimizer_map. no variable's name")

SHAPES = {
    "kernel": (4, 5),
    "bias": (5,),
    "half": (3, 2),
    "brain": (2, 3),
    "new": (2, 2),
    "late": (3,),
}


def weights(names: str, seed: int = 1) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        name: random.normal(size=SHAPES[name]).astype(DTYPES_BY_VARIABLE.get(name, np.float32))
        for name in names.split()
    }


def make(case: Case) -> fo.Optimizer:
    optimizer: fo.Optimizer = getattr(fo, case.rule)(**case.arguments)
    return optimizer


def several(case: Case) -> fo.Optimizer:
    return fo.MultiOptimizer(fo.OptimizerMap(make(case), {"b.*": fo.Nadam(), "idle": fo.SGD()}))


WRAPPERS: dict[str, Callable[[Case], fo.Optimizer]] = {
    "alone": make,
    "scaled": lambda case: fo.LossScaleOptimizer(make(case)),
    "several": several,
    "several, scaled": lambda case: fo.LossScaleOptimizer(several(case)),
}


def trained(optimizer: fo.Optimizer, variables: dict[str, Any], steps: int = 3) -> fo.Optimizer:
    optimizer.build(variables)
    random = np.random.default_rng(steps)
    for _ in range(steps):
        optimizer.apply({name: random.normal(size=w.shape) for name, w in variables.items()})
    return optimizer


def saved(optimizer: fo.Optimizer, path: Path, variables: bool = False) -> Path:
    optimizer.save(path / "state", variables=variables)
    return path / "state"


def state(optimizer: fo.Optimizer) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in optimizer._saved(True)}


def check(optimizer: fo.Optimizer, path: Path, source: fo.Optimizer, **arguments: Any) -> Any:
    """Load, and see that what is not missing is the source's and the rest as before."""
    before, there = state(optimizer), state(source)
    report = optimizer.load(path, strict=False, **arguments)
    assert report._fields == ("missing", "unexpected")
    own = dict(optimizer._core.state())
    for name, found in state(optimizer).items():
        if name in own and name not in report.missing:
            assert found == there[name], name
            assert name not in report.unexpected
        elif name in own and "average/" not in name and "product" not in name:
            assert found == before[name], name
    assert set(report.missing) <= set(before)
    assert set(report.unexpected) <= set(there)
    return report


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("case", VARIANTS, ids=str)
@pytest.mark.parametrize("use_ema", [False, True], ids=["", "ema"])
def test_a_model_that_grew_shrank_and_was_renamed(
    case: Case, wrapper: str, use_ema: bool, tmp_path: Path
) -> None:
    case = case._replace(arguments=case.arguments | {"use_ema": use_ema})
    source = trained(WRAPPERS[wrapper](case), weights("kernel bias half brain"))
    path = saved(source, tmp_path)
    target = trained(WRAPPERS[wrapper](case), weights("late brain kernel new bias", 2), 1)
    report = check(target, path, source)
    new = [name for name in state(target) if name.endswith(("/late", "/new"))]
    new = [name for name in new if not name.startswith("variable/")]
    gone = [name for name in dict(source._core.state()) if name.endswith("/half")]
    assert report.missing == new
    assert report.unexpected == sorted(gone)
    with pytest.raises(ValueError, match="expected state of the same"):
        target.load(path)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("case", VARIANTS, ids=str)
def test_all_that_fits_is_a_whole_load(case: Case, wrapper: str, tmp_path: Path) -> None:
    variables, others = weights("kernel bias half brain"), weights("kernel bias half brain", 2)
    source = trained(WRAPPERS[wrapper](case), variables)
    path = saved(source, tmp_path, variables=True)
    target = trained(WRAPPERS[wrapper](case), others, 1)
    assert target.load(path, strict=False) == ([], [])
    assert state(target) == state(source)
    assert target.load(path) is None
    for optimizer, given in ((source, variables), (target, others)):
        optimizer.apply({name: np.ones(w.shape) for name, w in given.items()})
    assert state(target) == state(source)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_variables_by_name(wrapper: str, tmp_path: Path) -> None:
    case = Case("Adam", {}, "")
    source = trained(WRAPPERS[wrapper](case), old := weights("kernel half brain"))
    path = saved(source, tmp_path, variables=True)
    for variables in (None, True):
        target = trained(WRAPPERS[wrapper](case), found := weights("half new kernel", 2))
        new = found["new"].copy()
        report = target.load(path, variables, strict=False)
        assert [name for name in report.missing if "variable" in name] == ["variable/new"]
        assert [n for n in report.unexpected if "variable" in n] == ["variable/brain"]
        assert found["half"].tobytes() == old["half"].tobytes()
        assert found["kernel"].tobytes() == old["kernel"].tobytes()
        assert found["new"].tobytes() == new.tobytes()
    found["half"][...] = 7
    report = target.load(path, False, strict=False)
    assert (found["half"] == 7).all()
    assert not [name for name in (*report.missing, *report.unexpected) if "variable" in name]
    source.save(path)
    report = target.load(path, True, strict=False)
    assert [n for n in report.missing if "variable" in n] == [f"variable/{n}" for n in found]


def test_another_shape_or_type_is_in_both_lists(tmp_path: Path) -> None:
    source = trained(fo.Adam(), {"w": np.ones((3, 4)), "v": np.ones(3), "same": np.ones(2)})
    path = saved(source, tmp_path, variables=True)
    target = trained(
        fo.Adam(), {"w": np.ones((5, 4)), "v": np.ones(3, np.float32), "same": np.ones(2)}, 1
    )
    before = state(target)
    report = target.load(path, strict=False)
    assert report.missing == [
        *("momentum/w", "velocity/w", "momentum/v", "velocity/v"),
        *("variable/w", "variable/v"),
    ]
    assert report.unexpected == sorted(report.missing)
    assert all(state(target)[name] == before[name] for name in report.missing)
    missing, unexpected = report
    assert missing is report.missing
    assert unexpected is report.unexpected


def test_slots_of_a_variable_are_taken_together(tmp_path: Path) -> None:
    """Of Adafactor's means of rows and columns only one would fit."""
    source = trained(fo.Adafactor(), {"w": np.ones((3, 4)), "v": np.ones((2, 3, 4))})
    path = saved(source, tmp_path)
    target = trained(fo.Adafactor(), {"w": np.ones((5, 4)), "v": np.ones((2, 3, 5))}, 1)
    report = check(target, path, source)
    assert report.missing == report.unexpected == ["r/w", "c/w", "r/v", "c/v"] or (
        sorted(report.missing) == report.unexpected
    )
    assert len(report.missing) == 4


def without(optimizer: fo.Optimizer, path: Path, *kinds: str) -> Path:
    tensors = [(n, a.copy()) for n, a in optimizer._core.state() if not n.startswith(kinds)]
    files.write(path / "state", tensors, optimizer._description())
    return path / "state"


@pytest.mark.parametrize(
    "optimizer", [fo.Adam, fo.Nadam, fo.Lamb, fo.RMSprop, fo.Adadelta, fo.Ftrl]
)
def test_half_of_the_slots_is_none(optimizer: Any, tmp_path: Path) -> None:
    arguments = {"momentum": 0.9} if optimizer is fo.RMSprop else {}
    source = trained(optimizer(**arguments), {"w": np.ones(3)})
    slots = [name for name, _ in source._core.state() if name.endswith("/w")]
    for gone in slots:
        path = without(source, tmp_path, gone)
        target = trained(optimizer(**arguments), {"w": np.ones(3)}, 1)
        report = check(target, path, source)
        if optimizer is fo.RMSprop and gone == "momentum/w":
            assert report == (["momentum/w"], [])
        else:
            assert report == (slots, sorted(set(slots) - {gone}))


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize(
    ("rule", "options", "kinds"),
    [
        ("Adam", {"use_ema": True}, ["average"]),
        ("Adam", {"gradient_accumulation_steps": 2}, ["gradient_accumulator"]),
        ("Adam", {"skip_nonfinite": True}, ["skipped_steps"]),
        ("Adam", {"amsgrad": True}, ["velocity_hat"]),
        ("AdamW", {"amsgrad": True}, ["velocity_hat"]),
        ("RMSprop", {"momentum": 0.9}, ["momentum"]),
        ("RMSprop", {"centered": True}, ["average_gradient"]),
        ("RMSprop", {"centered": True, "momentum": 0.9}, ["momentum", "average_gradient"]),
        ("SGD", {"momentum": 0.9}, ["momentum"]),
        ("Adam", {"learning_rate": 0.5}, ["learning_rate"]),
    ],
)
def test_options_that_differ(
    rule: str, options: dict[str, Any], kinds: list[str], wrapper: str, tmp_path: Path
) -> None:
    off: dict[str, Any] = (
        {"learning_rate": fo.schedules.CosineDecay(0.1, 10)} if kinds == ["learning_rate"] else {}
    )
    on = WRAPPERS[wrapper](Case(rule, options, ""))
    without = WRAPPERS[wrapper](Case(rule, off, ""))
    trained(on, weights("kernel half bias"))
    trained(without, weights("kernel half bias", 2))
    added = [name for name in dict(on._core.state()) if name not in dict(without._core.state())]
    assert added
    assert {kind for name in added for kind in kinds if kind in name} == set(kinds)
    report = check(on, saved(without, tmp_path), without)
    assert report == (added, [])
    report = check(without, saved(on, tmp_path), on)
    assert report == ([], sorted(added))
    for optimizer in (on, without):
        optimizer.apply([np.ones(w.shape) for w in optimizer._core.arrays])


@pytest.mark.parametrize("inner", ["alone", "several"])
def test_a_loss_scale_is_no_other_optimizer(inner: str, tmp_path: Path) -> None:
    case = Case("Adam", {}, "")
    source = trained(WRAPPERS[inner](case), weights("kernel bias"))
    target: Any = fo.LossScaleOptimizer(WRAPPERS[inner](case), initial_scale=8)
    trained(target, weights("kernel bias", 2), 1)
    own = [name for name in dict(target._core.state()) if name.startswith("loss_scale/")]
    assert check(target, saved(source, tmp_path), source) == (own, [])
    assert target.dynamic_scale == 8
    assert target.iterations == 3
    back = trained(WRAPPERS[inner](case), weights("kernel bias", 2), 1)
    assert check(back, saved(target, tmp_path), target) == ([], sorted(own))


def test_another_class_gives_what_does_not_belong_to_the_rule(tmp_path: Path) -> None:
    options: dict[str, Any] = {"use_ema": True}
    source = trained(fo.SGD(0.5, momentum=0.9, **options), weights("kernel half"))
    target = trained(fo.Lion(0.001, **options), weights("kernel half", 2), 1)
    report = check(target, saved(source, tmp_path, variables=True), source)
    assert report.missing == ["learning_rate", "momentum/kernel", "momentum/half"]
    assert report.unexpected == sorted(report.missing)
    assert target.iterations == 3
    assert target.learning_rate == pytest.approx(0.001)


def test_adam_and_its_like_take_each_others_moments(tmp_path: Path) -> None:
    class Own(fo.Adam):
        pass

    rules = [fo.Adam, fo.AdamW, fo.Nadam, Own]
    for theirs in rules:
        source = trained(theirs(0.5), weights("kernel bias"))
        path = saved(source, tmp_path)
        for ours in rules[:3] if theirs is not Own else [Own]:
            target = trained(ours(0.1), weights("kernel bias", 2), 1)
            report = check(target, path, source)
            has_product = {name.__name__ for name in (ours, theirs) if name is fo.Nadam}
            expected = ["product"] if has_product and ours is not theirs else []
            assert report == ((expected, []) if ours is fo.Nadam else ([], expected))
            assert target.learning_rate == pytest.approx(0.5)
    nadam = trained(fo.Nadam(), weights("kernel"), 3)
    other = trained(fo.Nadam(), weights("kernel", 2), 1)
    other.load(saved(trained(fo.Adam(), weights("kernel"), 3), tmp_path), strict=False)
    product = [dict(one._core.state())["product"] for one in (nadam, other)]
    np.testing.assert_allclose(product[0], product[1], rtol=1e-12)


def test_several_and_one(tmp_path: Path) -> None:
    """A MultiOptimizer's learning rate is 0 and means nothing."""
    case = Case("Adam", {"learning_rate": 0.25}, "")
    one = trained(make(case), weights("kernel bias"), 1)
    more = trained(several(case), weights("kernel bias"), 3)
    report = check(one, saved(more, tmp_path), more)
    assert one.learning_rate == pytest.approx(0.25)
    assert "learning_rate" in report.missing
    assert "learning_rate" in report.unexpected
    assert one.iterations == 3


def test_members_of_another_class(tmp_path: Path) -> None:
    def build(first: fo.Optimizer, second: fo.Optimizer, seed: int) -> fo.Optimizer:
        optimizers = fo.OptimizerMap(second, {"k.*": first, "also": first})
        return trained(fo.MultiOptimizer(optimizers), weights("kernel bias", seed))

    source = build(fo.SGD(0.5, momentum=0.9), fo.Adam(0.5), 1)
    target = build(fo.Lion(0.1), fo.AdamW(0.1), 2)
    report = check(target, saved(source, tmp_path), source)
    assert report.missing == ["0/learning_rate", "0/momentum/kernel"]
    assert [m.learning_rate for m in target.optimizers] == pytest.approx([0.1, 0.5])


def test_a_missing_average_starts_at_the_value(tmp_path: Path) -> None:
    source = trained(fo.SGD(0.1), weights("kernel half"))
    target = fo.SGD(0.0, use_ema=True, ema_overwrite_frequency=1)
    target.build(variables := weights("kernel half", 2))
    report = target.load(saved(source, tmp_path, variables=True), strict=False)
    assert report.missing == ["average/kernel", "average/half"]
    target.learning_rate = 0.0
    before = {name: w.copy() for name, w in variables.items()}
    assert not any(
        array.any() for name, array in target.named_variables().items() if "average" in name
    )
    target.apply([np.ones(w.shape) for w in variables.values()])
    for name, w in variables.items():
        np.testing.assert_allclose(w, before[name], rtol=1e-3)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_a_missing_master_gives_way_to_the_variable(dtype: Any, tmp_path: Path) -> None:
    def build(value: float) -> tuple[fo.Optimizer, Array]:
        w = np.full(4, value, dtype)
        optimizer = fo.SGD(0.0001)
        optimizer.build({"w": w})
        optimizer.apply([np.ones(4)])  # too little to show in w, but not in its master copy
        return optimizer, w

    source, _ = build(1.0)
    everything = [(n, a.copy()) for n, a in source._saved(True) if not n.startswith("master")]
    files.write(tmp_path / "state", everything, source._description())
    target, _w = build(1.0)
    report = target.load(tmp_path / "state", strict=False)
    assert report == (["master/w"], [])
    target.apply([np.zeros(4)])
    assert (dict(target._core.state())["master/w"] == 1).all()
    other, _ = build(1.0)
    other.load(tmp_path / "state", False, strict=False)
    other.apply([np.zeros(4)])
    assert (dict(other._core.state())["master/w"] < 1).all()


def test_schedule_free_adamw_begins_at_the_loaded_variable(tmp_path: Path) -> None:
    source = trained(fo.Adam(0.5), weights("kernel half"))
    path = saved(source, tmp_path, variables=True)
    target = fo.ScheduleFreeAdamW()
    target.build(variables := weights("kernel half", 2))
    target.load(path, strict=False)
    for name, w in variables.items():
        found = dict(target._core.state())[f"momentum/{name}"]
        np.testing.assert_array_equal(found, w.astype(np.float32))


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_refused_load_changes_nothing(wrapper: str, tmp_path: Path) -> None:
    case = Case("Adam", {}, "")
    source = trained(WRAPPERS[wrapper](case), weights("kernel bias"))
    path = saved(source, tmp_path, variables=True)
    whole = path.read_bytes()
    target = trained(WRAPPERS[wrapper](case), weights("kernel bias new", 2), 1)
    before = state(target)
    for damaged in (whole[:-3], whole[:-1] + bytes([whole[-1] ^ 1]), b"", b"no file of ours"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="state: "):
            target.load(path, strict=False)
        assert state(target) == before
    rate = next(a for name, a in source._core.state() if name.endswith("iteration") and a > 0)
    rate[...] = -5
    files.write(path, source._core.state(), source._description())
    with pytest.raises(ValueError, match="expected a count"):
        target.load(path, strict=False)
    assert state(target) == before
    with pytest.raises(TypeError, match="strict: expected"):
        target.load(path, strict=0)  # type: ignore[call-overload]
    with pytest.raises(FileNotFoundError):
        target.load(tmp_path / "none", strict=False)


def test_strict_is_the_default(tmp_path: Path) -> None:
    source = trained(fo.Adam(), weights("kernel"))
    path = saved(source, tmp_path)
    target = trained(fo.Adam(), weights("kernel bias", 2), 1)
    before = state(target)
    for arguments in ({}, {"strict": True}):
        with pytest.raises(ValueError, match="missing: ..momentum/bias"):
            target.load(path, **arguments)
    other = trained(fo.SGD(), weights("kernel", 2), 1)
    with pytest.raises(ValueError, match="expected the state of SGD, found that of Adam"):
        other.load(path)
    assert state(target) == before


def test_after_building_again(tmp_path: Path) -> None:
    """An optimizer that grew takes the file of before, and goes on where that was."""
    variables = weights("kernel half")
    optimizer = trained(fo.Adam(), variables)
    path = saved(optimizer, tmp_path, variables=True)
    expected = state(optimizer)
    new = weights("new bias")
    optimizer.build(new | variables)
    optimizer.apply({name: np.ones(w.shape) for name, w in (new | variables).items()})
    report = optimizer.load(path, strict=False)
    assert {name.rpartition("/")[2] for name in report.missing} == {"new", "bias"}
    assert report.unexpected == []
    assert {name: found for name, found in state(optimizer).items() if name in expected} == expected
