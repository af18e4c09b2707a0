"""PyTorch's matrix products for `fusedopt.Muon`.

They need PyTorch, which `import fusedopt` never loads.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

try:
    torch: Any = importlib.import_module("torch")
except ImportError as error:
    raise ImportError(
        "fusedopt.torch_products: expected PyTorch, found none; pip install torch"
    ) from error

Array = np.ndarray[Any, Any]

__all__ = ["bfloat16_matmul", "matmul"]


def matmul(a: Array, b: Array, out: Array) -> None:
    """Write the product of two matrices into ``out``, in their own precision.

    Parameters
    ----------
    a, b : numpy.ndarray
        Matrices of float32 or float64.
    out : numpy.ndarray
        Where the product goes.

    Examples
    --------
    ::

        from fusedopt import torch_products
        optimizer = fusedopt.Muon(matrix_product=torch_products.matmul)
    """
    torch.mm(torch.from_numpy(a), torch.from_numpy(b), out=torch.from_numpy(out))


def bfloat16_matmul(a: Array, b: Array, out: Array) -> None:
    """Write the product of two matrices, rounded to bfloat16, into ``out``.

    The sums are PyTorch's, in float32 inside a product, and the product is rounded to bfloat16, too. It is fast on
    processors with instructions for bfloat16 (AMX, AVX512_BF16), and slow on others. Matrices of float64 keep
    their precision: their product is `matmul`'s.

    Parameters
    ----------
    a, b : numpy.ndarray
        Matrices of float32 or float64.
    out : numpy.ndarray
        Where the product goes.

    Examples
    --------
    ::

        from fusedopt import torch_products
        optimizer = fusedopt.Muon(matrix_product=torch_products.bfloat16_matmul)
    """
    if a.dtype == np.float64:
        matmul(a, b, out)
        return
    first, second = (torch.from_numpy(x).bfloat16() for x in (a, b))
    torch.from_numpy(out).copy_(torch.mm(first, second))
