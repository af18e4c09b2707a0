"""thinc's optimizers, which are also spaCy's, with one sweep of fusedopt per call.

This module imports thinc, and ``import fusedopt`` does not import this module. A configuration needs no import, because
thinc finds the optimizers of installed packages by their names::

    [training.optimizer]
    @optimizers = "fusedopt.Adam.v1"

``fusedopt.Adam.v1``, ``fusedopt.RAdam.v1`` and ``fusedopt.SGD.v1`` have the arguments, the defaults and the numbers of
thinc's ``Adam.v1``, ``RAdam.v1`` and ``SGD.v1``, within the rounding of float32. They update NumPy arrays only.
"""

from __future__ import annotations

import importlib

try:
    importlib.import_module("thinc")
except ModuleNotFoundError as error:
    if error.name != "thinc":
        raise
    raise ImportError(
        "fusedopt.thinc: expected thinc, found none; install the extra fusedopt[thinc], or pip install thinc"
    ) from error

from fusedopt.thinc.optimizer import Optimizer
from fusedopt.thinc.registered import SGD, Adam, RAdam

__all__ = ["SGD", "Adam", "Optimizer", "RAdam"]

_registry = importlib.import_module("thinc.config").registry
for _make in (Adam, RAdam, SGD):
    _registry.optimizers(f"fusedopt.{_make.__name__}.v1", _make)
