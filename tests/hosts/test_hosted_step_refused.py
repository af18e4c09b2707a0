"""What a hosted step refuses: it says which parameter it is about, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fusedopt import _core
from sample_arrays import misaligned


class Parameter:
    def __init__(self, array: Any) -> None:
        self.array = array
        self.grad: Any = np.ones((2, 3), np.float32)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        interface: dict[str, Any] = self.array.__array_interface__
        return interface


class Call:
    """A good call, into which a test puts something bad."""

    def __init__(self) -> None:
        self.parameters = [Parameter(np.full((2, 3), k, np.float32)) for k in range(3)]
        self.last = self.parameters[-1]
        self.state: dict[Any, Any] = {
            p: {
                "step": np.zeros(()),
                "exp_avg": np.zeros((2, 3), np.float32),
                "exp_avg_sq": np.zeros((2, 3), np.float32),
                "mu_product": np.ones(()),
            }
            for p in self.parameters
        }
        self.of_last = self.state[self.last]
        self.first, self.second = {"learning_rate": 0.1}, {"learning_rate": 0.1}
        self.groups: Any = [(self.parameters[:1], self.first), (self.parameters[1:], self.second)]
        self.options: dict[str, Any] = {}
        self.core = _core.HostedStep("TorchNAdam")

    def run(self) -> Any:
        return self.core.run(self.groups, self.state, **self.options)

    def snapshot(self) -> list[bytes]:
        kept = [v for s in self.state.values() if isinstance(s, dict) for v in s.values()]
        arrays = [v for v in kept if isinstance(v, np.ndarray)]
        return [a.tobytes() for a in [*arrays, *(p.array for p in self.parameters)]]


REFUSED: dict[str, tuple[Callable[[Call], Any], type[Exception], str]] = {
    "no gradient": (
        lambda c: delattr(c.last, "grad"), AttributeError, "grad"),
    "gradient of another shape": (
        lambda c: setattr(c.last, "grad", np.ones((3, 2))), ValueError,
        r"group 1, parameter 1: gradient: expected shape \(2, 3\), found \(3, 2\)"),
    "gradient of integers": (
        lambda c: setattr(c.last, "grad", np.ones((2, 3), int)), TypeError,
        "group 1, parameter 1: gradient: expected float16, .* found dtype int64"),
    "gradient that is none": (
        lambda c: setattr(c.last, "grad", "none"), TypeError, "group 1, parameter 1: gradient: .* found str"),
    "masked gradient": (
        lambda c: setattr(c.last, "grad", np.ma.ones((2, 3))), TypeError, "without a mask"),
    "gradient in the variable": (
        lambda c: setattr(c.last, "grad", c.last.array), ValueError,
        "gradient of group 1, parameter 1: expected memory of its own, found it overlapping the variable"),
    "gradient in a slot of another": (
        lambda c: setattr(c.last, "grad", c.state[c.parameters[0]]["exp_avg"]), ValueError,
        "overlapping the exp_avg of group 0, parameter 0"),
    "read-only variable": (
        lambda c: c.last.array.setflags(write=False), ValueError,
        "group 1, parameter 1: expected writable memory"),
    "variable with gaps": (
        lambda c: setattr(c.last, "array", np.zeros((2, 6), np.float32)[:, ::2]), ValueError,
        "group 1, parameter 1: .* gaps"),
    "repeated variable": (
        lambda c: setattr(c.last, "array", np.lib.stride_tricks.as_strided(c.last.array, (2, 3), (0, 4))),
        ValueError, "group 1, parameter 1: .* repeat"),
    "misaligned variable": (
        lambda c: setattr(c.last, "array", misaligned(c.last.array)), ValueError,
        "group 1, parameter 1: .* misaligned"),
    "variable of integers": (
        lambda c: setattr(c.last, "array", np.ones((2, 3), int)), TypeError, "group 1, parameter 1: .* int64"),
    "parameter twice": (
        lambda c: c.groups[0][0].append(c.last), ValueError,
        "(group 1, parameter 1|group 0, parameter 1): expected memory of its own"),
    "slot of another shape": (
        lambda c: c.of_last.update(exp_avg=np.zeros(6, np.float32)), ValueError,
        r"group 1, parameter 1: exp_avg: expected shape \(2, 3\), found \(6,\)"),
    "slot of another dtype": (
        lambda c: c.of_last.update(exp_avg=np.zeros((2, 3))), ValueError,
        "group 1, parameter 1: exp_avg: expected float32, found float64"),
    "slot in another order": (
        lambda c: c.of_last.update(exp_avg=np.zeros((3, 2), np.float32).T), ValueError,
        "group 1, parameter 1: exp_avg: expected its elements in memory in the same order"),
    "read-only slot": (
        lambda c: c.of_last["exp_avg"].setflags(write=False), ValueError,
        "group 1, parameter 1: exp_avg: expected writable memory"),
    "slot that is none": (
        lambda c: c.of_last.update(exp_avg="none"), TypeError, "group 1, parameter 1: exp_avg: .* found str"),
    "shared slot": (
        lambda c: c.of_last.update(exp_avg=c.of_last["exp_avg_sq"]), ValueError, "overlapping"),
    "negative count": (
        lambda c: c.of_last.update(step=-1), ValueError, "group 1, parameter 1: step: expected a count .* found -1"),
    "half a count": (
        lambda c: c.of_last.update(step=np.full(1, 1.5)), ValueError, "group 1, parameter 1: step: .* found 1.5"),
    "count that is no number": (
        lambda c: c.of_last.update(step=np.nan), ValueError, "group 1, parameter 1: step: .* found nan"),
    "huge count": (
        lambda c: c.of_last.update(step=10**400), ValueError, "group 1, parameter 1: step: .* found inf"),
    "count of too many updates": (
        lambda c: c.of_last.update(step=2**53), ValueError, "group 1, parameter 1: step"),
    "several counts": (
        lambda c: c.of_last.update(step=np.zeros(2)), ValueError, "group 1, parameter 1: step: .* 2 elements"),
    "count of 16 bits": (
        lambda c: c.of_last.update(step=np.zeros((), np.float16)), ValueError, "step: .* float16"),
    "read-only count": (
        lambda c: c.of_last["step"].setflags(write=False), ValueError, "group 1, parameter 1: step: .* writable"),
    "count of text": (
        lambda c: c.of_last.update(step="1"), TypeError, "group 1, parameter 1: step"),
    "state that is no dict": (
        lambda c: c.state.update({c.last: [1]}), TypeError,
        "group 1, parameter 1: expected a dict as its state, found list"),
    "unknown setting": (
        lambda c: c.second.update(lr=0.1), TypeError,
        r"group 1: settings: expected those of TorchNAdam \(.*momentum_decay, .*learning_rate, .*\), found 'lr'"),
    "no learning rate": (
        lambda c: c.second.clear(), TypeError, "group 1: learning_rate: expected a number, found none"),
    "negative learning rate": (
        lambda c: c.second.update(learning_rate=-1.0), ValueError, "group 1: learning_rate"),
    "learning rate of text": (
        lambda c: c.second.update(learning_rate="1"), TypeError, "group 1: learning_rate: expected a real number"),
    "beta out of range": (
        lambda c: c.second.update(beta_1=1.0), ValueError, "group 1: beta_1"),
    "beta that is a function": (
        lambda c: c.second.update(beta_1=float), ValueError, "group 1: beta_1: expected a number, found a function"),
    "maximize that is no flag": (
        lambda c: c.second.update(maximize=1), TypeError, "group 1: maximize: expected True or False"),
    "parameters that are no list": (
        lambda c: c.groups.append((iter([]), {})), TypeError, "group 2: expected a tuple of a list"),
    "group that is no tuple": (
        lambda c: c.groups.append(3), TypeError, "group 2: expected a tuple of a list"),
    "negative max_norm": (
        lambda c: c.options.update(max_norm=-1.0), ValueError, "max_norm"),
    "no scale": (
        lambda c: c.options.update(unscale=0.0), ValueError, "unscale"),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_a_refused_call_changes_nothing(fault: str) -> None:
    spoil, error, message = REFUSED[fault]
    for repeated in (False, True):
        call = Call()
        if repeated:
            assert call.run()[0]
        spoil(call)
        before = call.snapshot()
        for _ in range(2):
            with pytest.raises(error, match=message):
                call.run()
        assert call.snapshot() == before
        good = Call()
        good.core = call.core
        assert good.run()[0]


@pytest.mark.parametrize("rule", ["Lamb", "Adafactor", "Muon"])
def test_a_rule_that_keeps_more_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match=f"found {rule}, which keeps state of its own"):
        _core.HostedStep(rule).run([([], {"learning_rate": 0.1})], {})


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rule: expected a rule \(SGD, .*\), found 'adam'"):
        _core.HostedStep("adam")
    with pytest.raises(ValueError, match="found 'adam'"):
        _core.hosted_update("adam", np.ones(1), np.ones(1), [], {"learning_rate": 0.1}, 1)
