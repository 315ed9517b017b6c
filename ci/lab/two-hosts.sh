#!/bin/bash
# In two machines, without a device in common use: programs under smc_run on two hosts exchange the same bytes as without
# it, over TCP, and every connection says why.
set -uo pipefail
# shellcheck source=ci/lab/lib.sh
source "$LAB_ROOT/ci/lab/lib.sh"

report=$LAB_SHARED/report.$LAB_ROLE
smc=(timeout 100 bash "$LAB_ROOT/smc_run.sh" --upgrade-after=0 --report="$report")
if [[ $LAB_ROLE == a ]]; then
    "${smc[@]}" "$LAB_BIN/echo-peer" server tcp 10.9.0.1:7000 4 "$LAB_SHARED/signal.listening.a" || fail "server"
else
    await listening
    "${smc[@]}" "$LAB_BIN/echo-peer" client tcp 10.9.0.1:7000 4 1000000 50000 || fail "client"
fi
cat "$report"
[[ $(grep -c '"mode":"TCP".*"reason":"0x03010000"' "$report") == 4 ]] || fail "not four connections on TCP with 0x03010000"
[[ $(wc -l <"$report") == 4 ]] || fail "more than four connections"
