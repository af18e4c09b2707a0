"""The gradient of some rows of a variable."""

from __future__ import annotations

from typing import Any


class RowGradient:
    r"""A gradient of some rows of a variable, such as the rows of an embedding that a batch has looked up.

    It stands for a dense gradient of the variable's shape. A row of that is the sum of the values given for it. All
    other rows are zero::

        gradient[i] = sum of values[j] over all j with indices[j] == i

    A step with it costs what its rows cost, however large the variable is. Give it to `Optimizer.apply` as the
    gradient of one variable, next to other gradients, in a list or by name.

    A row is what the first dimension of a variable counts. Those of a vector have one element. Variables without
    dimensions have no rows, so they take dense gradients only.

    Parameters
    ----------
    values : numpy.ndarray
        Of shape ``(k, ...)``, where ``...`` is the shape of a row, and of any type that a dense gradient can have.
        It may be strided and read-only.
    indices : numpy.ndarray
        Of shape ``(k,)``, int32 or int64, from 0 to the number of rows minus 1, in any order. A row may occur more
        than once. Its values are then summed in the order in which they occur, starting from zero, in float64 if the
        values or the variable are float64, else in float32. Norms, clipping and checks for NaN see the sum.

    Notes
    -----
    The arrays are neither copied nor checked here. `Optimizer.apply` copies the indices, checks them, and refuses the
    whole step if one of them is wrong. Both parts may be objects of other libraries that share CPU memory.

    ``k`` may be 0. That is a step for the variable like any other. No gradient is None.

    Gradients of these kinds are taken as they are, so they need no `RowGradient`:

    - PyTorch's ``torch.sparse_coo`` with one sparse dimension, coalesced or not,
    - objects with the attributes ``values`` and ``indices``, as TensorFlow's ``IndexedSlices`` has them,
    - JAX's ``BCOO`` with ``n_sparse`` 1 and ``n_batch`` 0,
    - SciPy's CSR arrays and matrices. Their rows are those that have stored elements.

    The option ``row_updates`` of each optimizer decides what becomes of rows that a step leaves out. This happens to a
    row that has gradients in steps 1 and 9 only::

        step                     1   2   3   4   5   6   7   8   9
        dense gradients          g   0   0   0   0   0   0   0   g
        row_updates="lazy"       g   .   .   .   .   .   .   .   g
        row_updates="caught_up"  g   .   .   .   .   .   .   .   0000000 g

        g  an update by the row's gradient
        0  what an update by a zero gradient does: weight decay, the decay of slots, the moves of a momentum
        .  the row and its slots lie still

    With ``"lazy"`` the row never gets the seven updates that it was left out of. With ``"caught_up"`` it gets all of
    them at once, in closed form, before it is used again. `Optimizer.catch_up` does so for rows that the next forward
    pass reads. The step count and the learning rate's schedule are those of the optimizer in both cases.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedopt as fo
    >>> table = np.zeros((5, 2))
    >>> optimizer = fo.SGD(learning_rate=1.0)
    >>> optimizer.build({"table": table})
    >>> values = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> optimizer.apply({"table": fo.RowGradient(values, indices=np.array([3, 0, 3]))})
    >>> table
    array([[-3., -4.],
           [ 0.,  0.],
           [ 0.,  0.],
           [-6., -8.],
           [ 0.,  0.]])
    """

    __slots__ = ("indices", "values")

    values: Any
    indices: Any

    def __init__(self, values: Any, indices: Any) -> None:
        self.values = values
        self.indices = indices

    def __repr__(self) -> str:
        """Show the types and shapes of both parts."""
        return f"RowGradient(values={_brief(self.values)}, indices={_brief(self.indices)})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Give `copy` and `pickle` both parts."""
        return type(self), (self.values, self.indices)


def _brief(part: Any) -> str:
    shape, dtype = getattr(part, "shape", None), getattr(part, "dtype", None)
    if shape is None or dtype is None:
        return f"<{type(part).__name__}>"
    return f"<{type(part).__name__} of {dtype}, shape {tuple(shape)}>"
