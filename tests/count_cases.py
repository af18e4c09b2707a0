"""Count what keeps each promise, for docs/trust.md: `python tests/count_cases.py --markdown docs/trust.md`.

A case is a test that pytest collects, with `-m` or without. Sequences are what property tests draw in a plain run. What
a C++ program or a fuzzer's corpus counts is counted in its files.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).resolve().parent
BEGIN, END = "<!-- cases -->\n", "<!-- end of cases -->\n"

# A promise, in words, and where its tests lie: how the names of files in tests/ begin.
PROMISES: dict[str, list[str]] = {
    "A step has the bits of its formula, at every level and number of threads": [
        "rules/test_exact.py",
        "rules/test_low_bit_exact.py",
        "gradients/test_rows_exact.py",
        "sharding/test_sharded_bits.py",
        "processes/test_threads.py",
    ],
    "A step has Keras's or optax's numbers": ["rules/test_keras.py", "rules/test_optax.py"],
    "What is refused changes nothing": [
        "arrays/test_refused",
        "gradients/test_refused",
        "gradients/test_row_gradients_refused.py",
        "gradients/test_overlapping_gradients.py",
        "gradients/test_skip_nonfinite.py",
        "hyperparameters/test_refused",
        "schedules/test_refused",
        "sharding/test_sharded_refusals.py",
        "variables/test_refused",
    ],
    "Any array is read rightly, or refused": ["arrays"],
    "A file is whole, and gives back every bit": ["files", "sharding/test_files_of_ranks.py"],
    "A copy, a pickle or a configuration goes on as the original": [
        "state",
        "hyperparameters/test_configurations.py",
    ],
    "A save that is killed or fails leaves the old file or the new one": [
        "processes/test_killed_saves.py",
        "files/test_saving.py",
    ],
    "A forked child steps, or is told why it cannot": ["processes/test_forks"],
    "A caller's rounding, threads and settings stay as they are": [
        "processes/test_floating_point.py",
        "processes/test_rounding_modes.py",
        "processes/test_environment.py",
        "processes/test_number_of_threads.py",
    ],
    "A processor without AVX gives the same bits": ["processes/test_old", "cpp/test_old"],
}


def collected() -> list[str]:
    """Every test, by the name that pytest gives it."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n0", "-q", "--collect-only", "-m", "maintainer or not maintainer", TESTS],
        cwd=TESTS.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [line for line in done.stdout.splitlines() if "::" in line]


def sequences(tests: list[str]) -> int:
    """How many sequences of calls are drawn in a plain run."""
    total = 0
    for path in TESTS.rglob("test_*.py"):
        text = path.read_text(encoding="utf-8")
        each = re.search(r"    run_calls\(\w+, examples=(\d+)", text)
        if each:
            name = f"{path.relative_to(TESTS.parent).as_posix()}::test_any_sequence_of_calls"
            total += int(each[1]) * sum(test.startswith(name) for test in tests)
    return total


def table() -> str:
    tests = collected()
    cases = Counter(test.split("::")[0] for test in tests)

    def count(places: list[str]) -> int:
        return sum(
            n for path, n in cases.items() for place in places if path.startswith(f"tests/{place}")
        )

    cpp = sum(path.read_text().count("\nTEST(") for path in (TESTS / "cpp").glob("*.cpp"))
    corpus = sum(path.is_file() for path in (TESTS / "fuzz" / "corpus").rglob("*"))
    rows = [
        *(
            (promise, ", ".join(f"`{each}`" for each in places), count(places))
            for promise, places in PROMISES.items()
        ),
        (
            "All of it at once, in any order of calls",
            "sequences of `random_calls.py`",
            sequences(tests),
        ),
        ("The same from C++", "`cpp`", cpp),
        ("No bytes break any of it", "`fuzz/corpus`", corpus),
        ("All tests of Python", "all", sum(cases.values())),
    ]
    lines = [f"| {promise} | {places} | {number:,} |" for promise, places, number in rows]
    return "\n".join(["| promise | tests, in `tests/` | cases |", "|---|---|---:|", *lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--markdown", type=Path, help="the document whose table is to be written")
    path = parser.parse_args().markdown
    text = table()
    if path is None:
        print(text)
        return
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
