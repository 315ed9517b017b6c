#!/bin/bash
# kill -9 of either end in the middle of traffic, natively and under the preload library. Afterwards smcss removes what
# the dead have left in the run directory.
# Usage: ci/killing.sh [ENVIRONMENT]...   (native at-once default switching; without: all)
#   SMC_KILLING_ROUNDS=N   rounds for each environment (default 300)
#   SMC_KILLING_SEED=N     the seed (default: the clock)
set -uo pipefail
# shellcheck source=tests/environment.sh
source "$(dirname "$0")/../tests/environment.sh"
programs=$(test_programs) || exit
rounds=${SMC_KILLING_ROUNDS:-300}
seed=${SMC_KILLING_SEED:-$(date +%s)}
passed=0 failed=0
(($# > 0)) || set -- native at-once default switching

complain() {
    failed=$((failed + 1))
    echo "killing: $*" >&2
}

# The shared memory of smc that no process is left to use would still be here.
segments() {
    find /dev/shm -name '*smc*' 2>/dev/null | wc -l
}

for environment in "$@"; do
    report=$WORK/report
    settings=()
    case $environment in
    native) ;;
    at-once) settings=(SMC_UPGRADE_AFTER=0) ;;
    default) ;;
    switching) settings=(SMC_UPGRADE_AFTER=0 SMC_TEST_SWITCH=20) ;;
    *) echo "killing: unknown environment $environment" >&2 && exit 2 ;;
    esac
    rm -rf "$report" "$WORK/run"
    mkdir -m 700 "$WORK/run"
    if [[ $environment != native ]]; then
        require_preload
        settings+=(LD_PRELOAD="$PRELOAD" SMC_REPORT="$report" SMC_RUN_DIR="$WORK/run")
    fi
    before=$(segments)
    if ! env "${settings[@]}" "$programs/killing" --seed "$seed" --rounds "$rounds"; then
        complain "$environment failed (seed $seed)"
        continue
    fi
    if [[ $environment != native ]]; then
        [[ $(ring_bytes "$report") != 0 ]] || complain "$environment: nothing went over a ring"
        [[ $(segments) -le $before ]] || complain "$environment: segments are left in /dev/shm"
        SMC_RUN_DIR=$WORK/run "$programs/smcss" >/dev/null || complain "$environment: smcss failed"
        left=$(find "$WORK/run" -type f | wc -l)
        [[ $left == 0 ]] || complain "$environment: smcss left $left files of dead processes"
    fi
    passed=$((passed + 1))
done
echo "killing: $passed passed, $failed failed"
((failed == 0))
