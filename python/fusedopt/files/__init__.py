"""Tensors in files: written whole or not at all, read in pieces, and matched with state by name."""

from fusedopt.files.names import VARIABLE
from fusedopt.files.saved_file import Ranges, SavedFile
from fusedopt.files.tensors import write

__all__ = ["VARIABLE", "Ranges", "SavedFile", "write"]
