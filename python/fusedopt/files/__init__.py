"""Tensors in one file: written whole or not at all, read in pieces, and matched with state by name."""

from fusedopt.files.names import VARIABLE
from fusedopt.files.tensors import SavedFile, write

__all__ = ["VARIABLE", "SavedFile", "write"]
