"""PyTorch's matrix products for `fusedopt.Muon`.

They need PyTorch, which ``import fusedopt`` never loads.
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

    `fusedopt.Muon` gives it matrices in bfloat16, because its attribute ``dtype`` is ``"bfloat16"``. So nothing is
    converted between the products of a step. The sums inside a product are PyTorch's, in float32. It is fast on
    processors with instructions for bfloat16 (AMX, AVX512_BF16) and slow on others. float64 variables keep their
    precision.

    Parameters
    ----------
    a, b : numpy.ndarray
        Matrices of uint16, which are the bits of bfloat16. Those of float32 are rounded to bfloat16 first. Those of
        float64 are left to `matmul`.
    out : numpy.ndarray
        Where the product goes, of the same dtype.

    Examples
    --------
    ::

        from fusedopt import torch_products
        optimizer = fusedopt.Muon(matrix_product=torch_products.bfloat16_matmul)
    """
    if a.dtype == np.float64:
        matmul(a, b, out)
    elif a.dtype == np.uint16:
        torch.mm(_of_bits(a), _of_bits(b), out=_of_bits(out))
    else:
        first, second = (torch.from_numpy(x).bfloat16() for x in (a, b))
        torch.from_numpy(out).copy_(torch.mm(first, second))


bfloat16_matmul.dtype = "bfloat16"  # type: ignore[attr-defined]


def _of_bits(x: Array) -> Any:
    # Older PyTorch knows no uint16.
    return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
