"""The functions that configurations name, with the signatures of thinc's.

Their annotations are types and no strings, which the registry of thinc 9 cannot look up.
"""

import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, TypeVar

from fusedopt.thinc.optimizer import Optimizer

_host: Any = importlib.import_module("thinc.optimizers")
_ADAM: dict[str, Any] = _host.ADAM_DEFAULTS
_SGD: dict[str, Any] = _host.SGD_DEFAULTS

# One number, or what gives one per step: lists and generators, and the schedules of thinc 9.
Value: TypeAlias = float | list[float] | Iterator[float] | Callable[..., float]

_Make = TypeVar("_Make", bound=Callable[..., Optimizer])

_COMMON = """
Parameters
----------
{arguments}
    As ``Optimizer`` has them.

Returns
-------
Optimizer
    To be called with each parameter and its gradient.

Raises
------
ValueError
    If a schedule gives no value.
"""


def _documented(make: _Make) -> _Make:
    """Put what is the same of all of them into a docstring, before the examples."""
    if make.__doc__ is not None:  # as it is under python -OO
        head, examples, tail = inspect.cleandoc(make.__doc__).partition("\nExamples\n--------\n")
        common = _COMMON.format(arguments=", ".join(inspect.signature(make).parameters))
        make.__doc__ = f"{head}{common}{examples}{tail}"
    return make


@_documented
def Adam(  # noqa: N802
    learn_rate: Value = _ADAM["learn_rate"],
    *,
    L2: Value = _ADAM["L2"],  # noqa: N803
    beta1: Value = _ADAM["beta1"],
    beta2: Value = _ADAM["beta2"],
    eps: Value = _ADAM["eps"],
    grad_clip: Value = _ADAM["grad_clip"],
    L2_is_weight_decay: bool = _ADAM["L2_is_weight_decay"],  # noqa: N803
    use_averages: bool = True,
) -> Optimizer:
    """Make thinc's ``Adam``, which a configuration calls ``fusedopt.Adam.v1``.

    Its formula and its arguments are those of ``Optimizer``::

        m <- m + (g - m) (1 - beta1)
        v <- v + (g^2 - v) (1 - beta2)
        w <- w - lr_scale alpha m / (sqrt(v) + eps),  alpha = learn_rate sqrt(1 - beta2^t) / (1 - beta1^t)

    Examples
    --------
    >>> import numpy as np
    >>> from fusedopt.thinc import Adam
    >>> optimizer = Adam(0.1, L2=0.01)
    >>> weights, gradient = np.ones(2, np.float32), np.array([0.3, -0.4], np.float32)
    >>> weights, gradient = optimizer((1, "W"), weights, gradient)
    >>> weights.round(4)
    array([0.8991, 1.0989], dtype=float32)
    >>> optimizer.averages[1, "W"].round(3)
    array([0.736, 0.899], dtype=float32)

    References
    ----------
    thinc, ``thinc.optimizers.Adam``. Kingma and Ba, Adam: A Method for Stochastic Optimization, ICLR 2015.
    """
    return Optimizer(
        learn_rate,
        L2=L2,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        grad_clip=grad_clip,
        L2_is_weight_decay=L2_is_weight_decay,
        use_averages=use_averages,
    )


@_documented
def RAdam(  # noqa: N802
    learn_rate: Value = _ADAM["learn_rate"],
    *,
    beta1: Value = _ADAM["beta1"],
    beta2: Value = _ADAM["beta2"],
    eps: Value = _ADAM["eps"],
    L2: Value = _ADAM["L2"],  # noqa: N803
    L2_is_weight_decay: bool = _ADAM["L2_is_weight_decay"],  # noqa: N803
    grad_clip: Value = _ADAM["grad_clip"],
    use_averages: bool = True,
) -> Optimizer:
    """Make thinc's ``RAdam``, which a configuration calls ``fusedopt.RAdam.v1``.

    Its formula and its arguments are those of ``Optimizer``, but for ::

        s = t + 1
        rho = rho_max - 2 s beta2^s / (1 - beta2^s),  rho_max = 2 / (1 - beta2) - 1
        w <- w - alpha m / (sqrt(v) + eps)                              if rho >= 5
        w <- w - learn_rate / (1 - beta1^s) m                           otherwise

        alpha = learn_rate / (1 - beta1^s) sqrt((1 - beta2^s) r)
        r = (rho - 4) (rho - 2) rho_max / ((rho_max - 4) (rho_max - 2) rho)

    Examples
    --------
    >>> import numpy as np
    >>> from fusedopt.thinc import RAdam
    >>> optimizer = RAdam(0.1)
    >>> weights, gradient = np.ones(2, np.float32), np.array([0.3, -0.4], np.float32)
    >>> weights, gradient = optimizer((1, "W"), weights, gradient)
    >>> weights.round(4)
    array([0.9842, 1.0211], dtype=float32)

    References
    ----------
    thinc, ``thinc.optimizers.RAdam``. Liu et al., On the Variance of the Adaptive Learning Rate and Beyond, ICLR 2020.
    """
    return Optimizer(
        learn_rate,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        L2=L2,
        L2_is_weight_decay=L2_is_weight_decay,
        grad_clip=grad_clip,
        use_averages=use_averages,
        use_radam=True,
    )


@_documented
def SGD(  # noqa: N802
    learn_rate: Value,
    *,
    L2: Value = _SGD["L2"],  # noqa: N803
    grad_clip: Value = _SGD["grad_clip"],
    L2_is_weight_decay: bool = _SGD["L2_is_weight_decay"],  # noqa: N803
    use_averages: bool = True,
) -> Optimizer:
    """Make thinc's ``SGD``, which a configuration calls ``fusedopt.SGD.v1``.

    Its formula and its arguments are those of ``Optimizer``::

        w <- w - lr_scale learn_rate g

    Examples
    --------
    >>> import numpy as np
    >>> from fusedopt.thinc import SGD
    >>> optimizer = SGD(0.5, use_averages=False)
    >>> weights, gradient = np.ones(2, np.float32), np.array([0.6, -0.8], np.float32)
    >>> optimizer((1, "W"), weights, gradient)
    (array([0.7, 1.4], dtype=float32), array([0., 0.], dtype=float32))

    References
    ----------
    thinc, ``thinc.optimizers.SGD``.
    """
    return Optimizer(
        learn_rate,
        L2=L2,
        grad_clip=grad_clip,
        L2_is_weight_decay=L2_is_weight_decay,
        beta1=0.0,
        beta2=0.0,
        use_averages=use_averages,
    )
