#!/bin/bash
# A short run of each fuzz target in wire/fuzz. Usage: ci/fuzz.sh [TARGET]...
# SMC_FUZZ_SECONDS: how long each runs (20). What they find is kept for the next time in the target directory; an input that
# makes one fail is printed, and repeated with: cargo fuzz run -s none TARGET FILE, in wire/fuzz.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
target=${CARGO_TARGET_DIR:-$PWD/target}
[[ $target == /* ]] || target=$PWD/$target
seconds=${SMC_FUZZ_SECONDS:-20}
# shellcheck source=ci/cargo-fuzz.sh
source ci/cargo-fuzz.sh
if ! PATH=$CARGO_FUZZ_ROOT/bin:$PATH command -v cargo-fuzz >/dev/null; then
    echo "fuzz: cargo-fuzz is missing: run ci/deps.sh" >&2
    exit 1
fi
export PATH=$CARGO_FUZZ_ROOT/bin:$PATH
# The flags of the other builds are none of its business.
unset RUSTFLAGS CARGO_TARGET_DIR

work=$target/fuzz
mkdir -p "$work" || exit 1
python3 wire/fuzz/seeds.py "$work/corpus" || exit 1
cd wire/fuzz || exit 1
targets=("$@")
((${#targets[@]})) || mapfile -t targets < <(cargo fuzz list)
# No sanitizer: there is no unsafe code to watch, and so a stable compiler will do.
fuzz() { cargo fuzz "$1" -s none --target-dir "$work/target" "${@:2}"; }

passed=0 failed=0
for name in "${targets[@]}"; do
    if ! fuzz build "$name"; then
        failed=$((failed + 1))
        echo "fuzz: $name does not build" >&2
        continue
    fi
    log=$work/$name.log
    # The longest valid message is 8192 bytes.
    if fuzz run "$name" "$work/corpus/$name" -- \
        -max_total_time="$seconds" -max_len=8300 -timeout=60 -artifact_prefix="$work/" >"$log" 2>&1; then
        passed=$((passed + 1))
        echo "fuzz: $name: $(grep -E '^Done [0-9]+ runs' "$log")"
    else
        failed=$((failed + 1))
        tail -n 40 "$log" >&2
        echo "fuzz: $name failed" >&2
    fi
done
echo "fuzz: $passed passed, $failed failed"
((failed == 0 && passed > 0))
