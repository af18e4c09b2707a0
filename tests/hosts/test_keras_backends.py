"""Backends of Keras: NumPy passes the same tests, in a process of its own; others are refused; Keras may be absent."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(find_spec("keras") is None, reason="needs Keras")


def run(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=HERE.parents[1],
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("name", ["rules", "options", "memory"])
def test_on_numpy(name: str) -> None:
    arguments = ["-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
    selection = ["-m", "not maintainer", str(HERE / f"test_keras_{name}.py")]
    done = run([*arguments, *selection], KERAS_BACKEND="numpy")
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout


@pytest.mark.skipif(find_spec("jax") is None, reason="needs JAX")
def test_jax_is_refused_with_the_reason() -> None:
    code = "import fusedopt as fo, fusedopt.keras; fusedopt.keras.Optimizer(fo.Adam())"
    done = run(["-W", "ignore", "-c", code], KERAS_BACKEND="jax")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ValueError: fusedopt.keras.Optimizer: expected Keras's torch or numpy")
    assert "found jax, and JAX's arrays cannot be written into; set KERAS_BACKEND=torch" in last


def test_the_package_does_not_import_keras() -> None:
    code = "import sys, fusedopt; print([m for m in sys.modules if m.split('.')[0] == 'keras'])"
    assert run(["-c", code]).stdout.strip() == "[]"


def test_without_keras() -> None:
    code = "import sys; sys.modules['keras'] = None; import fusedopt.keras"
    done = run(["-c", code])
    assert done.stderr.splitlines()[-1].startswith(
        "ImportError: fusedopt.keras: expected Keras 3 and its backend, found none"
    )
    assert "install the extra fusedopt[keras]" in done.stderr


def test_a_backend_that_is_not_installed() -> None:
    if find_spec("tensorflow"):
        pytest.skip("TensorFlow is installed")
    done = run(["-W", "ignore", "-c", "import fusedopt.keras"], KERAS_BACKEND="tensorflow")
    assert "No module named 'tensorflow'" in done.stderr.splitlines()[-1]
    assert "KERAS_BACKEND=torch" in done.stderr.splitlines()[-1]
