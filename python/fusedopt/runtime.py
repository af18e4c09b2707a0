"""What runs the steps: the compiled core, its instruction-set level and its threads."""

from __future__ import annotations

from typing import TypedDict

from fusedopt import launched

try:
    from fusedopt import _core
except ImportError as error:
    if str(error).startswith("fusedopt:"):  # from the extension itself, which says what to do
        raise
    raise ImportError(
        "fusedopt: the compiled extension fusedopt._core could not be loaded "
        f"({error}). Reinstall fusedopt for this Python and this platform; a source checkout "
        "must be installed first (pip install .)."
    ) from error

__all__ = [
    "Config",
    "__version__",
    "_core",
    "get_num_threads",
    "set_num_threads",
    "show_config",
]

__version__: str = _core.version()


class Config(TypedDict):
    """What `show_config` returns."""

    version: str
    compiler: str
    levels_compiled: list[str]
    levels_supported: list[str]
    level: str
    threads: int
    threads_from: str
    processors: int
    ranks: int | None
    ranks_from: str | None
    advice: str
    openmp: bool


def show_config() -> Config:
    """Describe the build and what it chose on this machine.

    Returns
    -------
    dict
        ``version``, ``compiler``, ``levels_compiled``, ``levels_supported`` (by this machine),
        ``level`` (the one in use; ``FUSEDOPT_ISA`` overrides the choice), ``threads``,
        ``threads_from`` (what their number comes from), ``processors`` (that this process may use), ``ranks`` (on
        this machine, if MPI or torchrun has started the process, else None), ``ranks_from`` (the environment
        variable that tells), ``advice`` (what to change if ranks and threads are more than the processors, else
        empty) and ``openmp``.

    Raises
    ------
    ValueError
        If ``FUSEDOPT_ISA`` or ``FUSEDOPT_NUM_THREADS`` has an unknown value. `Optimizer.build` and
        `get_num_threads` raise it as well.
    RuntimeError
        If this processor can run none of the levels.

    Warns
    -----
    RuntimeWarning
        If ``OMP_NUM_THREADS`` has a value that OpenMP does not allow. It then counts as unset. The
        warning comes once, from the first call that needs the number.

    Examples
    --------
    >>> import fusedopt as fo
    >>> config = fo.show_config()
    >>> config["level"] in config["levels_supported"]
    True
    """
    threads, processors, ranks = _core.num_threads(), _core.num_processors(), launched.ranks()
    return {
        "version": __version__,
        "compiler": _core.compiler(),
        "levels_compiled": _core.compiled_levels(),
        "levels_supported": _core.supported_levels(),
        "level": _core.level(),
        "threads": threads,
        "threads_from": _core.num_threads_source(),
        "processors": processors,
        "ranks": ranks.number if ranks else None,
        "ranks_from": ranks.source if ranks else None,
        "advice": launched.advice(ranks, threads, processors),
        "openmp": _core.has_threads(),
    }


def set_num_threads(num_threads: int) -> None:
    """Set the most threads a step may use. Results do not depend on it.

    Without this call the number comes from ``FUSEDOPT_NUM_THREADS``, else ``OMP_NUM_THREADS``, else
    the processors that affinity and control group allow. Changes of the affinity count from the next
    step on. A limit that somebody sets through OpenMP while the program runs, such as
    ``threadpoolctl.threadpool_limits``, holds for the thread that set it, whatever this call says.

    Parameters
    ----------
    num_threads : int
        At least 1.

    Raises
    ------
    ValueError
        If the number is out of range, or above 1 in a build without OpenMP.
    TypeError
        If it is not an integer.

    Examples
    --------
    >>> import fusedopt as fo
    >>> before = fo.get_num_threads()
    >>> fo.set_num_threads(1)
    >>> fo.get_num_threads()
    1
    >>> fo.set_num_threads(before)
    """
    if isinstance(num_threads, bool) or not hasattr(num_threads, "__index__"):
        raise TypeError(f"num_threads: expected an integer, found {num_threads!r}")
    count = num_threads.__index__()
    if not 1 <= count < 2**31:  # the core knows the exact bound
        raise ValueError(f"num_threads: expected a whole number >= 1, found {num_threads!r}")
    _core.set_num_threads(count)


def get_num_threads() -> int:
    """Return the most threads a step may use.

    A child forked after a threaded step stays on one thread: the others did not survive the fork. One
    forked earlier uses as many as its parent, whatever threads other libraries lost in the fork.

    Examples
    --------
    >>> import fusedopt as fo
    >>> fo.get_num_threads() >= 1
    True
    """
    return _core.num_threads()
