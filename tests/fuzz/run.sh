#!/usr/bin/env bash
# Run every fuzzer for so many seconds, each from its corpus: bash tests/fuzz/run.sh SECONDS [TARGET...]
# What is found is written to build/found/TARGET, and makes the script fail.
# With FUSEDOPT_FUZZ_SEED=N the inputs are the same every time, up to how many of them the seconds allow.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
seconds=${1:?expected a number of seconds}
shift
targets=("$@")
if ((${#targets[@]} == 0)); then targets=(calls load configuration); fi
# A level has no code of its own under sanitizers, so the lowest one is enough.
level=$(python -c 'from fusedopt import _core; print(_core.compiled_levels()[0])')

for target in "${targets[@]}"; do
  found="$PWD/build/found/$target"
  mkdir -p "$found"
  common=(-max_total_time="$seconds" -timeout=60 -print_final_stats=1 -len_control=0 -artifact_prefix="$found/"
    -seed="${FUSEDOPT_FUZZ_SEED:-0}")
  printf '\n=== %s, %s s\n' "$target" "$seconds"
  if [[ $target == calls ]]; then
    cmake --preset fuzz -DFUSEDOPT_LEVELS="$level"
    cmake --build --preset fuzz
    build/fuzz/tests/fuzz/fusedopt_fuzz_calls "${common[@]}" -max_len=1024 "$found" tests/fuzz/corpus/calls
  else
    python tests/fuzz/fuzz.py "$target" "${common[@]}" -max_len=8192 "$found" "tests/fuzz/corpus/$target"
  fi
done
