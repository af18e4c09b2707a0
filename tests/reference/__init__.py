"""Every rule and the whole step in plain NumPy, one operation after the other in the kernels' order.

It shares no code with the library. NumPy rounds after each operation, as the kernels do, so results
must be equal to the last bit.
"""

from reference.missed import CATCHING_UP, NO_ROWS
from reference.optimizers import OPTIONS, MultiReference, Reference, ScaledReference
from reference.rule import RULES, Array, Rule
from reference.torch_rules import TORCH_RULES

__all__ = [
    "CATCHING_UP",
    "NO_ROWS",
    "OPTIONS",
    "RULES",
    "TORCH_RULES",
    "Array",
    "MultiReference",
    "Reference",
    "Rule",
    "ScaledReference",
]
