#!/usr/bin/env bash
# The Python tests of what reads and writes the memory of others, on an extension module under the address sanitizer.
#   bash tests/sanitized.sh [ARGUMENTS]   arguments are pytest's, for other tests than the usual ones
# The module is built into build/sanitized, and found before an installed one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tests=("$@")
if ((${#tests[@]} == 0)); then
  tests=(tests/arrays tests/files/test_loading.py tests/fuzz tests/properties tests/variables/test_moved_memory.py
    tests/gradients/test_overlapping_gradients.py tests/gradients/test_row_gradients_refused.py
    tests/gradients/test_rows_random_calls.py tests/state/test_random_calls_with_few_bits.py)
fi
# A level has no code of its own under sanitizers, so the lowest one is enough.
level=$(python -c 'from fusedopt import _core; print(_core.compiled_levels()[0])')
rm -rf build/sanitized
python -m pip install --quiet --no-deps --target build/sanitized . \
  -C build-dir=build/sanitized-module -C cmake.build-type=RelWithDebInfo \
  -C cmake.define.CMAKE_CXX_FLAGS_RELWITHDEBINFO="-O1 -g1 -DNDEBUG" \
  -C cmake.define.FUSEDOPT_SANITIZE=address -C cmake.define.FUSEDOPT_LEVELS="$level"

printf '%s\n' 'import sys' '# An editable installation would be found first.' \
  'sys.meta_path[:] = [each for each in sys.meta_path if "editable" not in type(each).__module__]' \
  > build/sanitized/sitecustomize.py

# The interpreter knows nothing of the sanitizer, so its library must be there first, with the C++ library whose
# exceptions it watches. Python's own allocator would hide what is around an object. Python frees little at its end, so
# tests/processes/test_leaks.py looks for leaks.
preloaded="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so)"
export PYTHONPATH="$PWD/build/sanitized" PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0
LD_PRELOAD="$preloaded" python - <<'PYTHON'
from fusedopt import _core

assert "build/sanitized" in _core.__file__, f"another module is found first: {_core.__file__}"
assert "libasan" in open("/proc/self/maps").read()
PYTHON
# Freed memory is not used again for long, and all of it takes more. Two tests count on neither.
LD_PRELOAD="$preloaded" python -m pytest "${tests[@]}" \
  --deselect tests/arrays/test_dlpack.py::test_a_tensor_in_the_place_of_another_is_asked_for_its_sign \
  --deselect tests/files/test_loading.py::test_loading_takes_a_fifth_of_the_state_at_most
