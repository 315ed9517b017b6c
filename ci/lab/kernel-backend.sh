#!/bin/bash
# In two machines: unmodified programs on the kernels' own SMC-R by SMC_BACKEND=kernel, kernel to kernel. Both kernels say
# (smc_diag, through smcss) that the connections are SMC-R, and the programs see TCP sockets.
# Usage: kernel-backend.sh [NAME]...     names of tests, all without one
set -uo pipefail
# shellcheck source=ci/lab/lib.sh
source "$LAB_ROOT/ci/lab/lib.sh"
names=" $* "
server=10.9.0.1
smc=(bash "$LAB_ROOT/smc_run.sh" --backend=kernel)
# For smcr stats reset: the home folder cannot be written here.
export XDG_STATE_HOME=/run/state

wanted() {
    [[ $names == "  " || $names == *" $1 "* ]] || return 1
    echo "== $1"
}

# on_smc PORT: connections with this port are open, all of them are SMC-R, and there are such.
on_smc() {
    "$LAB_BIN/smcss" | awk -v port=":$1" '
        $1 == "ACTIVE" && ($4 ~ port "$" || $5 ~ port "$") { if ($NF == "SMCR") good++; else bad++ }
        END { exit !(good && !bad) }'
}

# seen NAME PORT PID: sees the connections while the program of PID runs.
seen() {
    until_true 120 on_smc "$2" || fail "$1: no connection on SMC-R: $("$LAB_BIN/smcss" -a)"
    "$LAB_BIN/smcss" -R | sed 's/^/   /'
    [[ $1 != redis ]] || {
        program=redis-server
        [[ $LAB_ROLE == a ]] || program=redis-benchmark
        # The kernel cuts names to fifteen characters.
        [[ $("$LAB_BIN/smcss" --json) == *"\"comm\":\"${program:0:15}\""* ]] || fail "smcss does not know whose they are"
        smcr_agrees
    }
}

# line WORDS...: the standard input has a line with these words, and begins with a heading.
line() {
    awk -v wanted="$*" 'NR > 1 { $1 = $1; if (index(" " $0 " ", " " wanted " ")) found = 1 } END { exit !found }'
}

# smcr_agrees: what smcr tells while connections are open.
smcr_agrees() {
    local smcr=$LAB_BIN/smcr role=SERV gid=0000:0000:0000:0000:0000:ffff:0a09:000 before after
    [[ $LAB_ROLE == a ]] || role=CLNT
    "$smcr" linkgroup show | line $role SINGLE 0 || fail "linkgroup show: $("$smcr" linkgroup)"
    "$smcr" -d linkgroup | line LABNET 2.1 SMCLAB || fail "-d linkgroup: $("$smcr" -d linkgroup)"
    [[ $("$smcr" -dd linkgroup) == *"Max-Links    : 2"* ]] || fail "-dd linkgroup: $("$smcr" -dd linkgroup)"
    "$smcr" linkgroup link-show netdev "$LAB_IF" | line "$LAB_IF" LINK_ACTIVE || fail "link-show: $("$smcr" linkgroup link-show)"
    "$smcr" -d linkgroup link-show all ibdev rxe0 |
        line rxe0 1 "$gid${LAB_ADDRESS##*.}" "$gid${LAB_PEER##*.}" || fail "-d link-show: $("$smcr" -d linkgroup link-show)"
    [[ $("$smcr" linkgroup show ibdev rxe9 | wc -l) == 1 ]] || fail "a link group on a device that is not there"
    [[ $("$smcr" --json linkgroup link-show) == *'"state":"LINK_ACTIVE"'* ]] || fail "--json linkgroup"
    "$smcr" -d device | line "$LAB_IF" rxe0 1 ACTIVE n/a Yes 1 '*LABNET' || fail "device: $("$smcr" device)"
    before=$(smc_connections)
    ((before > 0)) || fail "no connections in stats: $("$smcr" -d stats)"
    "$smcr" -d stats reset >/dev/null || fail "stats reset"
    after=$(smc_connections)
    ((after < before)) || fail "stats: $before connections before the reset, $after after it"
    (($(smc_connections --absolute) >= before)) || fail "stats --absolute: $("$smcr" stats --absolute)"
    "$smcr" -d stats --absolute
}

