#!/bin/bash
# That the benchmark works: one round of a few workloads, of which nothing but the table is looked at. No times are judged.
set -uo pipefail
# shellcheck source=tests/environment.sh
source "$(dirname "$0")/../tests/environment.sh"
require_preload
cd "$ROOT" || exit 1
export SMC_PRELOAD=$PRELOAD
test_programs >/dev/null || exit
passed=0 failed=0

# check NAME COMMAND...
check() {
    local name=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "bench-smoke: $name failed" >&2
    fi
}

workloads=(rr-64 rr-64-epoll stream-64 short redis-1)
"$TARGET/release/smc-bench" --rounds=1 --ms=30 --json="$WORK/json" "${workloads[@]}" >"$WORK/table"
check "smc-bench" test $? -eq 0
cat "$WORK/table"
for workload in "${workloads[@]}"; do
    check "a row for $workload" grep -q "^| $workload | " "$WORK/table"
done
# Runs of a certain time may be over before a connection has moved, if the machine is busy; not runs of 200 requests.
# shellcheck disable=SC2016 # a program of awk
check "a ratio for redis-1" awk -F' [|] ' '$1 == "| redis-1" && $6 ~ /[0-9]/ { seen = 1 } END { exit !seen }' "$WORK/table"
check "JSON of all rounds" python3 -c '
import json, sys
results = json.load(open(sys.argv[1]))
rounds = [round for workload in results["rounds"] for round in workload["rounds"]]
assert rounds and all(dict(map(tuple, round["samples"])).keys() >= {"tcp", "smc"} for round in rounds)
' "$WORK/json"
echo "bench-smoke: $passed passed, $failed failed"
((failed == 0))
