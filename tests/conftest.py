"""Which tests a plain `pytest` leaves to maintainers, and what the processes of a run share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import fusedopt as fo
import pytest
from fusedopt import _core
from once import Once

# What these assert is explained like what a test asserts.
pytest.register_assert_rewrite("copies", "machine", "subject")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what is marked `maintainer`, unless `-m` decides or the file is named on the command line."""
    if config.option.markexpr:
        return
    folder = config.invocation_params.dir
    named = {(folder / word.partition("::")[0]).resolve() for word in config.args}
    kept, left_out = [], []
    for item in items:
        alone = item.get_closest_marker("maintainer") and item.path.resolve() not in named
        (left_out if alone else kept).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def pytest_collection_finish() -> None:
    """Spare the garbage collector the thousands of collected tests, which are none."""
    gc.freeze()


def pytest_report_header(config: pytest.Config) -> str | None:
    if config.option.markexpr:
        return None
    return "left to maintainers: C++ builds and full cross products, run by pytest -m maintainer"


@pytest.fixture
def restore_runtime() -> Iterator[None]:
    """Bring the level and the number of threads back after a test that sets them."""
    level, threads = _core.level(), fo.get_num_threads()
    yield
    _core.set_level(level)
    fo.set_num_threads(threads)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Once:
    folder = tmp_path_factory.getbasetemp()
    # Each process of pytest-xdist has a folder of its own in the folder of the run.
    return Once(folder.parent if hasattr(pytestconfig, "workerinput") else folder, pytestconfig)
