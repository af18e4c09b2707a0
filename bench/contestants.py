"""Who takes part: whom the package knows, DeepSpeed, and plain NumPy."""

from __future__ import annotations

import naive
from fusedopt.bench import contestants, pytorch
from fusedopt.bench.contestants import FUSEDOPT, Contestant

__all__ = ["FUSEDOPT", "PACKAGES", "PEERS", "Contestant"]

PEERS = [
    *contestants.PEERS,
    *contestants.COMPILED_PEERS,
    Contestant("DeepSpeed", "deepspeed", pytorch.in_deepspeed),
    Contestant("naive NumPy", "numpy", naive.in_numpy, is_threaded=False),
]
PACKAGES = list(dict.fromkeys(peer.package for peer in PEERS))
