#!/bin/bash
# In two machines: unmodified programs under the preload library, over SMC-R, with the kernel's AF_SMC, the library or TCP at the other end.
# Both ends say what carried the bytes: the kernel by smc_diag, the library by SMC_REPORT.
# Usage: smc-r-programs.sh SERVER CLIENT [NAME]...     each ours or kernel; names of tests, all without one
set -uo pipefail
# shellcheck source=ci/lab/lib.sh
source "$LAB_ROOT/ci/lab/lib.sh"
server=$1 client=$2
shift 2
names=" $* "
at=10.9.0.1:7000
# In memory, and taken out at the end: a thread that writes to the host's files waits for the host's disk, and while it does the other
# machine's LLC requests run out of time.
report=/run/report.$LAB_ROLE
trap 'cp /run/log.* /run/report.* "$LAB_SHARED" 2>/dev/null' EXIT
export SMC_UEID=SMCLAB

# end BACKEND: `program`, the words with which a program is started at that end; `family`, what it opens.
end() {
    program=() family=tcp
    if [[ $1 == kernel ]]; then
        family=smc
    else
        program=(env "LD_PRELOAD=$SMC_PRELOAD" "SMC_REPORT=$report" "SMC_LOG=debug:/run/log.$LAB_ROLE")
    fi
}

# said NAME ROLE COUNT: so many connections of this end were on SMC-R.
said() {
    local count
    count=$(grep -c "\"mode\":\"SMCR\".*\"role\":\"$2\",\"device\":\"rxe0/1\"" "$report")
    cat "$report"
    [[ $count == "$3" ]] || fail "$1: $count connections on SMC-R, not $3"
}

wanted() {
    [[ $names == "  " || $names == *" $1 "* ]] || return 1
    echo "== $1"
    : >"$report"
}

# listens PORT: somebody does.
listens() {
    [[ -n $(ss -Hltn "sport = :$1") ]]
}

# on_server NAME COMMAND...: a server of ours that is ended when the other machine is done.
on_server() {
    local name=$1 pid
    shift
    "${program[@]}" "$@" >"$LAB_SHARED/out.$name" 2>&1 &
    pid=$!
    until_true 120 listens 7000 || fail "$name: nobody listens: $(cat "$LAB_SHARED/out.$name")"
    signal "$name"
    await "$name.done"
    kill "$pid"
    wait "$pid"
}

# some NAME ROLE LEAST: at least so many connections of this end were on SMC-R, and none on TCP.
some() {
    local on off
    on=$(grep -c "\"mode\":\"SMCR\".*\"role\":\"$2\",\"device\":\"rxe0/1\"" "$report")
    off=$(grep -v '"state":"LISTEN"' "$report" | grep -c '"mode":"TCP"')
    head -n 2 "$report"
    echo "   $on connections on SMC-R, $off on TCP"
    ((on >= $3 && off == 0)) || fail "$1: $on connections on SMC-R, not $3; $off on TCP"
}

# echo NAME CONNECTIONS BYTES WRITE-SIZE: position-coded bytes to the server and back, blocking calls.
echo_bytes() {
    local name=$1 started=$EPOCHREALTIME
    wanted "$name" || return 0
    local seen=() sockets="bash $LAB_ROOT/ci/lab/kernel-sockets.sh"
    if [[ $LAB_ROLE == a ]]; then
        end "$server"
        [[ $family == tcp ]] || seen=("$sockets 'SMCR SERV rxe0/1'")
        timeout 100 "${program[@]}" "$LAB_BIN/echo-peer" server "$family" "$at" "$2" "$LAB_SHARED/signal.$name.a" "${seen[@]}" ||
            fail "$name"
        [[ $family != tcp ]] || said "$name" SERV "$2"
    else
        await "$name"
        end "$client"
        [[ $family == tcp ]] || seen=("$sockets 'SMCR CLNT rxe0/1'")
        timeout 100 "${program[@]}" "$LAB_BIN/echo-peer" client "$family" "$at" "$2" "$3" "$4" "${seen[@]}" || fail "$name"
        [[ $family != tcp ]] || said "$name" CLNT "$2"
    fi
    awk -v a="$started" -v b="$EPOCHREALTIME" 'BEGIN { printf "   %.2f s\n", b - a }'
}

"$LAB_BIN/smcctl" tcp-option on >/dev/null || fail "tcp-option on"
kernel_smc
peers=$LAB_ROOT/tests/programs/smc_r_peers.py

echo_bytes first 1 10000 1000
echo_bytes large 1 4000000 300000
echo_bytes many 8 100000 10000

