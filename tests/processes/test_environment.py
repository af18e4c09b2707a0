"""Settings of the environment, the affinity and other libraries decide about threads and levels."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import fusedopt as fo
import pytest
from machine import HAS_THREADS
from selection import first

MANY = (1 << 20) + 5  # elements; enough for as many threads as a test allows
OURS = ("FUSEDOPT_", "OMP_", "GOMP_", "KMP_")


def run(program: str, *options: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a program with just these of the settings that concern threads and levels."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(OURS)}
    return subprocess.run(
        [sys.executable, *options, "-c", program],
        env=environment | settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def words(program: str, **settings: str) -> list[str]:
    done = run(program, "-W", "error", **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


COUNT = """
import fusedopt as fo
print(fo.get_num_threads(), fo.show_config()["threads_from"].replace(" ", "_"))
"""
STEP = f"""
import os
import numpy as np
import fusedopt as fo
w = np.ones({MANY}, np.float32)
g = np.ones_like(w)
optimizer = fo.Adam()

def step():
    optimizer.build([w])
    optimizer.apply([g])

def threads():
    return set(os.listdir("/proc/self/task"))
"""

# Values of variables

USES = {
    "count": "fo.get_num_threads()",
    "config": "fo.show_config()",
    "build": "fo.SGD().build([np.ones(3)])",
    "apply": "fo.SGD().apply([np.ones(3)], [np.ones(3)])",
    "multi": "fo.MultiOptimizer(fo.OptimizerMap(fo.SGD())).build([np.ones(3)])",
    "loss_scale": "fo.LossScaleOptimizer(fo.Adam()).build([np.ones(3)])",
}


@pytest.mark.parametrize("use", first(1, USES.values()), ids=USES)
@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        *(("FUSEDOPT_ISA", v, fo.show_config()["level"]) for v in ("avx9", " ")),
        *(("FUSEDOPT_NUM_THREADS", v, "from 1") for v in ("0", "-1", "1.5", "2x", "99999", "2,2")),
    ],
)
def test_unknown_value_is_an_error_at_the_first_use(
    name: str, value: str, part: str, use: str
) -> None:
    done = run(f"import numpy as np, fusedopt as fo; print('imported'); {use}", **{name: value})
    assert done.returncode != 0
    assert done.stdout.split() == ["imported"]
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ValueError: {name}: expected")
    assert part in last
    assert last.endswith(f"found '{value}'")


def test_unknown_value_leaves_nothing_half_built() -> None:
    program = """
import numpy as np, fusedopt as fo
w = np.ones(3)
optimizer = fo.SGD(learning_rate=1.0)
for _ in range(2):
    try:
        optimizer.apply([np.ones(3)], [w])
    except ValueError:
        print(optimizer.built, optimizer.iterations, w.sum())
"""
    assert words(program, FUSEDOPT_NUM_THREADS="few") == ["False", "0", "3.0"] * 2


@pytest.mark.parametrize(
    "value", first(3, [" 2", " 4 , 2", "2", "2 ", "\t2\n", "4,2", "3,2,1", "+2"])
)
def test_value_of_openmp(value: str) -> None:
    expected = value.split(",", maxsplit=1)[0].strip().lstrip("+")
    found = words(COUNT, OMP_NUM_THREADS=value)
    assert found == (
        [expected, "OMP_NUM_THREADS"] if HAS_THREADS else ["1", "built_without_threads"]
    )


@pytest.mark.skipif(not HAS_THREADS, reason="a build without OpenMP does not read its variable")
@pytest.mark.parametrize(
    "value",
    first(3, ["abc", "0", "", "-1", " ", "4x", "1.5", "2 2", "2,", ",2", "2,0", "2,x", "9" * 30]),
)
def test_value_that_openmp_does_not_allow_counts_as_unset(value: str) -> None:
    program = f"import numpy as np{COUNT}fo.SGD().build([np.ones(3)]); fo.get_num_threads()"
    without = run(program)
    done = run(program, OMP_NUM_THREADS=value)
    assert done.returncode == 0, done.stderr
    assert done.stdout == without.stdout
    warnings = [line for line in done.stderr.splitlines() if "RuntimeWarning" in line]
    assert len(warnings) == 1
    assert "OMP_NUM_THREADS: expected whole numbers from 1 to 1024" in warnings[0]
    assert f"found '{value}'" in warnings[0]


@pytest.mark.skipif(not HAS_THREADS, reason="a build without OpenMP does not read its variable")
@pytest.mark.parametrize("use", first(1, USES.values()), ids=USES)
def test_warning_comes_from_the_first_use(use: str) -> None:
    program = f"import numpy as np, fusedopt as fo; print('imported'); {use}"
    done = run(program, "-W", "error::RuntimeWarning", OMP_NUM_THREADS="abc")
    assert done.stdout.split() == ["imported"]
    assert "RuntimeWarning: OMP_NUM_THREADS: expected" in done.stderr


# Affinity

if hasattr(os, "sched_setaffinity") and HAS_THREADS and len(os.sched_getaffinity(0)) > 1:
    ALLOWED = sorted(os.sched_getaffinity(0))
    TWO = ",".join(map(str, ALLOWED[:2]))
    IS_QUOTA_AWAY = fo.show_config()["threads_from"] != "control group quota"

    @pytest.mark.skipif(not IS_QUOTA_AWAY, reason="a quota allows fewer processors")
    @pytest.mark.parametrize(
        "settings",
        [
            {"OMP_PROC_BIND": "true"},
            {"OMP_PROC_BIND": "close"},
            {"OMP_PROC_BIND": "spread"},
            {"OMP_PLACES": "threads"},
            {"OMP_PLACES": "cores", "OMP_PROC_BIND": "true"},
            {"GOMP_CPU_AFFINITY": TWO.replace(",", " ")},
        ],
        ids=str,
    )
    def test_binding_by_openmp_is_no_limit(settings: dict[str, str]) -> None:
        program = f"""{STEP}
