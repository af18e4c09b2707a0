"""The C++ side: its test programs, the ways to use it from another project, and what the compiler made of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import cases
import mpi
import pytest
from cpp_library import PATH, ROOT, built, cmake, installed, run
from once import Once, without_time_limit

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="written for GCC's and Clang's tools"),
    pytest.mark.maintainer,
]

IN_ONE_PIECE = ("-DCMAKE_UNITY_BUILD=ON", "-DCMAKE_UNITY_BUILD_BATCH_SIZE=0")
EXAMPLE = ROOT / "cpp" / "examples"
PROGRAMS = sorted(
    source.stem
    for source in (ROOT / "tests" / "cpp").glob("*.cpp")
    if "\nTEST(" in source.read_text()
)
RULES = re.findall(r"X\((\w+)\)", (ROOT / "cpp/src/kernel/rule_list.hpp").read_text())
CASES = [
    " ".join([rule, *(f"{name}={json.dumps(value)}" for name, value in variant.items())])
    for rule, variants in {**cases.RULES, **cases.TORCH_RULES}.items()
    for variant in variants
]

# What any compiler may call on its own; everything else in a level's object must be the level's.
COMPILER_CALLS = re.compile(
    r"(__)?mem(cpy|set|move)(_chk)?|powf?|bzero|__stack_chk_(fail|guard)|_GLOBAL_OFFSET_TABLE_"
)
# An instruction on many numbers at once, by level: on float, on double.
PACKED = {
    "x86_64_v2": (r"\b{}ps\b.*%xmm", r"\b{}pd\b.*%xmm"),
    "x86_64_v3": (r"\bv{}ps\b.*%ymm", r"\bv{}pd\b.*%ymm"),
    "x86_64_v4": (r"\bv{}ps\b.*%zmm", r"\bv{}pd\b.*%zmm"),
    "aarch64": (r"\bf{}\s.*\.4s", r"\bf{}\s.*\.2d"),
}


def compile_program(tree: Path, source: Path, program: Path, *flags: str) -> None:
    """Compile by the compiler of a tree."""
    without_time_limit()
    cache = (tree / "CMakeCache.txt").read_text()
    compiler = re.search(r"^CMAKE_CXX_COMPILER:\w+=(.*)", cache, re.MULTILINE)[1]  # type: ignore[index]
    run(compiler, source, *flags, "-o", program)


def run_example(program: Path) -> None:
    assert "are recognised" in run(program)


@pytest.fixture(scope="session")
def tree(once: Once) -> Path:
    return built(once)


@pytest.fixture(scope="session")
def prefix(once: Once) -> Path:
    return installed(once)


@pytest.fixture(scope="session")
def embedding_tree(once: Once) -> Path:
    """A project that contains the library, as a shared one without threads."""

    def make(folder: Path) -> None:
        (folder / "CMakeLists.txt").write_text(f"""