# A server that accepts after eight seconds, when a kernel client would have given up.
if wanted slow; then
    if [[ $LAB_ROLE == a ]]; then
        end ours
        timeout 100 "${program[@]}" python3 "$peers" slow-server 10.9.0.1 7000 8 "$LAB_SHARED/signal.slow.a" || fail "slow server"
        [[ $server != ours ]] || said slow SERV 1
    else
        await slow
        end "$client"
        if [[ $client == kernel ]]; then
            timeout 100 "$LAB_BIN/echo-peer" client smc "$at" 1 10000 1000 || fail "slow, client"
        else
            timeout 100 "${program[@]}" python3 "$peers" client 10.9.0.1 7000 >"$LAB_SHARED/said" || fail "slow, client"
            cat "$LAB_SHARED/said"
            [[ $(<"$LAB_SHARED/said") == *"100000 bytes came back" ]] || fail "slow, client"
            said slow CLNT 1
        fi
    fi
fi
# A Python client whose connect does not wait, with poll.
if [[ $client == ours ]] && wanted nonblocking; then
    if [[ $LAB_ROLE == a ]]; then
        end "$server"
        timeout 100 "${program[@]}" "$LAB_BIN/echo-peer" server "$family" "$at" 1 "$LAB_SHARED/signal.nonblocking.a" || fail "nonblocking, server"
    else
        await nonblocking
        end ours
        timeout 100 "${program[@]}" python3 "$peers" client 10.9.0.1 7000 >"$LAB_SHARED/said" || fail "nonblocking"
        cat "$LAB_SHARED/said"
        [[ $(<"$LAB_SHARED/said") == *"100000 bytes came back" ]] || fail "nonblocking"
        said nonblocking CLNT 1
    fi
fi
# MSG_PEEK with MSG_WAITALL.
if [[ $client == ours ]] && wanted peek; then
    if [[ $LAB_ROLE == a ]]; then
        end "$server"
        timeout 100 "${program[@]}" "$LAB_BIN/echo-peer" server "$family" "$at" 1 "$LAB_SHARED/signal.peek.a" || fail "peek, server"
    else
        await peek
        end ours
        timeout 100 "${program[@]}" python3 "$peers" peek 10.9.0.1 7000 || fail "peek"
        said peek CLNT 1
    fi
fi
[[ $server == ours && $client == ours ]] || exit 0

if wanted fork; then
    end ours
    if [[ $LAB_ROLE == a ]]; then
        timeout 100 "${program[@]}" python3 "$peers" fork-server 10.9.0.1 7000 "$LAB_SHARED/signal.fork.a" || fail "fork, server"
        cat "$report"
        # In the child, and in the parent.
        (($(grep '"role":"SERV"' "$report" | grep -o '"pid":[0-9]*' | sort -u | wc -l) >= 2)) || fail "fork: not in two processes"
    else
        await fork
        for count in 1 2; do
            timeout 100 "${program[@]}" python3 "$peers" client 10.9.0.1 7000 >"$LAB_SHARED/said" || fail "fork, client $count"
            cat "$LAB_SHARED/said"
            [[ $(<"$LAB_SHARED/said") == *"100000 bytes came back" ]] || fail "fork, client $count"
        done
        said fork CLNT 2
    fi
fi

# Waits for an end alone, and for edges, with bytes unread: as on TCP.
if wanted ends; then
    end ours
    if [[ $LAB_ROLE == a ]]; then
        timeout 100 "${program[@]}" python3 "$peers" ends-server 10.9.0.1 7000 "$LAB_SHARED/signal.ends.a" || fail "ends, server"
        said ends SERV 10
    else
        await ends
        timeout 100 "${program[@]}" python3 "$peers" ends 10.9.0.1 7000 || fail "ends, client"
        said ends CLNT 10
    fi
fi

# A signal handler that does blocking I/O above a thread that is in the library.
if wanted signals; then
    end ours
    if [[ $LAB_ROLE == a ]]; then
        timeout 100 "${program[@]}" "$LAB_BIN/echo-peer" server tcp "$at" 2 "$LAB_SHARED/signal.signals.a" || fail "signals, server"
    else
        await signals
        timeout 100 "${program[@]}" "$LAB_BIN/signal-peer" "$at" 300 || fail "signals"
        said signals CLNT 2
    fi
fi

if wanted self && [[ $LAB_ROLE == a ]]; then
    end ours
    timeout 60 "${program[@]}" python3 "$peers" self 10.9.0.1 7001 || fail "self"
fi

