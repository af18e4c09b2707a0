"""One second moment per row, an option of several rules."""

from __future__ import annotations

from typing import Any

from fusedopt.hyperparameters import flag


def one_per_row(moment: str) -> Any:
    """Declare whether a row has one second moment. `moment` names it as the rule's formula does."""
    return flag(
        False,
        f"""
        Keep one {moment} per row of a variable. A row is what an index of the first dimension selects. The mean of g^2
        over the row takes the place of g^2. A variable of one dimension or none keeps one {moment} per element. Keras
        does not have this option, so configurations hold it only if it is on.
        """,
        shapes_state=True,
        is_keyword=True,
    )
