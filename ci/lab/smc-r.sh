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

# What the two ends are to say of their connections: the engine itself, of the kernel's end smc_diag while they are open. In the words of
# smc-r-peer and of kernel-sockets.sh.
expect_smc() {
    engine_server=smc engine_client=smc
    kernel_server='SMCR SERV rxe0/1' kernel_client='SMCR CLNT rxe0/1'
}
expect_tcp() {
    engine_server='tcp 0x03030000' engine_client='tcp 0x05000000/0x03030000'
    kernel_server='TCP 0x03030000' kernel_client='TCP 0x05000000/0x03030000'
}

# end BACKEND ENGINE-EXPECTS KERNEL-EXPECTS OPTION...: one end's options, in `options`.
end() {
    if [[ $1 == kernel ]]; then
        options=(--backend kernel)
        # There nothing comes from the client, or it is closed at once.
        [[ $* == *abort* ]] || options+=(--command "bash $LAB_ROOT/ci/lab/kernel-sockets.sh '$3' 'ACTIVE|APPL|PEER'")
    else
        options=(--expect "$2")
    fi
}

# exchange NAME OPTION...: the options are for both ends.
exchange() {
    local name=$1 started=$EPOCHREALTIME
    shift
    [[ $names == "  " || $names == *" $name "* ]] || return 0
    echo "== $name"
    local options=() status
    if [[ $LAB_ROLE == a ]]; then
        end "$server" "$engine_server" "$kernel_server" "$@"
        timeout 100 "$peer" listen "$at" --ready "$LAB_SHARED/signal.$name.a" "${options[@]}" "$@"
        status=$?
    else
        await "$name"
        end "$client" "$engine_client" "$kernel_client" "$@"
        timeout 100 "$peer" connect "$at" "${options[@]}" "$@"
        status=$?
    fi
    # Retransmissions: many of them tell of a machine that is too slow for the timers of queue pairs.
    (cd /sys/class/infiniband/rxe0/ports/1/hw_counters && grep . duplicate_request out_of_seq_request rcvd_seq_err) | xargs echo "  "
    ((status == 0)) || fail "$name, status $status"
    awk -v a="$started" -v b="$EPOCHREALTIME" 'BEGIN { printf "   %.2f s\n", b - a }'
}

# killed NAME ROLE: the process in that machine is killed while both ends wait; the other one, an engine, sees an end.
killed() {
    local name=$1 role=$2 backend=$client verb=connect options=(--mode hang) status expected=0
    [[ $names == "  " || $names == *" $name "* ]] || return 0
    # A kernel notices by its own TEST LINK, after 30 to 42 seconds.
    [[ $role == a && $client == ours || $role == b && $server == ours ]] || return 0
    echo "== $name"
    if [[ $LAB_ROLE == a ]]; then
        backend=$server verb=listen
        options+=(--ready "$LAB_SHARED/signal.$name.a")
    else
        await "$name"
    fi
    [[ $backend == ours ]] || options+=(--backend kernel)
    if [[ $LAB_ROLE == "$role" ]]; then
        # shellcheck disable=SC2016 # for the shell that it starts
        options+=(--command 'kill -9 $PPID')
        expected=137
    fi
    timeout 100 "$peer" "$verb" "$at" "${options[@]}"
    status=$?
    ((status == expected)) || fail "$name, status $status"
}

# troubled NAME ROLE TROUBLE REPAIR: in that machine TROUBLE comes, a command for the shell, while both ends wait. Both see an end,
# and after REPAIR the next connection is on SMC again.
troubled() {
    local name=$1 role=$2 backend=$client verb=connect options=(--mode hang)
    [[ $names == "  " || $names == *" $name "* ]] || return 0
    echo "== $name"
    if [[ $LAB_ROLE == a ]]; then
        backend=$server verb=listen
        options+=(--ready "$LAB_SHARED/signal.$name.a")
    else
        await "$name"
    fi
    [[ $backend == ours ]] || options+=(--backend kernel)
    [[ $LAB_ROLE != "$role" ]] || options+=(--command "$3")
    timeout 100 "$peer" "$verb" "$at" "${options[@]}" || fail "$name"
    signal "$name.ended"
    await "$name.ended"
    if [[ $LAB_ROLE == "$role" ]]; then
        timeout 30 sh -c "$4" || fail "$name: $4"
        until_true 120 port_is_active || fail "$name: the port does not come back"
    fi
    signal "$name.mended"
    await "$name.mended"
    local names="  "
    exchange "$name-mended"
}

port_is_active() {
    [[ $(ibv_devinfo -d rxe0 2>/dev/null) == *PORT_ACTIVE* ]]
}

"$LAB_BIN/smcctl" tcp-option on >/dev/null || fail "tcp-option on"
kernel_smc

expect_tcp
# Between two engines it is the client's that has another.
other=()
[[ $server == ours && $LAB_ROLE == a && $client == ours ]] || other=(--eid OTHER)
exchange decline "${other[@]}" --bytes 100000
expect_smc
exchange first
exchange one-byte --bytes 200 --size 1
exchange echo --bytes 1000000 --size 10000
exchange large --bytes 16777216 --size 8388608
exchange stream --mode stream --bytes 3000000 --size 100000
exchange half --mode half --bytes 300000 --size 30000
exchange abort --mode abort
killed client-killed b
killed server-killed a
exchange sequential --connections 10 --sequential --bytes 10000
exchange many --connections 8 --bytes 100000 --size 10000
exchange most --connections 64 --bytes 20000 --size 10000
# In the background: it waits until the connections are closed.
remove="rdma link delete rxe0 &"
add="until [ ! -e /sys/class/infiniband/rxe0 ]; do sleep 0.1; done; rdma link add rxe0 type rxe netdev $LAB_IF"
troubled client-device-removed b "$remove" "$add"
troubled server-device-removed a "$remove" "$add"
troubled client-interface-down b "ip link set $LAB_IF down" "ip link set $LAB_IF up"
troubled server-interface-down a "ip link set $LAB_IF down" "ip link set $LAB_IF up"
