#!/bin/bash
# In two machines: SMC-R over siw, software iWARP, whose queue pairs rdma_cm connects. Both ends are ours: Linux's AF_SMC refuses such devices.
# What carried the bytes is said by the engine itself, and of unmodified programs by smcss and SMC_REPORT.
# Usage: iwarp.sh [NAME]...     names of tests, all without one
set -uo pipefail
# shellcheck source=ci/lab/lib.sh
source "$LAB_ROOT/ci/lab/lib.sh"
names=" $* "
at=10.9.0.1:7000
report=$LAB_SHARED/report.$LAB_ROLE
log=$LAB_SHARED/log.$LAB_ROLE
program=(timeout 60 env "LD_PRELOAD=$SMC_PRELOAD" "SMC_REPORT=$report" "SMC_LOG=debug:$log")
ports=65500-65515

wanted() {
    [[ $names == "  " || $names == *" $1 "* ]] || return 1
    echo "== $1"
    : >"$report"
    : >"$log"
}

# engines NAME OPTION...: by the engine of smc-rdma at both ends; the options are for both.
engines() {
    local name=$1 end=(connect "$at") status
    wanted "$name" || return 0
    shift
    if [[ $LAB_ROLE == a ]]; then
        end=(listen "$at" --ready "$LAB_SHARED/signal.$name.a")
    else
        await "$name"
    fi
    timeout 60 "$LAB_BIN/smc-r-peer" "${end[@]}" --expect smc "$@" >"$LAB_SHARED/out.$name.$LAB_ROLE" 2>&1
    status=$?
    ((status == 0)) || cat "$LAB_SHARED/out.$name.$LAB_ROLE"
    ((status == 0)) || fail "$name, status $status"
    [[ $(<"$LAB_SHARED/out.$name.$LAB_ROLE") == *"smc on siw0/1"* ]] || fail "$name: not on siw0"
}

# killed NAME ROLE: the process in that machine is killed while both ends wait; the other one sees an end.
killed() {
    local name=$1 end=(connect "$at") options=() expected=0 status
    wanted "$name" || return 0
    if [[ $LAB_ROLE == a ]]; then
        end=(listen "$at" --ready "$LAB_SHARED/signal.$name.a")
    else
        await "$name"
    fi
    if [[ $LAB_ROLE == "$2" ]]; then
        # shellcheck disable=SC2016 # for the shell that it starts
        options=(--command 'kill -9 $PPID')
        expected=137
    fi
    timeout 60 "$LAB_BIN/smc-r-peer" "${end[@]}" --mode hang "${options[@]}" 2>&1 | grep -v handshake
    status=${PIPESTATUS[0]}
    ((status == expected)) || fail "$name, status $status"
}

# echoes NAME CONNECTIONS COMMAND: position-coded bytes by an unmodified program; the command while a connection is open.
echoes() {
    local name=$1
    if [[ $LAB_ROLE == a ]]; then
        "${program[@]}" "$LAB_BIN/echo-peer" server tcp "$at" "$2" "$LAB_SHARED/signal.$name.a" "$3" || fail "$name"
    else
        await "$name"
        "${program[@]}" "$LAB_BIN/echo-peer" client tcp "$at" "$2" 300000 20000 "$3" || fail "$name"
    fi
}

# said NAME COUNT PATTERN: so many of this end's connections, and no others, fit.
said() {
    local count all
    count=$(grep -c "$3" "$report")
    all=$(grep -vc '"state":"LISTEN"' "$report")
    ((count == $2 && all == $2)) || cat "$report" "$log"
    ((count == $2 && all == $2)) || fail "$1: $count of $all connections are $3, not $2"
}

# tcp NAME SERVER-REASON: two connections on TCP, because of the server.
tcp() {
    echoes "$1" 2 true
    if [[ $LAB_ROLE == a ]]; then
        said "$1" 2 "\"mode\":\"TCP\".*\"reason\":\"$2\""
    else
        said "$1" 2 "\"mode\":\"TCP\".*\"reason\":\"0x05000000\",\"peer_reason\":\"$2\""
    fi
}

# occupy FIRST LAST: another program listens on these ports.
occupy() {
    # shellcheck disable=SC2016 # for Perl
    perl -MIO::Socket::INET -e 'my @all = map { IO::Socket::INET->new(LocalAddr => "10.9.0.1", LocalPort => $_, Listen => 1, ReuseAddr => 1)
        or die "$_: $!" } $ARGV[0] .. $ARGV[1]; sleep' "$1" "$2" &
    occupied=$!
    until_true 120 listens "$2" || fail "nobody listens on $2"
}
vacate() {
    kill "$occupied"
    wait "$occupied" 2>/dev/null
}
listens() {
    [[ -n $(ss -Hltn "sport = :$1") ]]
}

