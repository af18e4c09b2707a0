"""Muon."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY
from typing import Any

import numpy as np

from fusedopt import arguments
from fusedopt.hyperparameters import flag, hyperparameter, integer, optional_real, real
from fusedopt.rules.rule_optimizer import Rate, RuleOptimizer, rate
from fusedopt.runtime import _core

MatrixProduct = Callable[[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]], object]


def _checked_product(name: str, value: Any) -> Any:
    if value is not None and not callable(value):
        raise TypeError(
            f"{name}: expected a function of (a, b, out) or None, found {value!r}; numpy.matmul is one"
        )
    dtype = _dtype_of(value)
    if not isinstance(dtype, str) or dtype not in ("float32", "bfloat16"):
        raise ValueError(
            f"{name}: expected 'float32' or 'bfloat16' as its attribute dtype, found {dtype!r}; "
            "a function without that attribute gets float32"
        )
    return value


def _dtype_of(product: MatrixProduct | None) -> Any:
    return getattr(product, "dtype", "float32")


class Muon(RuleOptimizer):
    """Momentum made orthogonal for matrices, Adam for everything else.

    For a matrix with no more rows than columns, or for the transpose of any other::

        m <- momentum m + g
        d = g + momentum m                          or, without nesterov, d = m
        X = d / (norm(d) + 1e-7)
        S = X X^T,   X <- (a I + b S + c S S) X     ns_steps times
        w <- w - learning_rate sqrt(max(rows, columns)) rms_rate X

    with muon_a, muon_b and muon_c for a, b and c. Variables of other than two dimensions, and matrices that are
    excluded by their name, take the step of `Adam` with ``adam_beta_1``, ``adam_beta_2``, ``epsilon``,
    ``adam_weight_decay`` and a learning rate of learning_rate adam_lr_ratio.

    Names are those given to `build` in a dict. In a list variables have no names that could match.

    The products are done by ``matrix_product``, on as many threads as its library uses. Their last bits depend on
    it. X X^T and S S are symmetric, so of a large matrix only the part up to the diagonal is
    asked for, in panels of rows. All products are done before the first variable changes. float64 variables
    get products of float64. All others get products of float32, or of bfloat16 if the function asks for that.

    Besides the momentum, an optimizer holds one more array per matrix, of the matrix's size, and scratch memory for the
    largest one.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range or of another type, and if the attribute ``dtype`` of ``matrix_product`` is
        neither ``"float32"`` nor ``"bfloat16"``. A step raises what ``matrix_product`` raises, and a ValueError if that
        has not written into ``out``. Nothing has changed then.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedopt as fo
    >>> kernel, bias = np.eye(2), np.zeros(2)
    >>> optimizer = fo.Muon(learning_rate=0.1, weight_decay=None)
    >>> optimizer.build({"dense/kernel": kernel, "dense/bias": bias})
    >>> optimizer.apply([np.array([[1.0, 0.0], [0.0, 5.0]]), np.array([1.0, -2.0])])
    >>> bias.round(3)
    array([-0.1,  0.1])
    >>> bool(np.all(np.diag(kernel) < 1.0))
    True

    Products of your own:

    >>> def in_double(a, b, out):
    ...     out[...] = a.astype(np.float64) @ b.astype(np.float64)
    >>> optimizer = fo.Muon(matrix_product=in_double)

    References
    ----------
    Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024. Liu et al., Muon is
    Scalable for LLM Training, arXiv 2502.16982, for ``rms_rate``. Keras 3, ``keras.optimizers.Muon``.
    """

    learning_rate: Rate = rate(0.001)
    adam_beta_1: float = real(0.9, "Adam's decay of the first moment, in [0, 1).")
    adam_beta_2: float = real(0.999, "Adam's decay of the second moment, in [0, 1).")
    adam_weight_decay: float | None = optional_real(
        0.004, "Weight decay of the variables that Adam updates, >= 0."
    )
    epsilon: float = real(1e-7, "Adam's: added to the root, > 0.")
    _: KW_ONLY
    weight_decay: float | None = optional_real(0.004, "Weight decay of the matrices, >= 0.")
    exclude_layers: Sequence[str] | None = hyperparameter(
        None,
        arguments.patterns,
        "list of str, optional",
        "Regular expressions. Matrices in whose name one is found are left to Adam.",
        shapes_state=True,
        is_last=True,
        reaches_core=False,
    )
    exclude_embeddings: bool = flag(
        True,
        'Whether matrices with "embedding" in their name, in any case, are left to Adam.',
        shapes_state=True,
        is_last=True,
        reaches_core=False,
    )
    muon_a: float = real(3.4445, "a.", is_last=True)
    muon_b: float = real(-4.775, "b.", is_last=True)
    muon_c: float = real(2.0315, "c.", is_last=True)
    adam_lr_ratio: float = real(
        1, "Factor on the learning rate of the variables that Adam updates, >= 0.", is_last=True
    )
    momentum: float = real(0.95, "Share of the slot m that is kept, in [0, 1].", is_last=True)
    ns_steps: int = integer(
        5, "Rounds of the iteration that makes X orthogonal, >= 1.", is_last=True
    )
    nesterov: bool = flag(True, "Look ahead along the momentum.", is_last=True)
    rms_rate: float | None = optional_real(
        0.2, "> 0. None leaves the factor sqrt(max(rows, columns)) rms_rate out.", is_last=True
    )
    matrix_product: MatrixProduct | None = hyperparameter(
        None,
        _checked_product,
        "callable, optional",
        """
        ``matrix_product(a, b, out)`` writes the product of two matrices into ``out``. What it returns is
        ignored. ``a`` and ``b`` may be transposed views, ``out`` is C-contiguous and overlaps neither. None is
        `numpy.matmul`. A function with an attribute ``dtype`` of ``"bfloat16"`` gets bfloat16 instead of float32, as
        arrays of uint16 with the bits, because NumPy has no bfloat16. Then X and S stay in bfloat16 between the
        products, and a step differs from that of float32 by some hundredths of its norm. The attribute is read when
        the function is given. `fusedopt.torch_products` has PyTorch's products, in float32 and in bfloat16. Keras has
        no such argument: the configuration holds it only if it is given, as the function itself, which cannot be
        written as JSON.
        """,
        is_keyword=True,
    )

    def _rule_fields(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return super()._rule_fields(values) | {
            "adam_weight_decay": values["adam_weight_decay"] or 0.0,
            "weight_decay": values["weight_decay"] or 0.0,
            "product_dtype": _dtype_of(values["matrix_product"]),
            "excludes": _excluding(values["exclude_layers"], values["exclude_embeddings"]),
        }

    def _for_core(self, name: str, value: Any) -> Any:
        if name != "matrix_product":
            return super()._for_core(name, value)
        this = weakref.ref(self)
        return np.matmul if value is None else lambda a, b, out: this().matrix_product(a, b, out)  # type: ignore[union-attr,misc]

    def _core_options(self, values: Mapping[str, Any], learning_rate: Any) -> _core.Options:
        # Weight decay is the rule's own, because there are two.
        return super()._core_options({**values, "weight_decay": None}, learning_rate)


def _excluding(layers: list[str], embeddings: bool) -> Callable[[str], bool]:
    def excludes(name: str) -> bool:
        return (embeddings and "embedding" in name.lower()) or any(
            re.search(layer, name) for layer in layers
        )

    return excludes
