# What the scripts in ci/ that run programs natively and under the preload library share. To be sourced, from any
# directory, by a script in ci/.
# shellcheck shell=bash
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
PRELOAD=${SMC_PRELOAD:-$TARGET/release/libsmc_preload.so}
WORK=$(mktemp -d "${TMPDIR:-/tmp}/smc-test.XXXXXX")
trap 'rm -rf "$WORK"' EXIT

# The directory of the test programs, built when need be. Optimised: the races differ from those of a debug build. The whole workspace, as
# ci/test.sh builds it: one package alone would be built with other features, and all of it again.
test_programs() {
    (cd "$ROOT" && cargo build -q --release --locked --workspace) || return
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

# compare LABEL NATIVE.xml SHIM.xml [TEXT]...: `common` and `different`, of tests of other projects (compare_junit.py). Some of them depend on time:
# those that differ are run again by themselves, by the script's function `again NAME...`, which does so in both ways and leaves
# the results in the same two files. A test that differs three times is different, and so is one that could not be run again.
compare() {
    local label=$1 native=$2 shim=$3 names same still time
    shift 3
    python3 "$ROOT/tests/compare_junit.py" "$native" "$shim" "$@" >"$WORK/comparison"
    read -r common different < <(tail -1 "$WORK/comparison")
    for time in 2 3; do
        ((different > 0 && different < 20)) || break
        head -n -1 "$WORK/comparison"
        mapfile -t names < <(sed -nE 's/^  (.+): [a-z ]+ natively, [a-z ]+ under the shim$/\1/p' "$WORK/comparison")
        echo "$label: $different different, time $time: ${names[*]}"
        rm -f "$native" "$shim"
        again "${names[@]}" || break
        python3 "$ROOT/tests/compare_junit.py" "$native" "$shim" >"$WORK/comparison.again"
        read -r same still < <(tail -1 "$WORK/comparison.again")
        ((same + still == different)) || break
        mv "$WORK/comparison.again" "$WORK/comparison"
        common=$((common + same)) different=$still
    done
}
