#!/bin/bash
# In one machine: soft-RoCE is there, and the preload library moves connections of Redis to shared memory on this kernel.
set -uo pipefail
# shellcheck source=ci/lab/lib.sh
source "$LAB_ROOT/ci/lab/lib.sh"

uname -r
[[ $(ibv_devinfo -d rxe0) == *PORT_ACTIVE* ]] || fail "rxe0 is not active"
for module in smc smc_diag rdma_rxe; do
    [[ -d /sys/module/$module ]] || fail "module $module is not loaded"
done

smc=(bash "$LAB_ROOT/smc_run.sh" --report="$LAB_SHARED/report")
"${smc[@]}" redis-server --port 7000 --bind 127.0.0.1 --save '' --daemonize no >"$LAB_SHARED/redis" 2>&1 &
redis=$!
until_true 120 redis-cli -p 7000 ping >/dev/null 2>&1 || fail "redis-server does not answer: $(cat "$LAB_SHARED/redis")"
# Until connections have been seen, and with far more bytes than it takes to move one: nobody knows how long that takes, nor how evenly
# the requests are spread.
: >"$LAB_SHARED/wanted"
again() {
    while [[ -e $LAB_SHARED/wanted ]]; do
        "${smc[@]}" redis-benchmark -p 7000 -q -c 10 -n 5000 -d 1000 -t set,get || return 1
    done
}
again >"$LAB_SHARED/benchmark" &
benchmark=$!
on_shared_memory() {
    [[ $("$LAB_BIN/smcss" --json) == *'"mode":"SMCD"'* ]]
}
until_true 120 on_shared_memory || fail "no connection on shared memory: $("$LAB_BIN/smcss" -d)"
"$LAB_BIN/smcss" -d
rm "$LAB_SHARED/wanted"
wait "$benchmark" || fail "redis-benchmark"
kill "$redis"
wait "$redis"
moved=$(grep -o '"mode":"SMCD"' "$LAB_SHARED/report" | wc -l)
echo "$moved reports of connections on shared memory"
# Both ends of ten connections of each of two tests.
((moved >= 40)) || fail "fewer connections moved than there were"
