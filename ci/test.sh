#!/bin/bash
# Everything, from nothing: installs what is missing, checks, builds, tests. One line for each suite, its output in a
# log; goes on after a failure and tells by its exit status. Takes no input.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
exec </dev/null

# The suites: name, seconds allowed, command; @LIBRARY@ is the library just built. In this order; a suite whose script is not there fails.
# The seconds are the end of what hangs: several times what a slow machine takes.
SUITES="
deps          1800 bash ci/deps.sh test
check         1800 bash ci/check.sh
build         1800 cargo build --release --workspace --locked
cargo-test    1800 cargo test --workspace --locked
exports        120 bash ci/exports.sh @LIBRARY@
smc_run        600 bash ci/smc_run-test.sh
shim           600 bash shim/tests/run.sh @LIBRARY@
loom          1200 bash ci/loom.sh
fuzz          1200 bash ci/fuzz.sh
hostile        900 bash ci/hostile.sh
reasons        900 bash ci/reasons.sh
policy         900 bash ci/policy.sh
killing       1200 bash ci/killing.sh
behaviour     2400 bash ci/behaviour.sh
options        900 bash ci/options.sh
torture       1800 bash ci/torture.sh
programs      1800 bash ci/programs.sh core
cpython       2700 bash ci/cpython.sh
suites        1800 bash ci/suites.sh
demo           900 bash ci/demo.sh
bench-smoke    900 bash ci/bench-smoke.sh
lab           2700 bash ci/lab.sh
"

target=${CARGO_TARGET_DIR:-$PWD/target}
[[ $target == /* ]] || target=$PWD/$target
# The suites take the library and the programs from here.
export CARGO_TARGET_DIR=$target
export SMC_PRELOAD=$target/release/libsmc_preload.so
logs=$target/ci-logs
rm -rf "$logs"
mkdir -p "$logs" || exit 1

# What the caller happens to have: files that others cannot read, messages in another language. (And ignored signals, as under nohup: below.)
umask 022
export LC_ALL=C.UTF-8
# cargo test must not take the whole environment of a user who has settings of smc in it.
unset SMC_BACKEND SMC_UEID SMC_RCVBUF SMC_SNDBUF SMC_UPGRADE_AFTER SMC_MAX_CONNS SMC_DISABLE SMC_LOG SMC_REPORT SMC_RUN_DIR SMC_POLICY LD_PRELOAD
# Nor that of a host that has some.
export SMC_CONFIG=

child=
# timeout(1) passes the signal on to the whole group of the suite.
trap 'if [[ -n $child ]]; then kill -TERM "$child" 2>/dev/null; wait "$child"; fi; exit 130' INT TERM

passed=0 failed=0
while read -r name limit command; do
    [[ -n $name ]] || continue
    read -r -a words <<<"${command//@LIBRARY@/$SMC_PRELOAD}"
    script=${words[1]}
    if [[ ${words[0]} == bash && ! -f $script ]]; then
        failed=$((failed + 1))
        printf '%-14s %6s  FAILED: %s is missing\n' "$name" - "$script"
        continue
    fi
    log=$logs/$name.log
    started=$SECONDS
    timeout --kill-after=30 "$limit" env --default-signal "${words[@]}" >"$log" 2>&1 &
    child=$!
    wait "$child"
    status=$?
    child=
    took=$((SECONDS - started))s
    case $status in
    0) passed=$((passed + 1)) result=ok ;;
    124 | 137) failed=$((failed + 1)) result="FAILED: not done after ${limit}s" ;;
    *) failed=$((failed + 1)) result="FAILED with status $status" ;;
    esac
    # A suite's last line is its count.
    summary=$(grep -E '[0-9]+ passed, [0-9]+ failed' "$log" | tail -n 1)
    if [[ $name == cargo-test ]]; then
        summary=$(awk '/^test result:/ { p += $4; f += $6 } END { print p + 0 " tests passed, " f + 0 " failed" }' "$log")
    fi
    printf '%-14s %6s  %s%s\n' "$name" "$took" "$result" "${summary:+  ($summary)}"
    if ((status != 0)); then
        echo "---- the end of $log"
        tail -n 40 "$log"
        echo "----"
    fi
done <<<"$SUITES"

echo "$passed passed, $failed failed"
((failed == 0))
