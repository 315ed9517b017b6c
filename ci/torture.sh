#!/bin/bash
# The stream torture over every way of waiting, natively and with connections that move to rings at once, by default
# settings, in mid-stream, and back and forth at random. Seeds differ from run to run and are printed on failure.
# Usage: ci/torture.sh [ENVIRONMENT]...   (native at-once default mid-stream switching small-rings; without: all)
#   SMC_TORTURE_RUNS=N   seeds for each combination (default 2)
#   SMC_TORTURE_SEED=N   the first seed (default: the clock)
set -uo pipefail
# shellcheck source=tests/environment.sh
source "$(dirname "$0")/../tests/environment.sh"
programs=$(test_programs) || exit
runs=${SMC_TORTURE_RUNS:-2}
seed=${SMC_TORTURE_SEED:-$(date +%s)}
passed=0 failed=0
(($# > 0)) || set -- native at-once default mid-stream switching small-rings

settings() {
    case $1 in
    at-once) echo SMC_UPGRADE_AFTER=0 ;;
    default) echo SMC_UNUSED= ;;
    # Below what most connections carry in the shortest of the tests below.
    mid-stream) echo SMC_UPGRADE_AFTER=100k ;;
    switching) echo SMC_UPGRADE_AFTER=0 SMC_TEST_SWITCH=40 ;;
    small-rings) echo SMC_UPGRADE_AFTER=0 SMC_TEST_SWITCH=100 SMC_RCVBUF=16k SMC_SNDBUF=16k ;;
    *) return 1 ;;
    esac
}

# Where connections move only after a while, it is a matter of chance how many of those of one run do; most runs have some.
moves_late() {
    [[ $1 == default || $1 == mid-stream ]]
}

# torture ENVIRONMENT OPTION...
torture() {
    local environment=$1 report=$WORK/report
    shift
    local prefix=()
    if [[ $environment != native ]]; then
        local words
        read -ra words <<<"$(settings "$environment")"
        rm -f "$report"
        prefix=(under_shim "$report" "${words[@]}")
    fi
    if ! "${prefix[@]}" "$programs/torture" --seed "$seed" --runs "$runs" "$@" >"$WORK/output" 2>&1; then
        failed=$((failed + 1))
        echo "torture: $environment ${*} (settings: ${prefix[*]:2}):" >&2
        tail -40 "$WORK/output" >&2
    elif [[ $environment == native || $(ring_bytes "$report") != 0 ]]; then
        passed=$((passed + 1))
    elif moves_late "$environment"; then
        passed=$((passed + 1)) unmoved=$((unmoved + 1))
    else
        failed=$((failed + 1))
        echo "torture: $environment $*: nothing went over a ring" >&2
    fi
    seed=$((seed + runs))
}

for environment in "$@"; do
    if [[ $environment != native ]]; then
        settings "$environment" >/dev/null || { echo "torture: unknown environment $environment" >&2 && exit 2; }
        require_preload
    fi
    before=$((passed + failed)) failed_before=$failed unmoved=0
    for wait in blocking poll ppoll select pselect epoll-lt epoll-et epoll-oneshot epoll-exclusive; do
        torture "$environment" --wait "$wait"
        torture "$environment" --wait "$wait" --client-wait random --signals
        torture "$environment" --wait "$wait" --layout threads
        [[ $wait == blocking ]] || torture "$environment" --wait "$wait" --layout one-thread
    done
    for family in 4 6 mapped mapped-both; do
        torture "$environment" --family "$family" --wait random
    done
    # Many small pieces, and many connections.
    torture "$environment" --wait random --max-size 300 --bytes 200k
    torture "$environment" --wait random --connections 200 --concurrency 50 --bytes 300k
    if ((unmoved * 4 > passed + failed - before)); then
        failed=$((failed + 1))
        echo "torture: $environment: in $unmoved of $((passed + failed - before)) runs nothing went over a ring" >&2
    fi
    echo "torture: $environment: $((failed - failed_before)) failed (seeds up to $((seed - 1)))"
done
echo "torture: $passed passed, $failed failed"
((failed == 0))
