#!/bin/bash
# In two machines: connections over SMC-R by the engine of smc-rdma, with the kernel's AF_SMC or itself at the other end.
# What carried them is proved on both sides: by the kernel's smc_diag, by the engine's own word.
# Usage: smc-r.sh SERVER CLIENT [NAME]...     each ours or kernel; names of tests, all without one
set -uo pipefail
# shellcheck source=ci/lab/lib.sh
source "$LAB_ROOT/ci/lab/lib.sh"
export RUST_BACKTRACE=1
server=$1 client=$2
shift 2
names=" $* "
peer=$LAB_BIN/smc-r-peer
at=10.9.0.1:7000

# On the kernel's side of a pairing, while the connections are open.
diag_server="bash $LAB_ROOT/ci/lab/kernel-sockets.sh 'SMCR SERV rxe0/1'"
diag_client="bash $LAB_ROOT/ci/lab/kernel-sockets.sh 'SMCR CLNT rxe0/1'"

# exchange NAME OPTION...: the options are for both ends.
exchange() {
    local name=$1 started=$EPOCHREALTIME
    shift
    [[ $names == "  " || $names == *" $name "* ]] || return 0
    echo "== $name"
    local options=() status
    if [[ $LAB_ROLE == a ]]; then
        if [[ $server == kernel ]]; then
            options=(--backend kernel)
            [[ $* == *abort* ]] || options+=(--command "$diag_server")
        else
            options=(--expect smc)
        fi
        timeout 100 "$peer" listen "$at" --ready "$LAB_SHARED/signal.$name.a" "${options[@]}" "$@"
        status=$?
    else
        await "$name"
        if [[ $client == kernel ]]; then
            options=(--backend kernel)
            [[ $* == *abort* ]] || options+=(--command "$diag_client")
        else
            options=(--expect smc)
        fi
        timeout 100 "$peer" connect "$at" "${options[@]}" "$@"
        status=$?
    fi
    ((status == 0)) || fail "$name, status $status"
    awk -v a="$started" -v b="$EPOCHREALTIME" 'BEGIN { printf "   %.2f s\n", b - a }'
}

"$LAB_BIN/smcctl" tcp-option on >/dev/null || fail "tcp-option on"
kernel_smc

exchange first
exchange one-byte --bytes 200 --size 1
exchange echo --bytes 1000000 --size 10000
exchange large --bytes 16777216 --size 8388608
exchange stream --mode stream --bytes 3000000 --size 100000
exchange half --mode half --bytes 300000 --size 30000
exchange abort --mode abort
exchange sequential --connections 10 --sequential --bytes 10000
exchange many --connections 16 --bytes 100000 --size 10000
