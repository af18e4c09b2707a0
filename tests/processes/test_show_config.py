"""`show_config` tells the version, compiler, level and threads. FUSEDOPT_ISA chooses the level."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import fusedopt as fo
import pytest
from fusedopt.runtime import Config


def test_show_config() -> None:
    config = fo.show_config()
    assert set(config) == set(Config.__annotations__)
    assert json.loads(json.dumps(config)) == config
    assert config["version"] == fo.__version__
    assert config["compiler"]
    assert config["level"] in config["levels_supported"]
    assert set(config["levels_supported"]) <= set(config["levels_compiled"])
    assert 1 <= config["threads"] == fo.get_num_threads()
    assert config["threads_from"]
    assert type(config["openmp"]) is bool
    assert config["processors"] >= 1


@pytest.mark.parametrize("level", fo.show_config()["levels_supported"])
def test_level_is_chosen_by_the_environment(level: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import fusedopt; print(fusedopt.show_config()['level'])"],
        env={**os.environ, "FUSEDOPT_ISA": level},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == level


LAUNCHERS = (
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MPI_LOCALNRANKS",
    "LOCAL_WORLD_SIZE",
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
)


def shown(settings: dict[str, str], before: str = "") -> Any:
    program = (
        f"import json, os\n{before}\nimport fusedopt\nprint(json.dumps(fusedopt.show_config()))"
    )
    inherited = {name: value for name, value in os.environ.items() if name not in LAUNCHERS}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**inherited, **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout)


def test_a_process_on_its_own_is_no_rank() -> None:
    config = shown({"OMP_NUM_THREADS": "500"})
    assert (config["ranks"], config["ranks_from"], config["advice"]) == (None, None, "")


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_tells_how_many_ranks_there_are(name: str) -> None:
    config = shown({name: "1000", "OMP_NUM_THREADS": "1"})
    assert (config["ranks"], config["ranks_from"]) == (1000, name)
    known = "up to " if name in {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"} else ""
    assert config["advice"] == (
        f"ranks here: {known}1000, threads of each: 1, processors that they share: "
        f"{config['processors']}; start no more ranks than processors"
    )
    both = shown({"LOCAL_WORLD_SIZE": "1", name: "1", "PMI_SIZE": "8", "OMP_NUM_THREADS": "1"})
    assert (both["ranks"], both["advice"]) == (1, "")


@pytest.mark.parametrize("value", ["", "0", "-1", "two"])
def test_what_is_no_number_of_ranks(value: str) -> None:
    assert shown({"MPI_LOCALNRANKS": value})["ranks"] is None


@pytest.mark.skipif(not fo.show_config()["openmp"], reason="this build has no threads")
def test_what_to_set() -> None:
    config = shown({"MPI_LOCALNRANKS": "1", "OMP_NUM_THREADS": "500"})
    count = config["processors"]
    assert config["advice"] == (
        f"ranks here: 1, threads of each: 500, processors that they share: {count}; "
        f"set OMP_NUM_THREADS={count}"
    )


AFFINITY = getattr(os, "sched_getaffinity", lambda _: {0})(0)


@pytest.mark.skipif(len(AFFINITY) < 2, reason="there is one processor, or no affinity")
def test_ranks_that_are_bound_share_nothing() -> None:
    bind = "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])"
    settings = {"MPI_LOCALNRANKS": "2"}
    config = shown(settings, bind)
    assert (config["ranks"], config["processors"], config["threads"]) == (2, 1, 1)
    assert config["advice"] == ""
    if config["openmp"]:
        config = shown(settings | {"OMP_NUM_THREADS": "2"}, bind)
        assert config["advice"].startswith("threads: 2, processors that this rank is bound to: 1;")
