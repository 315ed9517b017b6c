#!/bin/bash
# CPython's own tests of its network modules, natively and under the preload library with connections that move at
# once. Each test must have the same result in both, and bytes must have gone over rings. Some tests depend on time: one
# that differs is run again by itself, in both ways, and counts as different if it differs three times.
# Usage: ci/cpython.sh [MODULE]...     (without: all eight; about seven minutes on two processors)
#   SMC_PYTHON=PATH   the interpreter (default: the first one found that has the test package)
set -uo pipefail
# shellcheck source=tests/environment.sh
source "$(dirname "$0")/../tests/environment.sh"
require_preload
(($# > 0)) || set -- test_socket test_select test_selectors test_asyncio test_ssl test_socketserver test_ftplib test_httpservers
# A module that takes longer hangs; the longest takes a minute and a half.
LIMIT=900

find_python() {
    local candidate
    for candidate in ${SMC_PYTHON:-python3 /usr/bin/python3 /usr/bin/python3.*[0-9]}; do
        if "$candidate" -c 'import test.test_socket, test.libregrtest' 2>/dev/null; then
            # The program itself: a wrapper would be one more process to preload.
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    echo "cpython: no Python with its test package: apt-get install python3 libpython3-testsuite" >&2
    return 1
}

python=$(find_python) || exit 2
passed=0 failed=0
# Options for a run of some tests only.
only=()
echo "cpython: $("$python" --version) at $python"

# run_module NAME RESULTS [NAME=VALUE]...: true when the module came to its end, whatever the results.
run_module() {
    local module=$1 results=$2 directory status resources=()
    shift 2
    # Its connections are local, but it asks for the resource; the others use it to reach hosts outside.
    [[ $module != test_socketserver ]] || resources=(-u network)
    directory=$(mktemp -d "$WORK/run.XXXXXX")
    # ThreadedVSOCKSocketStreamTest hangs natively where the host side of vsock is missing.
    (cd "$directory" && env "$@" timeout -k 10 "$LIMIT" "$python" -m test -v "${resources[@]}" --timeout $((LIMIT - 60)) \
        --junit-xml "$results" -i ThreadedVSOCKSocketStreamTest "${only[@]}" "$module") >"$results.log" 2>&1 </dev/null
    status=$?
    # 2 and 3 say that tests failed or that the environment was changed; the comparison tells whether that is new.
    [[ -s $results ]] && ((status == 0 || status == 2 || status == 3))
}

# shellcheck disable=SC2317 # called by compare
again() {
    local name status
    for name in "$@"; do
        only+=(-m "$name")
    done
    run_module "$module" "$native" && run_module "$module" "$shim" "${under_shim[@]}"
    status=$?
    only=()
    return $status
}

for module in "$@"; do
    native=$WORK/$module.native.xml
    shim=$WORK/$module.shim.xml
    report=$WORK/$module.report
    start=$SECONDS
    if ! run_module "$module" "$native"; then
        echo "cpython: $module does not come to its end natively:"
        tail -15 "$native.log"
        failed=$((failed + 1))
        continue
    fi
    between=$SECONDS
    under_shim=(LD_PRELOAD="$PRELOAD" SMC_UPGRADE_AFTER=0 SMC_REPORT="$report")
    if ! run_module "$module" "$shim" "${under_shim[@]}"; then
        echo "cpython: $module does not come to its end under the shim:"
        tail -40 "$shim.log"
        failed=$((failed + 1))
        continue
    fi
    compare "cpython: $module" "$native" "$shim"
    bytes=$(ring_bytes "$report")
    echo "cpython: $module: $common same, $different different, $bytes bytes over rings" \
        "($((between - start)) s natively, $((SECONDS - between)) s under the shim)"
    head -n -1 "$WORK/comparison"
    passed=$((passed + common)) failed=$((failed + different))
    total=$((${total:-0} + bytes))
done
# Some modules make no connection that exchanges anything; all of them together do.
if ((${total:-0} == 0)); then
    echo "cpython: nothing went over a ring"
    failed=$((failed + 1))
fi
echo "cpython: $passed passed, $failed failed"
((failed == 0))
