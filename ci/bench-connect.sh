#!/bin/bash
# Connections a second of connections that make one request, under the preload library relative to native, and what
# the library adds to the start of a process. Paired, alternating, medians. Fails outside the limits.
# Usage: ci/bench-connect.sh [ROUNDS]
#   SMC_BENCH_MIN_RATIO=0.97    connections a second, relative to native
#   SMC_BENCH_MAX_START=1000    microseconds more for /bin/true
set -uo pipefail
# shellcheck source=tests/environment.sh
source "$(dirname "$0")/../tests/environment.sh"
require_preload
programs=$(test_programs) || exit
rounds=${1:-61}
minimum=${SMC_BENCH_MIN_RATIO:-0.97}
maximum=${SMC_BENCH_MAX_START:-1000}
passed=0 failed=0

# judge NAME VALUE CONDITION: CONDITION is an awk expression on v.
judge() {
    if [[ -n $2 ]] && awk -v v="$2" "BEGIN { exit !($3) }"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "bench-connect: $1: ${2:-no result}, expected $3" >&2
    fi
}

"$programs/connect-rate" connections "$PRELOAD" "$rounds" | tee "$WORK/rate"
judge "connections a second, ratio" "$(tail -1 "$WORK/rate")" "v >= $minimum"
"$programs/connect-rate" start "$PRELOAD" $((rounds * 5)) | tee "$WORK/start"
judge "start of /bin/true, microseconds" "$(tail -1 "$WORK/start")" "v < $maximum"
echo "bench-connect: $passed passed, $failed failed"
((failed == 0))
