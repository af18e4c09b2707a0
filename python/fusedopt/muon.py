"""Muon."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fusedopt import arguments
from fusedopt.optimizer import LearningRate, Optimizer
from fusedopt.runtime import _core

MatrixProduct = Callable[[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]], object]


class Muon(Optimizer):
    r"""Momentum made orthogonal for matrices, Adam for everything else.

    Of a matrix with no more rows than columns (of others the transpose), with :math:`d = g + \mu m`, or
    :math:`d = m` without ``nesterov``:

    .. math::

        m &\leftarrow \mu m + g, \qquad X = d / (\lVert d \rVert + 10^{-7}) \\
        S &= X X^\top, \qquad X \leftarrow (a I + b S + c S S) X \quad \texttt{ns\_steps} \text{ times} \\
        w &\leftarrow w - \eta \sqrt{\max(\text{rows}, \text{columns})}\, \texttt{rms\_rate}\, X

    Variables of other than two dimensions, and matrices that are excluded by their name, take the step of `Adam`
    with ``adam_beta_1``, ``adam_beta_2``, ``epsilon``, ``adam_weight_decay`` and a learning rate of
    :math:`\eta \cdot \texttt{adam\_lr\_ratio}`.

    Names are those given to `build` in a dict; in a list variables have no names that could match.

    The products are done by ``matrix_product``, on as many threads as its library uses. Their last bits depend on
    it. :math:`X X^\top` and :math:`S S` are symmetric, so of a large matrix only the part up to the diagonal is
    asked for, in panels of rows. All products are done before the first variable changes. float64 variables
    get products of float64. All others get products of float32, or of bfloat16 if the function asks for that.

    Besides the momentum an optimizer holds one array of each matrix's size for that, and scratch memory for
    the largest.

    Parameters
    ----------
    learning_rate : float, LearningRateSchedule or callable
        :math:`\eta`.
    adam_beta_1, adam_beta_2 : float
        Adam's decays of the moments, in [0, 1).
    adam_weight_decay : float, optional
        Weight decay of the variables that Adam updates.
    epsilon : float
        Adam's, > 0.
    weight_decay : float, optional
        Weight decay of the matrices.
    clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum, ema_overwrite_frequency
        As in `Optimizer`.
    loss_scale_factor, gradient_accumulation_steps, name
        As in `Optimizer`.
    exclude_layers : list of str, optional
        Regular expressions; matrices in whose name one is found are left to Adam.
    exclude_embeddings : bool
        Whether matrices with "embedding" in their name, in any case, are left to Adam.
    muon_a, muon_b, muon_c : float
        :math:`a, b, c`.
    adam_lr_ratio : float
        >= 0.
    momentum : float
        :math:`\mu`, in [0, 1].
    ns_steps : int
        >= 1.
    nesterov : bool
    rms_rate : float, optional
        > 0. None leaves the factor :math:`\sqrt{\max(\text{rows}, \text{columns})}\, \texttt{rms\_rate}` out.
    matrix_product : callable, optional
        ``matrix_product(a, b, out)`` writes the product of two matrices into ``out``; what it returns is ignored.
        ``a`` and ``b`` may be transposed views, ``out`` is C-contiguous and overlaps neither. None is `numpy.matmul`.
        A function with an attribute ``dtype`` of ``"bfloat16"`` gets bfloat16 instead of float32, as arrays of uint16
        with the bits, because NumPy has no bfloat16. Then :math:`X` and :math:`S` stay in bfloat16 between the
        products, and a step differs from that of float32 by some hundredths of its norm. The attribute is read once.
        `fusedopt.torch_products` has PyTorch's products, in float32 and in bfloat16. Keras has no such argument:
        the configuration holds it only if it is given, as the function itself, which cannot be written as JSON.
    skip_nonfinite : bool
        As in `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        As in `Optimizer`, and if the attribute ``dtype`` is neither ``"float32"`` nor ``"bfloat16"``. A step raises
        what ``matrix_product`` raises, and a ValueError if that has not written into ``out``. Nothing has changed
        then.

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

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        adam_beta_1: float = 0.9,
        adam_beta_2: float = 0.999,
        adam_weight_decay: float | None = 0.004,
        epsilon: float = 1e-7,
        weight_decay: float | None = 0.004,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        exclude_layers: Sequence[str] | None = None,
        exclude_embeddings: bool = True,
        muon_a: float = 3.4445,
        muon_b: float = -4.775,
        muon_c: float = 2.0315,
        adam_lr_ratio: float = 1,
        momentum: float = 0.95,
        ns_steps: int = 5,
        nesterov: bool = True,
        rms_rate: float | None = 0.2,
        *,
        matrix_product: MatrixProduct | None = None,
        skip_nonfinite: bool = False,
        **kwargs: Any,
    ) -> None:
        arguments.none_left(kwargs)
        self.adam_beta_1 = arguments.real("adam_beta_1", adam_beta_1)
        self.adam_beta_2 = arguments.real("adam_beta_2", adam_beta_2)
        self.adam_weight_decay = arguments.optional_real("adam_weight_decay", adam_weight_decay)
        self.epsilon = arguments.real("epsilon", epsilon)
        self.exclude_layers = arguments.patterns("exclude_layers", exclude_layers)
        self.exclude_embeddings = arguments.flag("exclude_embeddings", exclude_embeddings)
        self.muon_a = arguments.real("muon_a", muon_a)
        self.muon_b = arguments.real("muon_b", muon_b)
        self.muon_c = arguments.real("muon_c", muon_c)
        self.adam_lr_ratio = arguments.real("adam_lr_ratio", adam_lr_ratio)
        self.momentum = arguments.real("momentum", momentum)
        self.ns_steps = arguments.integer("ns_steps", ns_steps)
        self.nesterov = arguments.flag("nesterov", nesterov)
        self.rms_rate = arguments.optional_real("rms_rate", rms_rate)
        if matrix_product is not None and not callable(matrix_product):
            raise TypeError(
                "matrix_product: expected a function of (a, b, out) or None, "
                f"found {matrix_product!r}; numpy.matmul is one"
            )
        self._matrix_product = matrix_product
        product_dtype = getattr(matrix_product, "dtype", "float32")
        if not isinstance(product_dtype, str) or product_dtype not in ("float32", "bfloat16"):
            raise ValueError(
                "matrix_product: expected 'float32' or 'bfloat16' as its attribute dtype, "
                f"found {product_dtype!r}; a function without that attribute gets float32"
            )
        own_weight_decay = arguments.optional_real("weight_decay", weight_decay)
        super().__init__(
            _core.muon(
                matrix_product=np.matmul if matrix_product is None else self._core_product(),
                product_dtype=product_dtype,
                adam_beta_1=self.adam_beta_1,
                adam_beta_2=self.adam_beta_2,
                adam_weight_decay=self.adam_weight_decay or 0.0,
                epsilon=self.epsilon,
                weight_decay=own_weight_decay or 0.0,
                excludes=_excluding(self.exclude_layers, self.exclude_embeddings),
                muon_a=self.muon_a,
                muon_b=self.muon_b,
                muon_c=self.muon_c,
                adam_lr_ratio=self.adam_lr_ratio,
                momentum=self.momentum,
                ns_steps=self.ns_steps,
                nesterov=self.nesterov,
                rms_rate=self.rms_rate,
            ),
            learning_rate=learning_rate,
            weight_decay=None,  # the rule's own: there are two
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
            skip_nonfinite=skip_nonfinite,
        )
        self.weight_decay = own_weight_decay

    @property
    def matrix_product(self) -> MatrixProduct | None:
        """The function that was given for matrix products; None is `numpy.matmul`."""
        return self._matrix_product

    def _core_product(self) -> MatrixProduct:
        this = weakref.ref(self)
        return lambda a, b, out: this()._matrix_product(a, b, out)  # type: ignore[union-attr,misc]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal optimizer, without its state."""
        product = self._matrix_product
        return super().get_config() | {
            "adam_beta_1": self.adam_beta_1,
            "adam_beta_2": self.adam_beta_2,
            "adam_weight_decay": self.adam_weight_decay,
            "epsilon": self.epsilon,
            "exclude_layers": list(self.exclude_layers),
            "exclude_embeddings": self.exclude_embeddings,
            "muon_a": self.muon_a,
            "muon_b": self.muon_b,
            "muon_c": self.muon_c,
            "adam_lr_ratio": self.adam_lr_ratio,
            "momentum": self.momentum,
            "ns_steps": self.ns_steps,
            "nesterov": self.nesterov,
            "rms_rate": self.rms_rate,
            **({} if product is None else {"matrix_product": product}),
        }


def _excluding(layers: list[str], embeddings: bool) -> Callable[[str], bool]:
    def excludes(name: str) -> bool:
        return (embeddings and "embedding" in name.lower()) or any(
            re.search(layer, name) for layer in layers
        )

    return excludes
