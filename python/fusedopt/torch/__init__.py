"""Optimizers for PyTorch's parameters."""

from fusedopt.torch.any_rule import Optimizer

__all__ = ["Optimizer"]
