#!/bin/bash
# The test suites of other projects that use sockets hard, natively and under the preload library with connections that
# move at once. Each test must have the same result in both, and bytes must have gone over rings. Some tests depend on time:
# one that differs is run again by itself, in both ways, and counts as different if it differs three times.
# Usage: ci/suites.sh [NAME]...     (without: the core, tornado and twisted; less than two minutes on two processors)
#   tornado       all of Tornado's tests: an event loop, HTTP client and server, WebSocket, TLS
#   twisted       Twisted's tests of TCP, TLS and HTTP, those of TCP with each of its reactors
# Debian's packages, with Debian's Python. CPython's own tests: ci/cpython.sh.
set -uo pipefail
# shellcheck source=tests/environment.sh
source "$(dirname "$0")/../tests/environment.sh"
require_preload
(($# > 0)) || set -- tornado twisted
# A suite that takes longer hangs.
LIMIT=600
PYTHON=/usr/bin/python3
# Tests of how long a computation takes, which is another matter each time.
TIMED=linear_performance

modules_of() {
    case $1 in
    tornado) ;;
    twisted)
        echo twisted.internet.test.test_tcp twisted.test.test_{tcp,ssl,tcp_internals} \
            twisted.web.test.test_{http,webclient,agent}
        ;;
    *) return 1 ;;
    esac
}

# run_suite NAME RESULTS [NAME=VALUE]...: true when the suite came to its end, whatever the results.
run_suite() {
    local suite=$1 results=$2 chosen=$3 directory modules
    shift 3
    read -ra modules <<<"$chosen"
    directory=$(mktemp -d "$WORK/run.XXXXXX")
    (cd "$directory" && env "$@" timeout -k 10 "$LIMIT" "$PYTHON" "$ROOT/tests/foreign_suite.py" \
        "$suite" "$results" "${modules[@]}") >"$results.log" 2>&1 </dev/null
}

# shellcheck disable=SC2317 # called by compare
again() {
    run_suite "$suite" "$native" "$*" && run_suite "$suite" "$shim" "$*" "${under_shim[@]}"
}

passed=0 failed=0
for suite in "$@"; do
    modules_of "$suite" >/dev/null || { echo "suites: no suite $suite" >&2 && exit 2; }
    if ! "$PYTHON" -c "import $suite.test" 2>/dev/null; then
        echo "suites: no $suite: apt-get install python3-$suite" >&2
        exit 2
    fi
    native=$WORK/$suite.native.xml
    shim=$WORK/$suite.shim.xml
    report=$WORK/$suite.report
    start=$SECONDS
    if ! run_suite "$suite" "$native" "$(modules_of "$suite")"; then
        echo "suites: $suite does not come to its end natively:"
        tail -15 "$native.log"
        failed=$((failed + 1))
        continue
    fi
    between=$SECONDS
    under_shim=(LD_PRELOAD="$PRELOAD" SMC_UPGRADE_AFTER=0 SMC_REPORT="$report")
    if ! run_suite "$suite" "$shim" "$(modules_of "$suite")" "${under_shim[@]}"; then
        echo "suites: $suite does not come to its end under the shim:"
        tail -40 "$shim.log"
        failed=$((failed + 1))
        continue
    fi
    compare "suites: $suite" "$native" "$shim" "$TIMED"
    bytes=$(ring_bytes "$report")
    echo "suites: $suite: $common same, $different different, $bytes bytes over rings" \
        "($((between - start)) s natively, $((SECONDS - between)) s under the shim)"
    head -n -1 "$WORK/comparison"
    passed=$((passed + common)) failed=$((failed + different))
    if ((bytes == 0)); then
        echo "suites: $suite: nothing went over a ring"
        failed=$((failed + 1))
    fi
done
echo "suites: $passed passed, $failed failed"
((failed == 0))
