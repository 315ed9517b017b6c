#!/bin/bash
# In one machine: the behaviour tests on this kernel, natively and with connections that move at once.
# Usage: behaviour.sh [FILTER]
set -uo pipefail
# shellcheck source=ci/lab/lib.sh
source "$LAB_ROOT/ci/lab/lib.sh"
failed=0
echo "== native"
"$LAB_BIN/behaviour" --filter "${1-}" || failed=1
echo "== at-once"
env SMC_UPGRADE_AFTER=0 LD_PRELOAD="$SMC_PRELOAD" "$LAB_BIN/behaviour" --reports --filter "${1-}" || failed=1
((failed == 0)) || fail "behaviour"
