"""The libraries of the extra ``bench``."""

from __future__ import annotations

from importlib.util import find_spec

LIBRARIES = {
    "rich": "rich",
    "matplotlib": "matplotlib",
    "psutil": "psutil",
    "cpuinfo": "py-cpuinfo",
    "ml_dtypes": "ml_dtypes",
}
"""What is imported, and the project that has it."""


def require() -> None:
    """Raise ImportError, with what to do, unless all of them are installed."""
    missing = [project for name, project in LIBRARIES.items() if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"fusedopt.bench needs {' and '.join(missing)}: pip install {' '.join(missing)}"
        )