for module in rdma_ucm libcrc32c; do
    modprobe $module || fail "$module"
done
insmod "$LAB_KERNEL/siw.ko" || fail "siw: ci/lab/fetch.sh siw"
rdma link delete rxe0 || fail "rxe0"
rdma link add siw0 type siw netdev "$LAB_IF" || fail "siw0"
"$LAB_BIN/smcctl" tcp-option on >/dev/null || fail "tcp-option on"

engines first
engines many --connections 8 --bytes 100000 --size 10000
engines stream --mode stream --bytes 1000000 --size 100000
engines half --mode half --bytes 300000 --size 30000
engines abort --mode abort
killed client-killed b
killed server-killed a

if wanted programs; then
    # shellcheck disable=SC2016 # for the shell that it starts
    echoes programs 4 'unset LD_PRELOAD; said=$("$LAB_BIN/smcss" --json); echo "$said" | grep -q "\"mode\":\"SMCR\".*\"device\":\"siw0/1\"" || { echo "$said"; exit 1; }'
    said programs 4 '"mode":"SMCR".*"device":"siw0/1"'
fi

if wanted redis; then
    if [[ $LAB_ROLE == a ]]; then
        "${program[@]}" redis-server --port 7000 --bind 10.9.0.1 --protected-mode no --save '' --daemonize no >/dev/null &
        until_true 120 listens 7000 || fail "redis does not listen"
        signal redis
        await redis.done
        kill $!
        wait $!
    else
        await redis
        "${program[@]}" redis-benchmark -h 10.9.0.1 -p 7000 -q -c 4 -n 100 -t set,get >/dev/null || fail "redis-benchmark"
        signal redis.done
    fi
    said redis "$(grep -vc '"state":"LISTEN"' "$report")" '"mode":"SMCR".*"device":"siw0/1"'
    (($(wc -l <"$report") >= 8)) || fail "redis: too few connections"
fi

# One port is left.
if wanted last-port; then
    [[ $LAB_ROLE != a ]] || occupy 65500 65514
    echoes last-port 1 true
    said last-port 1 '"mode":"SMCR".*"device":"siw0/1"'
    if [[ $LAB_ROLE == a ]]; then
        grep -q 'listening on 10.9.0.1:65515' "$log" || fail "not on 65515"
        vacate
    fi
fi

if wanted no-port; then
    [[ $LAB_ROLE != a ]] || occupy 65500 65515
    tcp no-port 0x09990002
    if [[ $LAB_ROLE == a ]]; then
        vacate
        grep "none of the ports" "$log"
        [[ $(grep -c "none of the ports $ports is free on 10.9.0.1" "$log") == 1 ]] || fail "no-port: not one line that says so"
    fi
fi

# A firewall between that drops what goes to the ports: the handshake ends on TCP all the same, and both programs end.
if wanted firewall; then
    if [[ $LAB_ROLE == a ]]; then
        tc qdisc add dev "$LAB_IF" ingress || fail "tc"
        tc filter add dev "$LAB_IF" parent ffff: protocol ip u32 match ip dport 65500 0xfff0 action drop || fail "tc filter"
    fi
    tcp firewall 0x09990002
    # Four clients at once: what one of them finds out, those that waited for it are told. One after the other they would be late.
    : >"$report"
    if [[ $LAB_ROLE == a ]]; then
        "${program[@]}" "$LAB_BIN/echo-peer" server tcp "$at" 4 "$LAB_SHARED/signal.firewall-many.a" || fail "firewall-many"
        said firewall-many 4 '"mode":"TCP".*"reason":"0x09990002"'
    else
        await firewall-many
        clients=()
        for _ in 1 2 3 4; do
            "${program[@]}" "$LAB_BIN/echo-peer" client tcp "$at" 1 300000 20000 &
            clients+=($!)
        done
        for client in "${clients[@]}"; do
            wait "$client" || fail "firewall-many"
        done
        said firewall-many 4 '"mode":"TCP".*"reason":"0x05000000","peer_reason":"0x09990002"'
    fi
    [[ $LAB_ROLE != a ]] || tc qdisc delete dev "$LAB_IF" ingress
fi

# Other ports than those that are taken.
if wanted other-ports; then
    [[ $LAB_ROLE != a ]] || occupy 65500 65515
    program+=(SMC_RDMA_PORTS=7100-7101)
    echoes other-ports 1 true
    said other-ports 1 '"mode":"SMCR".*"device":"siw0/1"'
    [[ $LAB_ROLE != a ]] || vacate
fi

# A client whose device is of another kind.
if wanted other-kind; then
    if [[ $LAB_ROLE == b ]]; then
        rdma link delete siw0 || fail "siw0 stays"
        rdma link add rxe0 type rxe netdev "$LAB_IF" || fail "rxe0"
    fi
    tcp other-kind 0x03030000
fi
