#!/bin/bash
# Every socket option of the table, natively and under the preload library: the same answers in each phase of a socket, and
# connections on the path that the table says.
# Usage: ci/options.sh
set -uo pipefail
# shellcheck source=tests/environment.sh
source "$(dirname "$0")/../tests/environment.sh"
programs=$(test_programs) || exit
require_preload
passed=0 failed=0

# Adds up the last line of a program's output.
count() {
    if read -r _ ok _ bad _ < <(tail -1 "$WORK/output" | grep '^options: [0-9]* passed'); then
        passed=$((passed + ok)) failed=$((failed + bad))
    else
        failed=$((failed + 1))
        echo "options: $1 did not come to its end"
    fi
}

phases=(fresh listener tcp ring before-connect before-accept)
env -u LD_PRELOAD "$programs/options" "${phases[@]}" >"$WORK/native" || exit

for phase in "${phases[@]}"; do
    # A connection that is to be on TCP is not to become busy; the others move at once.
    after=0
    [[ $phase != tcp ]] || after=1000m
    env SMC_UPGRADE_AFTER=$after SMC_REPORT="$WORK/report" LD_PRELOAD="$PRELOAD" \
        timeout 600 "$programs/options" --native "$WORK/native" "$phase" | tee "$WORK/output"
    count "$phase"
done
env -u LD_PRELOAD SMC_PRELOAD="$PRELOAD" timeout 300 "$programs/options" --inherit | tee "$WORK/output"
count inherit
echo "options: $passed passed, $failed failed"
((failed == 0))
