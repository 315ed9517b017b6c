#!/bin/bash
# In two machines, side by side: round trips and throughput of one unmodified program (rstream of rdmacm-utils) over TCP, over
# the kernel's SMC-R, under the preload library, and over rsocket. The emulated machines are slow: only ratios mean anything.
# Usage: compare.sh [ROUNDS]
set -uo pipefail
# shellcheck source=ci/lab/lib.sh
source "$LAB_ROOT/ci/lab/lib.sh"
rounds=${1:-3}
report=$LAB_SHARED/report.$LAB_ROLE
result=$LAB_SHARED/result
command -v rstream >/dev/null || fail "rstream is missing: apt-get install rdmacm-utils"

# with BACKEND: `program`, the words with which rstream is started.
with() {
    program=(env) option=(-T s)
    case $1 in
    tcp) ;;
    kernel) program=(bash "$LAB_ROOT/smc_run.sh" --backend=kernel) ;;
    ours) program=(env "LD_PRELOAD=$SMC_PRELOAD" "SMC_REPORT=$report" SMC_UEID=SMCLAB) ;;
    rsocket) option=() ;;
    esac
}

# measure NAME BACKEND: as the last column of rstream has it, microseconds for each transfer one way.
measure() {
    local name=$1 backend=$2 line
    shift 2
    with "$backend"
    : >"$report"
    if [[ $LAB_ROLE == a ]]; then
        timeout 120 "${program[@]}" rstream -b 10.9.0.1 -p 7471 -T b "${option[@]}" "$@" >"$LAB_SHARED/server" 2>&1 &
        local pid=$!
        [[ $backend == rsocket ]] || until_true 120 listening 7471 || fail "$name, $backend: nobody listens: $(cat "$LAB_SHARED/server")"
        signal "$name.$backend"
        wait $pid || fail "$name, $backend, server: $(cat "$LAB_SHARED/server")"
    else
        await "$name.$backend"
        # rsocket has no sockets that one could see.
        [[ $backend != rsocket ]] || sleep 2
        line=$(timeout 120 "${program[@]}" rstream -s 10.9.0.1 -p 7471 -T b "${option[@]}" "$@" 2>&1 | tail -n 1)
        [[ $line == custom* ]] || fail "$name, $backend: $line"
        echo "$name $backend ${line##* }" >>"$result"
    fi
    [[ $backend != ours || $(cat "$report") == *'"mode":"SMCR"'* ]] || fail "$name: not on SMC-R: $(cat "$report")"
}

listening() {
    [[ -n $(ss -Hltn "sport = :$1")$("$LAB_BIN/smcss" -l | grep ":$1 ") ]]
}

"$LAB_BIN/smcctl" tcp-option on >/dev/null || fail "tcp-option on"
kernel_smc
signal ready
await ready
for ((round = 1; round <= rounds; round++)); do
    for backend in tcp kernel ours rsocket; do
        measure "round-trip-64.$round" $backend -S 64 -C 1 -I 500
        measure "stream-64k.$round" $backend -S 65536 -C 300 -I 1
    done
done
[[ $LAB_ROLE == b ]] || exit 0
python3 - "$result" <<'END'
import statistics, sys
times = {}
for line in open(sys.argv[1]):
    name, backend, time = line.split()
    times.setdefault((name.split(".")[0], backend), []).append(float(time))
for (name, backend), t in times.items():
    ratios = [a / b for a, b in zip(times[name, "tcp"], t)]
    print(f"{name:14} {backend:8} {statistics.median(t):10.2f} us one way, {statistics.median(ratios):6.2f} of TCP's rate "
          f"({min(ratios):.2f} to {max(ratios):.2f})")
END
