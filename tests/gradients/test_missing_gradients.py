"""Missing gradients: an empty list changes nothing, one None is a warning, and nothing but None is an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from subject import Subject
from training import everything, wrapped_or_not


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize(
    "call",
    [
        lambda o: o.apply([]),
        lambda o: o.apply(()),
        lambda o: o.apply([], []),
        lambda o: o.apply(iter([])),
        lambda o: o.apply_gradients([]),
        lambda o: o.apply_gradients(zip([], [], strict=True)),
    ],
)
@wrapped_or_not
def test_empty_list_of_gradients_changes_nothing(
    wrap: Callable[[Any], Any], call: Callable[[Any], Any], built: bool
) -> None:
    w = np.ones(2)
    optimizer = wrap(fo.Adam(use_ema=True))
    if built:
        optimizer.build([w])
        optimizer.apply([np.ones(2)])
    before = everything(optimizer, [w])
    assert call(optimizer) in (None, int(built))
    assert everything(optimizer, [w]) == before
    assert optimizer.built == built


# Some or all missing


@pytest.mark.filterwarnings("error")
def test_no_gradient_at_all(subject: Subject) -> None:
    with subject.refuses(ValueError, "No gradients provided for any variable"):
        subject.optimizer.apply([None] * 4)
    with subject.refuses(ValueError, "No gradients provided for any variable"):
        subject.optimizer.apply_gradients([(None, subject.variables[2])])


def test_some_gradients_missing_is_one_warning(subject: Subject) -> None:
    gradients = subject.gradients()
    gradients[0] = gradients[2] = None
    with pytest.warns(UserWarning, match="No gradient for") as caught:
        subject.optimizer.apply(gradients)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "variable 0 ('kernel')" in message
    assert "variable 2 ('gain')" in message
    assert "'bias'" not in message
    assert "'half'" not in message
    assert caught[0].filename == __file__


@pytest.mark.filterwarnings("error")
def test_warning_raised_as_an_error_stops_the_step(subject: Subject) -> None:
    gradients = subject.gradients()
    gradients[0] = None
    with subject.refuses(UserWarning, "variable 0 ('kernel')"):
        subject.optimizer.apply(gradients)
