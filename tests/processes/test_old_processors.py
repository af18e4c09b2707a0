"""A processor of 2008, emulated: the package loads, runs at the lowest level, and gives the bits of this machine."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys

import cases
import pytest
from machine import LEVELS

pytestmark = [
    pytest.mark.skipif(not shutil.which("qemu-x86_64"), reason="no qemu-x86_64"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="emulates another kind of machine"),
]

PROGRAM = """
import hashlib
import fusedopt as fo, numpy as np

# No function of NumPy that may differ from processor to processor.
w = ((np.arange(70 * 41) * 7919 % 2001 - 1000) / np.float32(512)).astype(np.float32).reshape(70, 41)
g = w[::-1] / np.float32(4)
for name, arguments in CASES:
    x, y = w.copy(), w[:, 0].astype(np.float16)
    optimizer = getattr(fo, name)(**arguments, clipnorm=1.0, use_ema=True)
    optimizer.build([x, y])
    for _ in range(3): optimizer.apply([g, g[:, 1].astype(np.float64)])
    digest = hashlib.sha256(x.tobytes() + y.tobytes() + b"".join(v.tobytes() for v in optimizer.variables))
    print(name, arguments, digest.hexdigest())
print(fo.show_config()["level"])
"""
# Muon's products are NumPy's, which sums in another order on another processor.
CASES = [(case.rule, case.arguments) for case in cases.VARIANTS if case.rule != "Muon"]


def lines_on(*emulator: str) -> list[str]:
    done = subprocess.run(
        [*emulator, sys.executable, "-W", "ignore", "-c", f"CASES = {CASES!r}\n{PROGRAM}"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_every_rule_has_the_same_bits_on_a_processor_of_2008() -> None:
    *expected, level_here = lines_on()
    *found, level = lines_on("qemu-x86_64", "-cpu", "Nehalem")
    assert len(found) == len(CASES)
    assert found == expected
    assert level_here == LEVELS[-1]
    assert level == "x86_64_v2"