# smc_connections [--absolute]: connections on SMC-R by smcr's statistics.
smc_connections() {
    "$LAB_BIN/smcr" stats "$@" | awk '$1 $2 == "SMCconnections" { print $3 }'
}

# serve NAME PORT COMMAND...: in machine a, until the other machine is through.
serve() {
    local name=$1 port=$2 pid
    shift 2
    "${smc[@]}" "$@" >"$LAB_SHARED/$name.server" 2>&1 </dev/null &
    pid=$!
    until_true 120 listening "$port" || fail "$name does not listen: $(cat "$LAB_SHARED/$name.server")"
    signal "$name.ready"
    seen "$name" "$port"
    signal "$name.seen"
    await "$name.done"
    # It may have ended by itself.
    kill "$pid" 2>/dev/null
    wait "$pid" || true
}

listening() {
    "$LAB_BIN/smcss" -l | awk -v port=":$1" '$1 == "LISTEN" && $4 ~ port "$" { found = 1 } END { exit !found }'
}

# use NAME PORT COMMAND...: in machine b; the command must succeed, and run until both machines have seen it. One that runs
# for ever says DONE, a pattern of what it writes when it has done enough.
use() {
    local name=$1 port=$2 pid
    shift 2
    await "$name.ready"
    "${smc[@]}" "$@" >"$LAB_SHARED/$name.client" 2>&1 </dev/null &
    pid=$!
    seen "$name" "$port"
    await "$name.seen"
    if [[ -n ${DONE-} ]]; then
        until_true 120 grep -qE "$DONE" "$LAB_SHARED/$name.client" || fail "$name: $(cat "$LAB_SHARED/$name.client")"
        kill "$pid" || fail "$name ended"
    fi
    wait "$pid" || [[ -n ${DONE-} ]] || fail "$name: $(cat "$LAB_SHARED/$name.client")"
    tr '\r' '\n' <"$LAB_SHARED/$name.client" | grep -v overall: | grep . | tail -n 4 | cut -c 1-150 | sed 's/^/   /'
    signal "$name.done"
}

kernel_smc
signal ready
await ready

if wanted view; then
    if [[ $LAB_ROLE == a ]]; then
        "${smc[@]}" "$LAB_BIN/socket-view" listen $server:7000 "$LAB_SHARED/signal.view.a" --smc || fail view
    else
        await view
        "${smc[@]}" "$LAB_BIN/socket-view" connect $server:7000 --smc || fail view
    fi
fi

if wanted redis; then
    if [[ $LAB_ROLE == a ]]; then
        serve redis 6379 redis-server --bind $server --protected-mode no --save ''
    else
        DONE='GET: .* requests per second' use redis 6379 redis-benchmark -h $server -q -l -c 8 -n 400 -t set,get -d 1000
    fi
fi

if wanted iperf3; then
    for direction in '' -R; do
        if [[ $LAB_ROLE == a ]]; then
            serve "iperf3$direction" 5201 iperf3 --server --one-off
        else
            # shellcheck disable=SC2086 # no argument rather than an empty one
            use "iperf3$direction" 5201 iperf3 --client $server --time 5 $direction
        fi
    done
fi

if wanted curl; then
    if [[ $LAB_ROLE == a ]]; then
        mkdir /run/www
        head -c 30000000 /dev/zero >/run/www/zeros || fail "no file to serve"
        serve curl 8080 python3 -m http.server --bind $server --directory /run/www 8080
    else
        use curl 8080 curl --silent --show-error --fail --output "$LAB_SHARED/zeros" http://$server:8080/zeros
        [[ $(stat -c %s "$LAB_SHARED/zeros") == 30000000 ]] || fail "curl got another number of bytes"
        cmp -n 30000000 "$LAB_SHARED/zeros" /dev/zero || fail "curl got other bytes"
    fi
fi
