#!/bin/bash
# kill -9 of either end in the middle of traffic, natively and, more than 1,000 times, under the preload library. Nothing is
# left afterwards: no process, no segment, no name; smcss removes what the dead have left in the run directory. (That the
# survivor gathers neither descriptors nor memory is checked by the program itself, while it runs.)
# Usage: ci/killing.sh [ENVIRONMENT]...   (native at-once default switching; without: all)
#   SMC_KILLING_ROUNDS=N   rounds for each environment (default 340; 100 natively)
#   SMC_KILLING_SEED=N     the seed (default: the clock)
set -uo pipefail
# shellcheck source=tests/environment.sh
source "$(dirname "$0")/../tests/environment.sh"
programs=$(test_programs) || exit
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

# Processes of a session that have not ended. Those that were just killed may take a moment.
processes_of() {
    local tries=1200
    while ((tries-- > 0)) && ps -o pid=,stat=,args= -s "$1" | awk '$2 !~ /^Z/ { found = 1 } END { exit !found }'; do
        sleep 0.05
    done
    ps -o pid=,stat=,args= -s "$1" | awk '$2 !~ /^Z/'
}

for environment in "$@"; do
    rounds=${SMC_KILLING_ROUNDS:-340}
    report=$WORK/report
    settings=()
    case $environment in
    native) rounds=${SMC_KILLING_ROUNDS:-100} ;;
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
    # A session of its own, whose number is the program's.
    setsid env "${settings[@]}" "$programs/killing" --seed "$seed" --rounds "$rounds" &
    session=$!
    if ! wait "$session"; then
        complain "$environment failed (seed $seed)"
        continue
    fi
    left=$(processes_of "$session")
    [[ -z $left ]] || complain "$environment: processes are left (seed $seed): $left"
    if [[ $environment != native ]]; then
        [[ $(ring_bytes "$report") != 0 ]] || complain "$environment: nothing went over a ring"
        [[ $(segments) -le $before ]] || complain "$environment: segments are left in /dev/shm"
        SMC_RUN_DIR=$WORK/run "$programs/smcss" >/dev/null || complain "$environment: smcss failed"
        left=$(find "$WORK/run" -type f | wc -l)
        [[ $left == 0 ]] || complain "$environment: smcss left $left files of dead processes"
    fi
    passed=$((passed + 1)) seed=$((seed + 1))
done
echo "killing: $passed passed, $failed failed"
((failed == 0))