if wanted redis; then
    end ours
    if [[ $LAB_ROLE == a ]]; then
        on_server redis redis-server --port 7000 --bind 10.9.0.1 --protected-mode no --save '' --daemonize no
        some redis SERV 20
    else
        await redis
        timeout 120 "${program[@]}" redis-benchmark -h 10.9.0.1 -p 7000 -q -c 10 -n 2000 -t set,get || fail "redis-benchmark"
        signal redis.done
        some redis CLNT 20
    fi
fi

if wanted iperf; then
    end ours
    if [[ $LAB_ROLE == a ]]; then
        on_server iperf iperf3 --server --forceflush --bind 10.9.0.1 --port 7000
        some iperf SERV 6
    else
        await iperf
        # It listens anew for each test.
        serves() {
            (($(grep -c "Server listening" "$LAB_SHARED/out.iperf") >= $1))
        }
        timeout 100 "${program[@]}" iperf3 --client 10.9.0.1 --port 7000 --bytes 20M || fail "iperf3"
        until_true 120 serves 2 || fail "iperf3 does not listen again"
        timeout 100 "${program[@]}" iperf3 --client 10.9.0.1 --port 7000 --bytes 20M --reverse || fail "iperf3 --reverse"
        until_true 120 serves 3 || fail "iperf3 does not listen again"
        timeout 100 "${program[@]}" iperf3 --client 10.9.0.1 --port 7000 --bytes 5M --parallel 2 --bidir || fail "iperf3 --bidir"
        signal iperf.done
        some iperf CLNT 6
    fi
fi

# Processes that accept, made by one that listens.
if wanted nginx; then
    end ours
    if [[ $LAB_ROLE == a ]]; then
        mkdir -p "$LAB_SHARED/nginx/root"
        head -c 3000000 /dev/urandom >"$LAB_SHARED/nginx/root/file"
        cat >"$LAB_SHARED/nginx/conf" <<END
daemon off; pid $LAB_SHARED/nginx/pid; error_log stderr; user root; worker_processes 2;
events { worker_connections 64; }
http { access_log off; sendfile on; server { listen 10.9.0.1:7000; root $LAB_SHARED/nginx/root; } }
END
        on_server nginx nginx -e stderr -c "$LAB_SHARED/nginx/conf"
        some nginx SERV 3
    else
        await nginx
        for count in 1 2 3; do
            timeout 60 "${program[@]}" curl -sS -o "$LAB_SHARED/got" http://10.9.0.1:7000/file || fail "curl, $count"
            cmp "$LAB_SHARED/got" "$LAB_SHARED/nginx/root/file" || fail "curl, $count: other bytes"
        done
        signal nginx.done
        some nginx CLNT 3
    fi
fi

# Peers that promise SMC and do not keep it: an error or TCP, in time.
for how in silent garbage partial; do
    if wanted "rude-server-$how"; then
        if [[ $LAB_ROLE == a ]]; then
            timeout 60 python3 "$peers" rude-server 10.9.0.1 7000 $how "$LAB_SHARED/signal.rude-server-$how.a" || fail "rude server, $how"
        else
            await "rude-server-$how"
            end ours
            timeout 60 "${program[@]}" python3 "$peers" client 10.9.0.1 7000 >"$LAB_SHARED/said" || fail "client of a rude server, $how"
            cat "$LAB_SHARED/said"
            # No answer in six seconds; what is no CLC at once.
            [[ $how == garbage ]] && expected=EPROTO || expected=ETIMEDOUT
            [[ $(<"$LAB_SHARED/said") == *"error $expected" ]] || fail "client of a rude server, $how"
        fi
    fi
    if wanted "rude-client-$how"; then
        if [[ $LAB_ROLE == a ]]; then
            end ours
            timeout 60 "${program[@]}" python3 "$peers" slow-server 10.9.0.1 7000 0 \
                "$LAB_SHARED/signal.rude-client-$how.a" >"$LAB_SHARED/heard" || fail "server of a rude client, $how"
            cat "$LAB_SHARED/heard"
            # Nothing of what is no data of the program's.
            [[ $(<"$LAB_SHARED/heard") == "ended after 0 bytes: "* ]] || fail "server of a rude client, $how"
            grep -q '"reason":"0x04000000"' "$report" || fail "rude client, $how: $(cat "$report")"
        else
            await "rude-client-$how"
            timeout 60 python3 "$peers" rude-client 10.9.0.1 7000 $how >"$LAB_SHARED/said" || fail "rude client, $how"
            cat "$LAB_SHARED/said"
        fi
    fi
done