cmake_minimum_required(VERSION 3.21)
project(embedding LANGUAGES CXX)
add_subdirectory({ROOT} fusedopt)
add_executable(iris {EXAMPLE}/iris.cpp)
target_link_libraries(iris PRIVATE fusedopt::fusedopt)
""")
        cmake(
            folder,
            folder / "build",
            "-DBUILD_SHARED_LIBS=ON",
            "-DFUSEDOPT_OPENMP=OFF",
            "-DFUSEDOPT_INSTALL=ON",
            "-DFUSEDOPT_TESTS=ON",
            *IN_ONE_PIECE,
            targets=("iris", "fusedopt_test_rules", "fusedopt_test_threads"),
        )

    return once("embedding", "a C++ project that contains the library", make) / "build"


@pytest.mark.parametrize("program", PROGRAMS)
def test_program(tree: Path, program: str) -> None:
    run(
        "ctest", "--test-dir", tree, "--output-on-failure", "--no-tests=error", "-R", f"^{program}$"
    )


def test_find_package(prefix: Path, tmp_path: Path) -> None:
    cmake(EXAMPLE, tmp_path, f"-DCMAKE_PREFIX_PATH={prefix}")
    run_example(tmp_path / "iris")


def test_example_under_mpi(prefix: Path, tmp_path: Path) -> None:
    cmake(EXAMPLE, tmp_path, f"-DCMAKE_PREFIX_PATH={prefix}")
    program = tmp_path / "ranks"
    if not program.exists():
        pytest.skip("there is no MPI to compile with (extra mpi; Debian: libopenmpi-dev)")
    cache = (tmp_path / "CMakeCache.txt").read_text()
    mpiexec = re.search(r"^MPIEXEC_EXECUTABLE:\w+=(.*)", cache, re.MULTILINE)[1]  # type: ignore[index]
    losses = set()
    for size in (1, 2, 3):
        done = mpi.run(size, program, mpiexec=mpiexec)
        assert done.returncode == 0, done.stdout + done.stderr
        *lines, last = done.stdout.splitlines()
        assert last == f"{size} ranks have the same weights"
        found = [float(re.fullmatch(r"step +\d+: loss (.*)", line)[1]) for line in lines]  # type: ignore[index]
        assert found == sorted(found, reverse=True)
        losses.add(found[0])
    assert len(losses) == 3  # each rank has batches of its own


# An own rule is compiled by whoever writes it, and its bits must not depend on cuts whatever the flags are.
OWN_RULE_FLAGS = ("-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")


def test_own_rule_of_the_example(prefix: Path, tmp_path: Path) -> None:
    cmake(EXAMPLE, tmp_path, f"-DCMAKE_PREFIX_PATH={prefix}", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON")
    assert run(tmp_path / "own_rule") == "y = 3.00 x + -1.00\n"
    commands = {
        Path(one["file"]).stem: one["command"].split()
        for one in json.loads((tmp_path / "compile_commands.json").read_text())
    }
    assert set(OWN_RULE_FLAGS) <= set(commands["own_rule"])
    assert "-fno-math-errno" not in commands["iris"]


@pytest.mark.parametrize(
    ("flags", "bits"),
    [
        (OWN_RULE_FLAGS, "the library's bits"),
        ((*OWN_RULE_FLAGS, "-march=native"), "the library's bits"),
        (("-O0",), None),
        (("-O2", "-march=native", "-ffp-contract=fast"), None),
        (("-O3", "-march=native", "-ffast-math"), None),
    ],
    ids=["as the package says", "this processor's", "plain", "contracted", "fast"],
)
def test_own_rule_by_any_flags(
    tree: Path, prefix: Path, tmp_path: Path, flags: tuple[str, ...], bits: str | None
) -> None:
    (file,) = prefix.glob("lib*/**/fusedopt.pc")
    source = ROOT / "tests" / "cpp" / "own_rule_flags.cpp"
    warnings = ("-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror")
    linked = pkg_config_flags(file)
    compile_program(tree, source, tmp_path / "program", *flags, *warnings, *linked)
    found = run(tmp_path / "program").strip()
    assert found == bits or (bits is None and found in ("the library's bits", "bits of its own"))


def test_add_subdirectory_shared_without_threads(embedding_tree: Path) -> None:
    run_example(embedding_tree / "iris")
    for program in ("rules", "threads"):
        run(embedding_tree / "fusedopt" / "tests" / "cpp" / f"fusedopt_test_{program}")


def test_find_package_shared(embedding_tree: Path, tmp_path: Path) -> None:
    run("cmake", "--install", embedding_tree, "--prefix", tmp_path / "prefix")
    cmake(EXAMPLE, tmp_path / "build", f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}")
    run_example(tmp_path / "build" / "iris")


def pkg_config_flags(file: Path) -> list[str]:
    """Flags as `pkg-config --cflags --libs` gives them, for machines that do not have it."""
    variables = {"pcfiledir": str(file.parent)}
    fields = {}
    for line in file.read_text().splitlines():
        name, sign, value = re.match(r"(\w*)([=:]?)\s*(.*)", line).groups()  # type: ignore[union-attr]
        value = re.sub(r"\$\{(\w+)\}", lambda found: variables[found[1]], value)
        (variables if sign == "=" else fields)[name] = value
    return f"{fields['Cflags']} {fields['Libs']}".split()


def test_pkg_config(tree: Path, prefix: Path, tmp_path: Path) -> None:
    (file,) = prefix.glob("lib*/**/fusedopt.pc")
    flags = pkg_config_flags(file)
    if shutil.which("pkg-config"):
        command = ("pkg-config", "--cflags", "--libs", "fusedopt")
        assert run(*command, PKG_CONFIG_PATH=str(file.parent)).split() == flags
    compile_program(tree, EXAMPLE / "iris.cpp", tmp_path / "iris", *flags)
    run_example(tmp_path / "iris")


# Two functions of a CBLAS, by definition: the README's lines must compile and mean what they say without one.
CBLAS = """
enum CBLAS_ORDER { CblasRowMajor = 101 };
enum CBLAS_TRANSPOSE { CblasNoTrans = 111, CblasTrans = 112 };
template <class T>
void gemm(CBLAS_ORDER, CBLAS_TRANSPOSE of_a, CBLAS_TRANSPOSE of_b, int m, int n, int k, T alpha, const T* a, int lda,
          const T* b, int ldb, T beta, T* c, int ldc) {
    for (int i = 0; i < m; ++i) {
        for (int j = 0; j < n; ++j) {
            T sum = 0;
            for (int l = 0; l < k; ++l) {
                sum += a[of_a == CblasTrans ? l * lda + i : i * lda + l] *
                       b[of_b == CblasTrans ? j * ldb + l : l * ldb + j];
            }
            c[i * ldc + j] = alpha * sum + (beta == 0 ? 0 : beta * c[i * ldc + j]);
        }
    }
}
const auto cblas_sgemm = gemm<float>;
const auto cblas_dgemm = gemm<double>;
"""
COMPARISON = """
#include <cmath>
#include "array.hpp"
#include "check.hpp"

