"""fusedopt's optimizers in Keras 3, on its PyTorch and NumPy backends.

`Optimizer` makes any optimizer of the package one of Keras's. A model is compiled with it, trained by ``fit``, saved
and loaded as with Keras's own optimizer of that name, and the files of either go on in the other.

Examples
--------
::

    import fusedopt as fo
    import fusedopt.keras

    model.compile(optimizer=fusedopt.keras.Optimizer(fo.AdamW(1e-3, weight_decay=0.01)), loss="mse")
    model.fit(x, y)
"""

from fusedopt.keras.optimizer import Optimizer
from fusedopt.keras.wrappers import LossScaleOptimizer, MultiOptimizer

__all__ = ["LossScaleOptimizer", "MultiOptimizer", "Optimizer"]