before = threads()
step()
helpers = threads() - before
count = fo.get_num_threads()
print(count > 1, len(helpers) == count - 1)
mine = os.sched_getaffinity(0)
print(all(os.sched_getaffinity(int(helper)) != mine for helper in helpers))
"""
        assert words(program, **settings) == ["True"] * 3

    @pytest.mark.parametrize("bind", ["", "true"])
    def test_one_allowed_processor_means_one_thread(bind: str) -> None:
        program = f"""
import os, subprocess, sys
os.sched_setaffinity(0, [{ALLOWED[0]}])
sys.exit(subprocess.call([sys.executable, "-c", {COUNT!r}]))
"""
        settings = {"OMP_PROC_BIND": bind} if bind else {}
        assert words(program, **settings)[0] == "1"

    @pytest.mark.skipif(not IS_QUOTA_AWAY, reason="a quota allows fewer processors")
    def test_affinity_counts_while_the_program_runs() -> None:
        program = f"""{STEP}
step()
print(fo.get_num_threads())
for allowed in ([{ALLOWED[0]}], [{ALLOWED[1]}], [{TWO}]):
    os.sched_setaffinity(0, allowed)
    optimizer.apply([g])
    print(fo.get_num_threads())
"""
        assert words(program) == [str(len(ALLOWED)), "1", "1", "2"]

    def test_helpers_follow_the_affinity() -> None:
        program = f"""{STEP}
fo.set_num_threads(2)
before = threads()
step()
(helper,) = threads() - before
for allowed in ({{{ALLOWED[0]}}}, {{{ALLOWED[1]}}}, {{{TWO}}}):
    os.sched_setaffinity(0, allowed)
    optimizer.apply([g])
    print(os.sched_getaffinity(int(helper)) == allowed, fo.get_num_threads())
"""
        assert words(program) == ["True", "2"] * 3

    @pytest.mark.parametrize("how", ["set", "environment"])
    def test_affinity_does_not_change_a_number_that_is_set(how: str) -> None:
        program = f"""{STEP}
if {how == "set"}:
    fo.set_num_threads(3)
step()
os.sched_setaffinity(0, [{ALLOWED[0]}])
optimizer.apply([g])
print(fo.get_num_threads())
"""
        settings = {"FUSEDOPT_NUM_THREADS": "3"} if how == "environment" else {}
        assert words(program, **settings) == ["3"]


# Limits


@pytest.mark.skipif(not HAS_THREADS, reason="without OpenMP there is nothing to limit")
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux does")
def test_threadpoolctl_limits_a_step() -> None:
    pytest.importorskip("threadpoolctl")
    program = f"""{STEP}
from threadpoolctl import threadpool_limits
fo.set_num_threads(3)
before = threads()
with threadpool_limits(1):
    step()
    print(len(threads() - before), fo.get_num_threads())
with threadpool_limits(2, user_api="openmp"):
    optimizer.apply([g])
    print(len(threads() - before), fo.get_num_threads())
optimizer.apply([g])
print(len(threads() - before), fo.get_num_threads())
"""
    assert words(program, OMP_NUM_THREADS="3") == ["0", "1", "1", "2", "2", "3"]


@pytest.mark.skipif(not HAS_THREADS, reason="without OpenMP there is nothing to limit")
def test_limit_of_openmp() -> None:
    assert words(COUNT, OMP_NUM_THREADS="8", OMP_THREAD_LIMIT="3") == ["3", "limit_of_OpenMP"]


# Processors

EMULATOR = "/usr/bin/qemu-x86_64"


@pytest.mark.skipif(
    not Path(EMULATOR).exists() or "x86_64_v2" not in fo.show_config()["levels_compiled"],
    reason="needs an emulator of old processors, qemu-x86_64, and a build for them",
)
@pytest.mark.parametrize(
    ("processor", "levels"),
    [
        ("core2duo", []),
        ("qemu64", []),
        ("Nehalem,-sse4.2", []),
        ("Nehalem,-popcnt", []),
        ("Nehalem", ["x86_64_v2"]),
    ],
)
def test_processor_without_any_level_is_refused(processor: str, levels: list[str]) -> None:
    found = importlib.util.find_spec("fusedopt._core")
    assert found is not None
    program = f"""
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("fusedopt._core", {found.origin!r})
core = module_from_spec(spec)
spec.loader.exec_module(core)
print(*core.supported_levels(), flush=True)
core.level()
"""
    executable = os.path.realpath(sys.executable)
    done = subprocess.run(
        [EMULATOR, "-cpu", processor, executable, "-S", "-c", program],
        env={k: v for k, v in os.environ.items() if not k.startswith(OURS)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.split() == levels, done.stderr
    if levels:
        assert done.returncode == 0
    else:
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith(
            "RuntimeError: level: expected a processor that runs one of the compiled levels"
        )
