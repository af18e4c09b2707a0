"""What packages say agrees with the project: the bits of each rule, recipes, the version, and the extras."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import fusedopt as fo
import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGING = ROOT / "packaging"
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
CMAKE = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
RECIPE = (PACKAGING / "conda" / "recipe.yaml").read_text(encoding="utf-8")
CITATION = (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def one(pattern: str, text: str) -> str:
    (found,) = re.findall(pattern, text, re.MULTILINE)
    return str(found)


VERSION = one(r"project\(fusedopt VERSION ([0-9.]+)", CMAKE)


def module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_the_recorded_bits_are_those_of_every_rule() -> None:
    recorded = json.loads((PACKAGING / "bits.json").read_text(encoding="utf-8"))
    found = dict(module(PACKAGING / "smoke.py").results())
    assert recorded == found, (
        "if bits change on purpose: smoke.py --record, and **Bits** in CHANGELOG.md"
    )


@pytest.mark.maintainer
def test_the_program_that_compares_bits_tells_what_differs(tmp_path: Path) -> None:
    program = tmp_path / "smoke.py"
    program.write_bytes((PACKAGING / "smoke.py").read_bytes())
    bits = json.loads((PACKAGING / "bits.json").read_text(encoding="utf-8"))
    bits["Adam"] += 1
    del bits["rows"]
    (tmp_path / "bits.json").write_text(json.dumps(bits), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(program)], stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 1
    assert "DIFFERENT: Adam, rows\n" in done.stdout


def test_the_version_stands_in_one_place_and_its_copies_agree() -> None:
    assert fo.__version__ == VERSION
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## ([0-9.]+) - (\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    assert released == sorted(released, reverse=True)
    assert released[0][0] == VERSION
    assert one(r"^version: (\S+)$", CITATION) == VERSION
    assert one(r'^date-released: "(\S+)"$', CITATION) == released[0][1]
    assert one(r'^  version: "(\S+)"$', RECIPE) == VERSION


def test_the_conda_recipe_wants_what_the_project_wants() -> None:
    run = RECIPE.partition("\n  run:\n")[2].partition("\n\n")[0]
    assert one(r"- numpy (\S+)$", run) == one(r'^dependencies = \["numpy(.+)"\]$', PYPROJECT)
    assert one(r"- python (\S+)$", run) == one(r'^requires-python = "(.+)"$', PYPROJECT)
    builders = one(r"^requires = \[(.+)\]$", PYPROJECT)
    for name in ("scikit-build-core", "pybind11"):
        assert one(rf"- {name} (\S+)$", RECIPE) == one(rf'"{name}([^"]+)"', builders)
    assert one(r"- cmake (\S+)$", RECIPE) == ">=" + one(r"VERSION ([0-9.]+)\)", CMAKE)
    assert one(r"^  summary: (.+)$", RECIPE) == one(r'^description = "(.+)"$', PYPROJECT)


@pytest.mark.maintainer
@pytest.mark.parametrize(
    ("system", "compiler"), [("linux-64", "gxx_linux-64"), ("osx-arm64", "clangxx_osx-arm64")]
)
def test_the_conda_recipe_is_one(system: str, compiler: str) -> None:
    rattler = pytest.importorskip("rattler_build", reason="py-rattler-build is not installed")
    platform = rattler.PlatformConfig(
        target_platform=system, build_platform=system, host_platform=system
    )
    variants = rattler.VariantConfig.from_file_with_context(
        str(PACKAGING / "conda" / "variants.yaml"), rattler.JinjaConfig(platform=platform)
    )
    recipe = rattler.Stage0Recipe.from_file(str(PACKAGING / "conda" / "recipe.yaml"))
    rendered = recipe.render(variants, rattler.RenderConfig(platform=platform))
    assert len(rendered) == len(variants.get_values("python"))
    for variant in rendered:
        found = variant.recipe.to_dict()
        assert found["package"] == {"name": "fusedopt", "version": VERSION}
        assert compiler in found["requirements"]["build"]


def test_the_oldest_numpy_is_checked() -> None:
    oldest = module(PACKAGING / "check_wheel.py").OLDEST_NUMPY
    assert oldest[3, 10] == one(r'^dependencies = \["numpy>=(.+)"\]$', PYPROJECT)


def extras() -> dict[str, str]:
    table = PYPROJECT.partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    return dict(re.findall(r"^(\w+) = \[(.*?)\]$", table, re.MULTILINE | re.DOTALL))


def texts() -> list[Path]:
    folders = ("*.md", "docs/**/*.md", "bench/**/*.md", "bench/**/*.py", "python/**/*.py")
    return [path for pattern in folders for path in ROOT.glob(pattern)]


def test_every_extra_that_is_recommended_exists() -> None:
    recommended: dict[str, list[str]] = {}
    for path in texts():
        text = path.read_text(encoding="utf-8")
        for names in re.findall(r"""["'](?:\.|fusedopt)\[([\w,]+)\]|fusedopt\[(\w+)\]""", text):
            for name in ",".join(names).strip(",").split(","):
                recommended.setdefault(name, []).append(path.name)
        for name in re.findall(r"[(\s]extra ``?`?(\w+)`", text):
            recommended.setdefault(name, []).append(path.name)
    assert {"bench", "files", "keras", "mpi", "test", "torch"} <= recommended.keys()
    assert {name: where for name, where in recommended.items() if name not in extras()} == {}


@pytest.mark.parametrize(
    ("extra", "package", "file"),
    [
        ("files", "safetensors", "files/library.py"),
        ("torch", "torch", "torch/__init__.py"),
        ("thinc", "thinc", "thinc/__init__.py"),
        ("keras", "keras", "keras/host.py"),
    ],
)
def test_an_error_about_a_missing_package_names_what_its_extra_has(
    extra: str, package: str, file: str
) -> None:
    source = (ROOT / "python" / "fusedopt" / file).read_text(encoding="utf-8")
    assert f"pip install {package}" in source or f"fusedopt[{extra}]" in source
    assert re.search(rf'"{package}[">=]', extras()[extra])


@pytest.mark.maintainer
def test_conan_builds_the_library_and_a_program_against_it(tmp_path: Path) -> None:
    pytest.importorskip("conan", reason="conan is not installed (extra dev)")
    if sys.platform == "win32":
        pytest.skip("the default profile there is cl.exe, which cannot compile the kernels")
    level = fo.show_config()["levels_compiled"][0]
    define = f'{{"FUSEDOPT_LEVELS": "{level}"}}'
    environment = {**os.environ, "CONAN_HOME": str(tmp_path / "home")}
    for words in (
        ["profile", "detect"],
        [
            *("create", str(PACKAGING / "conan"), "-s", "compiler.cppstd=20"),
            *("-s", "build_type=Debug"),
            *("-c", f"tools.cmake.cmaketoolchain:extra_variables={define}"),
            *("-c", f"tools.cmake.cmake_layout:test_folder={tmp_path / 'consumer'}"),
        ],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "conans.conan", *words],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
    assert f"\nfusedopt {VERSION}\n" in done.stdout
