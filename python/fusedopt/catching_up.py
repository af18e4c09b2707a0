"""What has rows that steps leave out, and gives them what they have missed."""

from __future__ import annotations

from typing import Any

from fusedopt.state.saved import Saved


class CatchingUp(Saved):
    """What updates some rows of a variable, and the others later."""

    def catch_up(self, variable: Any = None, indices: Any = None) -> None:
        """Give rows what they have missed, before a forward pass or an evaluation reads them.

        Under ``row_updates="caught_up"`` a row that steps have left out is updated only when it is needed. This makes
        it hold, to rounding, what dense gradients would have made of it by now. The next step is the same with or
        without this call, to rounding. Under ``row_updates="lazy"`` no row misses anything, so nothing changes.

        Parameters
        ----------
        variable : numpy.ndarray or str, optional
            One of the variables, or its name. Default: all of them.
        indices : numpy.ndarray, optional
            int32 or int64 of shape ``(k,)``. The rows of the variable that will be read, in any order. A row may occur
            more than once. Default: all rows.

        Raises
        ------
        ValueError
            If the optimizer is not built, the variable is not one of its variables, indices are given without a
            variable or are not those of its rows, or inside `Optimizer.evaluation_weights`. Nothing has changed then.
        TypeError
            If the indices are no array of integers. Nothing has changed then.

        Examples
        --------
        >>> import numpy as np
        >>> import fusedopt as fo
        >>> table = np.zeros((3, 1))
        >>> optimizer = fo.SGD(learning_rate=1.0, momentum=0.5, row_updates="caught_up")
        >>> optimizer.build({"table": table})
        >>> one = np.ones((1, 1))
        >>> for row in (0, 1, 1):
        ...     optimizer.apply({"table": fo.RowGradient(one, np.array([row]))})
        >>> table.T
        array([[-1. , -2.5,  0. ]])
        >>> optimizer.catch_up("table", np.array([0]))
        >>> table.T
        array([[-1.75, -2.5 ,  0.  ]])
        """
        if not self.built:
            raise ValueError("catch_up: the optimizer is not built; call build first")
        self._require_training("catch_up")
        if variable is None and indices is not None:
            raise ValueError(
                "catch_up: indices: expected with a variable, found without; give the variable too"
            )
        self._core.catch_up(variable, indices)