TEST(products_of_the_readme) {
    std::vector<Array> ours, theirs;
    for (const DType dtype : {DType::float32, DType::float64}) {
        for (const Shape& shape : {Shape{5, 9}, Shape{9, 5}, Shape{4, 4}, Shape{1, 7}, Shape{7, 1}, Shape{1, 1}}) {
            ours.emplace_back(dtype, shape, numbers(dtype, count(shape), 1));
            theirs.push_back(ours.back().copy());
        }
    }
    std::vector<Array> copies;
    for (const Array& array : ours) copies.push_back(array.copy());
    fusedopt::Optimizer other(fusedopt::Muon{.matrix_product = multiply});
    readme::optimizer.build(tensors(ours));
    other.build(tensors(theirs));
    readme::optimizer.apply(tensors(copies));
    other.apply(tensors(copies));
    for (std::size_t i = 0; i < ours.size(); ++i) {
        const Values a = values_of(ours[i].tensor()), b = values_of(theirs[i].tensor());
        for (std::size_t k = 0; k < a.size(); ++k) CHECK(std::fabs(a[k] - b[k]) < 1e-6);
        CHECK(a != values_of(copies[i].tensor()));
    }
}
"""


def test_matrix_product_of_the_readme(tree: Path, prefix: Path, tmp_path: Path) -> None:
    text = (ROOT / "cpp" / "README.md").read_text()
    (snippet,) = re.findall(r"<!-- matrix product -->\n```cpp\n(.*?)```", text, re.DOTALL)
    includes = "".join(re.findall(r"#include .*\n", snippet))
    lines = re.sub(r"#include .*\n", "", snippet)
    (tmp_path / "cblas.h").write_text(CBLAS)
    program = f'{includes}#include "cases.hpp"\nnamespace readme {{{lines}}}{COMPARISON}'
    (tmp_path / "program.cpp").write_text(program)
    (file,) = prefix.glob("lib*/**/fusedopt.pc")
    folders = (f"-I{tmp_path}", f"-I{ROOT / 'tests' / 'cpp'}")
    common = tree / "tests" / "cpp" / "libfusedopt_test_common.a"
    flags = (*folders, str(common), *pkg_config_flags(file))
    compile_program(tree, tmp_path / "program.cpp", tmp_path / "program", *flags)
    run(tmp_path / "program")


@pytest.fixture(scope="session")
def benchmarks(tree: Path) -> Path:
    """The folder of the C++ benchmarks."""
    folder = tree / "bench" / "cpp"
    if not folder.exists():
        pytest.skip("Google Benchmark is not installed (Debian: libbenchmark-dev)")
    return folder


def measured(program: Path, wanted: str, out: Path) -> dict[str, dict[str, Any]]:
    """Run briefly those benchmarks whose names match, and return what each gives."""
    words = (f"--benchmark_filter={wanted}", "--benchmark_min_time=0.0001")
    run(program, *words, f"--benchmark_out={out}", FUSEDOPT_NUM_THREADS="1")
    return {one["name"]: one for one in json.loads(out.read_text())["benchmarks"]}


@pytest.mark.parametrize("elements", [63, 64])
def test_benchmark_of_the_rules(
    benchmarks: Path, tree: Path, tmp_path: Path, elements: int
) -> None:
    found = measured(benchmarks / "fusedopt_bench", f"/{elements}/", tmp_path / "out.json")
    levels = {name.split("/")[1] for name in found}
    assert levels <= level_objects(tree).keys()
    assert levels
    labels = set()
    for level in levels:
        for case in CASES:
            one = found.pop(f"{case}/{level}/{elements}/real_time")
            assert one["bytes_per_second"] > 0
            labels.add(one["label"])
        for name in ("mixed pipeline", "plain loops of the mixed pipeline"):
            one = found.pop(f"{name}/{level}/{elements}/real_time")
            assert one["bytes_per_second"] > 0
            assert one["label"] == "36 bytes an element"
        for dtype in ("float16", "bfloat16", "float32"):
            one = found.pop(f"skipped step, {dtype}/{level}/{elements}/real_time")
            assert not one.get("error_occurred")
            assert one["bytes_per_second"] > 0
    assert labels == {one["label"] for one in found.values()}
    assert all(name.startswith("plain loop of ") for name in found)
    assert len(found) == len(labels) * len(levels)


def test_benchmark_of_division(benchmarks: Path, tmp_path: Path) -> None:
    program = benchmarks / "fusedopt_bench_division"
    if not program.exists():
        pytest.skip("for x86-64")
    found = measured(program, "/4096|only", tmp_path / "out.json")
    widths = {name.split("/")[0] for name in found}
    refined = ("every second quotient refined", "refined quotient", "refined root", "refined both")
    units = ("a division", "a root", "a division and a root", "a division and two roots")
    timed = [f"{way}/4096" for way in ("hardware", *refined)] + [f"only {unit}" for unit in units]
    assert found.keys() == {f"{width}/{what}" for width in widths for what in timed}
    assert "256 bits" in widths
    assert all(one["s/element"] > 0 for one in found.values())


@pytest.mark.parametrize("flags", ["", "_native"])
def test_benchmark_of_an_own_rule(benchmarks: Path, flags: str) -> None:
    head, *lines = run(benchmarks / f"fusedopt_bench_own_rule{flags}", "--quick").splitlines()
    assert head.startswith("level ")
    assert len(lines) == 3
    assert all(float(line.rpartition("ratio ")[2]) > 0 for line in lines)


def level_objects(tree: Path) -> dict[str, Path]:
    objects = tree.glob("**/fusedopt_*.dir/**/level.cpp.*")
    return {
        re.search(r"/fusedopt_(\w+)\.dir/", str(file))[1]: file
        for file in objects
        if file.suffix != ".d"
    }  # type: ignore[index]


def test_levels_share_no_symbols(tree: Path) -> None:
    # The linker keeps one of several equal inline functions: perhaps one that this machine cannot run.
    objects = level_objects(tree)
    assert objects
    for level, file in objects.items():
        own = re.compile(rf"_*Z+N?K?(TV|TS|TI|GV)?N?K?8fusedopt6kernel{len(level)}{level}")
        for line in run("nm", "-P", file).splitlines():
            symbol, kind = line.split()[:2]
            if kind.isupper() or kind in "uvw":
                name = symbol.removeprefix("_") if sys.platform == "darwin" else symbol
                assert own.match(symbol) or COMPILER_CALLS.fullmatch(name), (
                    f"{level}: {symbol} ({kind}) is not in the level's namespace"
                )


# Loops over elements besides the rules' own: the average and 16 bits, gradients, norms, procedures.
SWEEPS = [
    "average_elements",
    "prepare",
    "adafactor_sums",
    "adafactor_measure_update",
    "adafactor_settle",
    "adafactor_advance_unfactored",
    "adafactor_settle_unfactored",
    "lamb_advance",
    "lamb_advance_again",
    "lamb_settle",
    "muon_make_direction",
    "muon_scale",
    "muon_fold",
]


def hot_functions(object_file: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    """What has hot loops, on which type, its code, and the operations that must be there in vectors."""
    text = run("objdump", "-dC", "--no-show-raw-insn", object_file)
    functions = [function.partition("\n") for function in re.split(r"\n(?=[0-9a-f]+ <)", text)]
    for number in ("float", "double"):
        for rule in RULES:
            if rule == "FtrlPower":  # its pow is the C library's, and its documentation says so
                continue
            head = re.compile(rf"::update(_lines)?<.*::{rule}(<{number}>)?, {number}[,>]")
            for name, _, code in functions:
                if head.search(name):
                    yield rule, number, code, ["mul", "sqrt"] if "sqrt" in code else ["mul"]
        for sweep in SWEEPS:
            # Once for each type that stores it; a lambda's code is its function's.
            head = re.compile(rf"::{sweep}<{number}(, [\w:]+)?>\(")
            codes: dict[str, str] = {}
            for name, _, code in functions:
                if found := head.search(name):
                    codes[found[0]] = codes.get(found[0], "") + code
            clips = ["(min|cmg[et])"] if sweep == "prepare" else []
            for code in codes.values():
                yield sweep, number, code, ["mul", *clips]
        # Norms are sums in double. A square of a number of float32 may be added without being rounded.
        head = re.compile(rf"::measure_elements<{number}>\(")
        code = "\n".join(code for name, _, code in functions if head.search(name))
        yield f"measure_elements<{number}>", "double", code, ["(mul|fmadd[0-9]*)"]


@pytest.mark.skipif(not shutil.which("objdump"), reason="no objdump")
def test_hot_loops_are_vectorised(tree: Path) -> None:
    for level, file in level_objects(tree).items():
        packed = dict(zip(("float", "double"), PACKED[level], strict=True))
        seen = set()
        for name, number, code, operations in hot_functions(file):
            seen.add((name, number))
            for operation in operations:
                assert re.search(packed[number].format(operation), code), (
                    f"{level}: {name} on {number} has no vector {operation}"
                )
        assert seen >= set(product({*RULES, *SWEEPS} - {"FtrlPower"}, ("float", "double")))


HEADERS = sorted(path.name for path in (ROOT / "cpp" / "include" / "fusedopt").glob("*.hpp"))
# Each once: c++ is most often another name of one of the others.
COMPILERS = sorted(
    {
        Path(path).resolve(): name
        for name in ("c++", "clang++", "g++")
        if (path := shutil.which(name))
    }.values()
)


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("header", HEADERS)
def test_an_old_standard_is_one_clear_error(compiler: str, header: str, tmp_path: Path) -> None:
    program = tmp_path / "program.cpp"
    program.write_text(f"#include <fusedopt/{header}>\n")
    include = f"-I{ROOT / 'cpp' / 'include'}"
    run(compiler, "-std=c++20", include, "-fsyntax-only", program)
    for standard in ("c++11", "c++17"):
        done = subprocess.run(
            [compiler, f"-std={standard}", include, "-fsyntax-only", program],
            capture_output=True,
            text=True,
            check=False,
        )
        errors = [line for line in done.stderr.splitlines() if "error: " in line]
        assert done.returncode != 0
        assert "expected C++20 or newer" in errors[0]
        # The second is what stops the compiler.
        assert ["needs_cxx20" in line for line in errors[1:]] == [True]


def levels_of(build: Path) -> list[str]:
    pattern = r"^build cpp/CMakeFiles/fusedopt_(\w+)\.dir/src/kernel/level"
    return sorted(re.findall(pattern, (build / "build.ninja").read_text(), re.MULTILINE))


def test_unknown_levels_are_refused(tmp_path: Path) -> None:
    for levels in ("x86_64_v9", "all;x86_64_v9", ""):
        done = subprocess.run(
            ["cmake", "-S", ROOT, "-B", tmp_path, "-G", "Ninja", f"-DFUSEDOPT_LEVELS={levels}"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PATH": PATH},
        )
        assert done.returncode != 0
        message = " ".join(done.stderr.split())
        assert "FUSEDOPT_LEVELS: expected all, or a list of levels for" in message
        assert f"found '{levels}'" in message


def test_one_level_alone(tmp_path: Path) -> None:
    cmake(ROOT, tmp_path / "all", targets=("help",))
    every = levels_of(tmp_path / "all")
    for level in every:
        build = tmp_path / level
        alone = (f"-DFUSEDOPT_LEVELS={level}", "-DCMAKE_UNITY_BUILD=OFF")
        run("cmake", "-S", ROOT, "-B", build, "-G", "Ninja", *alone)
        assert levels_of(build) == [level]
        # Whatever the level, the code that chooses one compiles without a warning.
        run("cmake", "-B", build, "-DCMAKE_COMPILE_WARNING_AS_ERROR=ON")
        choice = "cpp/CMakeFiles/fusedopt.dir/src/runtime/levels.cpp.o"
        run("cmake", "--build", build, "--target", choice)
    (tmp_path / "program.cpp").write_text("""
#include <cstdio>
#include <fusedopt/fusedopt.hpp>
int main() { for (const auto& level : fusedopt::compiled_levels()) std::puts(level.c_str()); }
""")
    build = tmp_path / every[0]
    # In one piece, which is quicker. The flags are those of the other builds, so a compiler's cache knows the kernels.
    run("cmake", "-B", build, "-DCMAKE_COMPILE_WARNING_AS_ERROR=OFF", *IN_ONE_PIECE)
    run("cmake", "--build", build)
    run("cmake", "--install", build, "--prefix", tmp_path / "prefix")
    (file,) = (tmp_path / "prefix").glob("lib*/**/fusedopt.pc")
    flags = pkg_config_flags(file)
    assert "-std=c++20" in flags
    compile_program(build, tmp_path / "program.cpp", tmp_path / "program", *flags)
    assert run(tmp_path / "program").split() == every[:1]
