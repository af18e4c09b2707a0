"""The libraries of the extra ``bench``."""

from __future__ import annotations

from importlib.util import find_spec

LIBRARIES = ("rich", "matplotlib")


def require() -> None:
    """Raise ImportError, with what to do, unless all of them are installed."""
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"fusedopt.bench needs {' and '.join(missing)}: pip install {' '.join(missing)}"
        )
