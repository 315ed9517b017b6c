# What the scripts in ci/ that run programs natively and under the preload library share. To be sourced, from any
# directory, by a script in ci/.
# shellcheck shell=bash
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
PRELOAD=${SMC_PRELOAD:-$TARGET/release/libsmc_preload.so}
WORK=$(mktemp -d "${TMPDIR:-/tmp}/smc-test.XXXXXX")
trap 'rm -rf "$WORK"' EXIT

# The directory of the test programs, built when need be. Optimised: the races differ from those of a debug build.
test_programs() {
    (cd "$ROOT" && cargo build -q --release --locked -p smc-tests) || return
    echo "$TARGET/release"
}

require_preload() {
    if [[ ! -f $PRELOAD ]]; then
        echo "$(basename "$0"): $PRELOAD is missing: cargo build --release -p smc-shim, or set SMC_PRELOAD" >&2
        exit 2
    fi
    PRELOAD=$(realpath "$PRELOAD")
}

# under_shim REPORT [NAME=VALUE]... COMMAND...: runs a command with the library and its report.
under_shim() {
    local report=$1
    shift
    env SMC_REPORT="$report" LD_PRELOAD="$PRELOAD" "$@"
}

# ring_bytes REPORT: what the connections in a report have sent and received over rings, all in all.
ring_bytes() {
    if [[ ! -s $1 ]]; then
        echo 0
        return
    fi
    grep -o '"ring_[rt]x_bytes":[0-9]*' "$1" | awk -F: '{ sum += $2 } END { printf "%d\n", sum }'
}
