"""`show_config` tells the version, compiler, level and threads. FUSEDOPT_ISA chooses the level."""

from __future__ import annotations

import json
import os
import subprocess
import sys

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
