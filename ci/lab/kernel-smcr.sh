#!/bin/bash
# In two machines: the kernels' own SMC-R, set up by smcr alone. Echo of position-coded bytes; both kernels say that the
# connections are SMC-R. And the other way about: without a common EID they are on TCP, and say why.
set -uo pipefail
# shellcheck source=ci/lab/lib.sh
source "$LAB_ROOT/ci/lab/lib.sh"
smcr=$LAB_BIN/smcr
peer=$LAB_BIN/echo-peer
at=10.9.0.1:7000

# exchange NAME ON-CLIENT ON-SERVER CONNECTIONS BYTES WRITE-SIZE; what is to be seen on each side while they are open.
exchange() {
    local sockets="bash $LAB_ROOT/ci/lab/kernel-sockets.sh"
    echo "== $1"
    if [[ $LAB_ROLE == a ]]; then
        timeout 100 "$peer" server smc "$at" "$4" "$LAB_SHARED/signal.$1.a" "$sockets '$3'" || fail "$1"
    else
        await "$1"
        timeout 100 "$peer" client smc "$at" "$4" "$5" "$6" "$sockets '$2'" || fail "$1"
    fi
}

exchange without-eid 'TCP 0x03030000' 'TCP 0x05000000/0x03030000' 1 10000 1000
kernel_smc
[[ $("$smcr" ueid show) == SMCLAB ]] || fail "ueid show: $("$smcr" ueid show)"
"$smcr" pnet show
[[ $("$smcr" --json pnet show) == *'"pnet_id":"LABNET"'* ]] || fail "pnet show"
"$smcr" ueid add SMCLAB 2>/dev/null && fail "an EID was added twice"
signal ready
await ready
exchange small 'SMCR CLNT rxe0/1' 'SMCR SERV rxe0/1' 1 2000 1
exchange large 'SMCR CLNT rxe0/1' 'SMCR SERV rxe0/1' 1 2000000 300000
exchange many 'SMCR CLNT rxe0/1' 'SMCR SERV rxe0/1' 8 100000 10000
"$smcr" ueid del SMCLAB || fail "ueid del"
[[ -z $("$smcr" ueid show) ]] || fail "an EID is left"
"$smcr" pnet del LABNET || fail "pnet del"
[[ $("$smcr" pnet show | wc -l) == 1 ]] || fail "a PNET id is left"
