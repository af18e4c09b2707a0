"""Any optimizer, any arrays, any order of calls: each call is refused and changes nothing, or is right to the bit.

What is right is what the reference in NumPy says.
"""

from __future__ import annotations

import copy
import pickle
import tempfile
import warnings
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from any_arguments import (
    LAYOUTS,
    ONE_CLIP,
    WRONG,
    WRONG_VARIABLES,
    Variable,
    arguments,
    bad_argument,
    gradient,
    variables,
)
from fusedopt import _core
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from machine import LEVELS
from random_calls import run_calls
from reference import MultiReference, Reference, ScaledReference
from rows import assert_same
from sample_arrays import DTYPES, same_bits

pytest.importorskip("safetensors")
pytestmark = [
    pytest.mark.filterwarnings("ignore:No gradient for"),
    pytest.mark.filterwarnings("ignore:.*no effect without"),
    pytest.mark.usefixtures("restore_runtime"),
]


class AnyCalls(RuleBasedStateMachine):
    """An optimizer, alone or in wrappers, and its reference."""

    wrapper = "alone"

    @initialize(data=st.data(), made=variables)
    def start(self, data: st.DataObject, made: list[Variable]) -> None:
        count = 2 if "several" in self.wrapper else 1
        self.members = [data.draw(arguments(), f"optimizer {k}") for k in range(count)]
        dropped = {"loss_scale_factor"} if self.wrapper != "alone" else set()
        self.global_clipnorm = None
        if count > 1:
            self.global_clipnorm = data.draw(st.sampled_from([None, 0.8]), "global_clipnorm")
            dropped |= set(ONE_CLIP) if self.global_clipnorm else set()
            made = [*made, Variable((3,), DTYPES[2], 0, 0)]  # each member needs one
        for k, each in enumerate(self.members):
            for name in dropped:
                each.values.pop(name, None)
            if "slot_dtype" in each.values:  # small variables have slots of 8 bits only by name
                each.values["slot_dtypes"] = {f"v{k}": each.values["slot_dtype"]}
        self.guarded = made
        self.names = [f"v{i}" for i in range(len(made))]
        self.arrays = [each.array for each in made]
        self.excluded = data.draw(st.sampled_from([None, *range(len(made))]), "excluded")
        self.references = [Reference(each.rule, **each.values) for each in self.members]
        self._build_references()
        self.joint: Any = self.references[0]
        if count > 1:
            self.joint = MultiReference(self.references, self._owners(), self.global_clipnorm)
        self.expected = self.joint
        if "scaled" in self.wrapper:
            self.expected = ScaledReference(self.joint, 16.0, 3)
        self.optimizer = self._new()
        self._build(self.optimizer)

    def _owners(self) -> list[int]:
        return [i % len(self.members) for i in range(len(self.arrays))]

    def _owned(self, number: int) -> list[int]:
        return [i for i, owner in enumerate(self._owners()) if owner == number]

    def _new(self) -> Any:
        made = [getattr(fo, each.rule)(**each.values) for each in self.members]
        inner: Any = made[0]
        if len(made) > 1:
            members = fo.OptimizerMap(made[1], {"v[02468]$": made[0]})
            inner = fo.MultiOptimizer(members, global_clipnorm=self.global_clipnorm)
        if "scaled" in self.wrapper:
            return fo.LossScaleOptimizer(inner, initial_scale=16.0, dynamic_growth_steps=3)
        return inner

    def _parts(self, optimizer: Any) -> list[Any]:
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        return list(getattr(inner, "optimizers", [inner]))

    def _build(self, optimizer: Any) -> None:
        if self.excluded is not None and not optimizer.built:
            for part in self._parts(optimizer):
                part.exclude_from_weight_decay(var_names=[f"v{self.excluded}$"])
        optimizer.build(dict(zip(self.names, self.arrays, strict=True)))

    def _build_references(self) -> None:
        for number, each in enumerate(self.references):
            owned = self._owned(number)
            each.build(
                [self.arrays[i] for i in owned],
                tuple(k for k, i in enumerate(owned) if i == self.excluded),
                [self.names[i] for i in owned],
            )

    def _everything(self) -> list[Any]:
        state = [(name, array.tobytes()) for name, array in self.optimizer._core.state()]
        self.expected.catch_up()  # as what lists the state does
        numbers = ("iterations", "global_norm", "dynamic_scale", "step_counter", "skipped_steps")
        return [
            [array.tobytes() for array in self.arrays],
            state,
            [repr(getattr(self.optimizer, name, None)) for name in numbers],
        ]

    # Steps

    @property
    def _skips(self) -> bool:
        """Whether a gradient that is not finite is caught, whichever it is."""
        is_guarded = all(each.values.get("skip_nonfinite") for each in self.members)
        return "scaled" in self.wrapper or is_guarded

    def _gradients(self, data: st.DataObject) -> list[Any]:
        factor = getattr(self.optimizer, "dynamic_scale", 1.0)
        found: list[Any] = []
        for i, w in enumerate(self.arrays):
            # Each member has one with a gradient.
            if i >= len(self.members) and data.draw(st.integers(0, 3), "missing") == 3:
                found.append(None)
                continue
            layout = data.draw(st.sampled_from(sorted(LAYOUTS)), "layout")
            dtype = data.draw(st.sampled_from(DTYPES), "dtype")
            found.append(gradient(w, dtype, layout, factor, data.draw(st.integers(0, 99), "seed")))
        return found

    def _apply(self, gradients: list[Any], data: st.DataObject) -> None:
        """Hand gradients over in one of all ways."""
        order = data.draw(st.permutations(range(len(self.arrays))), "order")
        some = [i for i in order if gradients[i] is not None]
        how = data.draw(st.sampled_from(["list", "names", "variables", "pairs"]), "how")
        if how == "list":
            self.optimizer.apply(gradients)
        elif how == "names":
            self.optimizer.apply({self.names[i]: gradients[i] for i in some})
        elif how == "variables":
            self.optimizer.apply([gradients[i] for i in order], [self.arrays[i] for i in order])
        else:
            self.optimizer.apply_gradients([(gradients[i], self.arrays[i]) for i in some])

    @rule(data=st.data(), threads=st.integers(1, 3), level=st.sampled_from(LEVELS))
    def step(self, data: st.DataObject, threads: int, level: str) -> None:
        fo.set_num_threads(threads)
        _core.set_level(level)
        gradients = self._gradients(data)
        self._apply(gradients, data)
        self.expected.apply(gradients)

    @precondition(lambda self: self._skips)
    @rule(data=st.data(), value=st.sampled_from([np.inf, -np.inf, np.nan]))
    def step_that_is_skipped(self, data: st.DataObject, value: float) -> None:
        gradients = self._gradients(data)
        with_numbers = [i for i, g in enumerate(gradients) if g is not None and g.size]
        if not with_numbers:
            return
        i = data.draw(st.sampled_from(with_numbers), "which")
        gradients[i] = gradients[i].copy()
        gradients[i].reshape(-1)[-1] = value
        self._apply(gradients, data)
        self.expected.apply(gradients)

    @rule(data=st.data(), wrong=st.sampled_from([*WRONG, "the variable itself", "one too many"]))
    def refused_step(self, data: st.DataObject, wrong: str) -> None:
        gradients: list[Any] = [np.ones(w.shape, np.float32) for w in self.arrays]
        i = data.draw(st.integers(0, len(gradients) - 1), "which")
        w = self.arrays[i]
        if wrong == "one too many":
            gradients.append(np.ones(1))
        elif wrong == "the variable itself":
            if not w.size:
                return
            gradients[i] = w
        else:
            gradients[i] = WRONG[wrong](w)
        before = self._everything()
        with pytest.raises((TypeError, ValueError)):
            self.optimizer.apply(gradients)
        assert self._everything() == before

    # What is set

    @rule(data=st.data())
    def assign(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.members) - 1), "member")
        name = data.draw(st.sampled_from(["learning_rate", "weight_decay"]), "name")
        value = data.draw(st.sampled_from([0.0, 0.02, 0.3]), "value")
        setattr(self._parts(self.optimizer)[number], name, value)
        self.references[number].a[name] = value
        self.members[number] = self.members[number].with_values(**{name: value})

    @rule(data=st.data())
    def refused_assignment(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.members) - 1), "member")
        name, value = data.draw(bad_argument(self.members[number]), "bad")
        before, member = self._everything(), self._parts(self.optimizer)[number]
        config = member.get_config()
        with pytest.raises((TypeError, ValueError, AttributeError)):
            setattr(member, name, value)
        assert self._everything() == before
        assert member.get_config() == config
        with pytest.raises((TypeError, ValueError)):
            getattr(fo, self.members[number].rule)(**{name: value})

    # The reference has no averages that begin later.
    @precondition(
        lambda self: len(self.arrays) < 6 and not any(r.a["use_ema"] for r in self.references)
    )
    @rule(more=variables)
    def build_more(self, more: list[Variable]) -> None:
        more = more[:2]
        self.guarded += more
        self.arrays += [each.array for each in more]
        self.names += [f"v{len(self.names) + k}" for k in range(len(more))]
        self._build(self.optimizer)
        self._build_references()
        if len(self.members) > 1:
            self.joint.owners = self._owners()

    @rule(data=st.data(), wrong=st.sampled_from(sorted(WRONG_VARIABLES)))
    def refused_build(self, data: st.DataObject, wrong: str) -> None:
        with_numbers = [w for w in self.arrays if w.size]
        if not with_numbers:
            return
        odd = WRONG_VARIABLES[wrong](data.draw(st.sampled_from(with_numbers), "which"))
        before = self._everything()
        named = dict(zip(self.names, self.arrays, strict=True)) | {"odd": odd}
        with pytest.raises((TypeError, ValueError), match="odd"):
            self.optimizer.build(named)
        assert self._everything() == before

    # Elsewhere

    @rule(how=st.sampled_from(["deepcopy", "pickle"]))
    def go_on_with_a_copy(self, how: str) -> None:
        both = (self.optimizer, self.arrays)
        copied = copy.deepcopy(both) if how == "deepcopy" else pickle.loads(pickle.dumps(both))
        self.optimizer, self.arrays = copied
        self.guarded = []
        self.expected.catch_up()

    @rule(from_configuration=st.booleans(), with_variables=st.booleans())
    def go_on_with_what_was_saved(self, from_configuration: bool, with_variables: bool) -> None:
        before = [w.copy() for w in self.arrays]
        with tempfile.TemporaryDirectory() as folder:
            self.optimizer.save(Path(folder) / "state", variables=with_variables)
            new = self._new()
            if from_configuration:
                new = fo.deserialize(fo.serialize(self.optimizer))
            if with_variables:
                self.guarded = []
                self.arrays = [np.zeros_like(w) for w in before]
            self._build(new)
            new.load(Path(folder) / "state")
        self.optimizer = new
        for each in (*self.references, self.joint):
            each.global_norm = None
        self.expected.catch_up()

    @rule(damage=st.integers(0, 2**20))
    def refused_file(self, damage: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "state"
            self.optimizer.save(path)
            data = bytearray(path.read_bytes())
            data[damage % len(data)] ^= 1 + damage % 255
            path.write_bytes(data)
            before = self._everything()
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "load: .* was saved with other arguments")
                    self.optimizer.load(path)
            except ValueError:
                assert self._everything() == before
                return
        # The version and the configuration are text that nothing depends on.
        assert self._everything() == before

    @rule()
    def evaluation(self) -> None:
        before = self._everything()
        try:
            with self.optimizer.evaluation_weights() as lent:
                assert list(lent) == self.names
                with pytest.raises(ValueError, match="evaluation"):
                    self.optimizer.apply([np.ones(w.shape) for w in self.arrays])
                for number, each in enumerate(self.references):
                    if each.a["use_ema"] and each.calls:
                        for i, average in zip(self._owned(number), each.averages, strict=True):
                            assert same_bits(self.arrays[i], average.astype(self.arrays[i].dtype))
        except ValueError:
            assert not any(self._has_evaluation(each) for each in self.references)
        assert self._everything() == before

    def _has_evaluation(self, each: Reference) -> bool:
        return bool(each.a["use_ema"]) or each.rule == "ScheduleFreeAdamW"

    # What must hold

    @invariant()
    def weights_are_equal(self) -> None:
        for number, each in enumerate(getattr(self, "references", [])):
            for i, expected in zip(self._owned(number), each.stored(), strict=True):
                assert same_bits(self.arrays[i], expected), self.names[i]

    @invariant()
    def neighbours_are_untouched(self) -> None:
        for each in getattr(self, "guarded", []):
            assert each.neighbours_are_untouched()

    @rule()
    def all_is_equal(self) -> None:
        for number, each in enumerate(self.references):
            mine = [self.arrays[i] for i in self._owned(number)]
            assert_same(self._parts(self.optimizer)[number], mine, each)
        if "scaled" in self.wrapper:
            assert self.optimizer.dynamic_scale == self.expected.scale

    def teardown(self) -> None:
        if getattr(getattr(self, "optimizer", None), "built", False):
            self.all_is_equal()


@pytest.mark.parametrize("wrapper", ["alone", "scaled", "several", "scaled several"])
def test_any_sequence_of_calls(wrapper: str) -> None:
    run_calls(AnyCalls, examples=80, most_calls=12, wrapper=wrapper)
