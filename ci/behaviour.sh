#!/bin/bash
# The same behaviour tests natively and under the preload library, with connections that move to rings at once and by
# default settings. Under the library, a connection that stayed on TCP where it should have moved is a failure.
# Usage: ci/behaviour.sh [ENVIRONMENT]...   (native at-once default switching; without: all)
#   SMC_BEHAVIOUR_FILTER=TEXT   only tests with TEXT in their names (behaviour --list)
set -uo pipefail
# shellcheck source=tests/environment.sh
source "$(dirname "$0")/../tests/environment.sh"
programs=$(test_programs) || exit
filter=${SMC_BEHAVIOUR_FILTER:-}
passed=0 failed=0
(($# > 0)) || set -- native at-once default switching

# Runs the Python program that starts others beside its connections.
subprocesses() {
    local environment=$1
    shift
    local report=$WORK/report
    rm -f "$report"
    if ! timeout 300 env "$@" SMC_REPORT="$report" python3 "$ROOT/tests/programs/subprocesses.py"; then
        echo "behaviour: subprocesses.py failed"
    elif [[ $environment != native && $(ring_bytes "$report") == 0 ]]; then
        echo "behaviour: subprocesses.py: nothing went over a ring"
    else
        passed=$((passed + 1))
        return
    fi
    failed=$((failed + 1))
}

for environment in "$@"; do
    settings=() reports=()
    case $environment in
    native) ;;
    at-once) settings=(SMC_UPGRADE_AFTER=0) ;;
    default) ;;
    switching) settings=(SMC_UPGRADE_AFTER=0 SMC_TEST_SWITCH=20) ;;
    *) echo "behaviour: unknown environment $environment" >&2 && exit 2 ;;
    esac
    if [[ $environment != native ]]; then
        require_preload
        settings+=(LD_PRELOAD="$PRELOAD")
        reports=(--reports)
    fi
    echo "behaviour: environment $environment"
    env "${settings[@]}" "$programs/behaviour" "${reports[@]}" --filter "$filter" | tee "$WORK/output"
    # The program's own last line; without one it did not come to its end.
    if read -r _ ok _ bad _ < <(tail -1 "$WORK/output" | grep '^behaviour: [0-9]* passed'); then
        passed=$((passed + ok)) failed=$((failed + bad))
    else
        failed=$((failed + 1))
    fi
    [[ -n $filter ]] || subprocesses "$environment" "${settings[@]}"
done
echo "behaviour: $passed passed, $failed failed"
((failed == 0))
