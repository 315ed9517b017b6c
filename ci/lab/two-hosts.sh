#!/bin/bash
# In two machines, where SMC-R is not to be had: programs under smc_run on two hosts exchange the same bytes as without it, over TCP, and
# every connection says what is missing.
set -uo pipefail
# shellcheck source=ci/lab/lib.sh
source "$LAB_ROOT/ci/lab/lib.sh"

report=$LAB_SHARED/report.$LAB_ROLE
smc=(timeout 100 bash "$LAB_ROOT/smc_run.sh" --upgrade-after=0 --report="$report")

# exchange NAME CODE TEXT: four connections, which say this at both ends.
exchange() {
    echo "== $1"
    : >"$report"
    if [[ $LAB_ROLE == a ]]; then
        "${smc[@]}" "$LAB_BIN/echo-peer" server tcp 10.9.0.1:7000 4 "$LAB_SHARED/signal.$1.a" || fail "$1: server"
    else
        await "$1"
        "${smc[@]}" "$LAB_BIN/echo-peer" client tcp 10.9.0.1:7000 4 1000000 50000 || fail "$1: client"
    fi
    cat "$report"
    [[ $(grep -c "\"mode\":\"TCP\".*\"reason\":\"$2\".*\"reason_text\":\"[^\"]*$3\"" "$report") == 4 ]] || fail "$1: not four connections on TCP with $2, $3"
    [[ $(wc -l <"$report") == 4 ]] || fail "$1: more than four connections"
}

exchange no-option 0x03010000 "the TCP option of SMC is not there to ask with"
# At the one end, so that its peer does not answer.
[[ $LAB_ROLE == a ]] || "$LAB_BIN/smcctl" tcp-option on >/dev/null || fail "tcp-option on"
if [[ $LAB_ROLE == a ]]; then
    exchange one-sided 0x03010000 "the TCP option of SMC is not there to ask with"
else
    exchange one-sided 0x03010000 "or in another network namespace"
fi
rdma link delete rxe0 || fail "rdma link delete"
exchange no-device 0x03030000 "this host has no RDMA device"
