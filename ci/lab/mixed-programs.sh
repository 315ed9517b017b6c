#!/bin/bash
# In two machines: unmodified programs over SMC-R, one end under the preload library, the other one on the kernel's AF_SMC by
# SMC_BACKEND=kernel. What they exchange is compared byte by byte. That SMC-R carried all of it is proved at both ends: while connections are
# open by smcss, and over all of them by SMC_REPORT at the library's end, by the kernel's statistics at the other.
# Usage: mixed-programs.sh [NAME]...     names of tests (redis, redis-20, churn, idle, iperf3, iperf3-R, iperf3-bidir, nginx), with -kernel-ours or -ours-kernel behind it (the
#                                        server's end first) of that pairing only; all without one
set -uo pipefail
# shellcheck source=ci/lab/lib.sh
source "$LAB_ROOT/ci/lab/lib.sh"
names=" $* "
server=10.9.0.1
# In memory, and taken out at the end: a thread that writes to the host's files waits for the host's disk, and while it does the other
# machine's LLC requests run out of time.
report=/run/report.$LAB_ROLE
trap 'cp /run/log.* /run/report.* "$LAB_SHARED" 2>/dev/null' EXIT
# The same on both machines, and in memory.
declare -r files=/run/files size=3000000 most=2000000 value=500000
export SMC_UEID=SMCLAB
# For smcr stats reset: the home folder cannot be written here.
export XDG_STATE_HOME=/run/state

# end NAME BACKEND: `program`, the words with which a program is started at this end. Its counters begin at 0.
end() {
    backend=$2
    if [[ $backend == kernel ]]; then
        program=(bash "$LAB_ROOT/smc_run.sh" --backend=kernel)
        "$LAB_BIN/smcr" stats reset >/dev/null || fail "$1: stats reset"
    else
        program=(env "LD_PRELOAD=$SMC_PRELOAD" "SMC_REPORT=$report" "SMC_LOG=info:/run/log.$1.$LAB_ROLE")
        : >"$report"
    fi
}

# on_smc PORT: connections with this port are open, all of them are SMC-R, and there are such. Shows one.
on_smc() {
    "$LAB_BIN/smcss" | awk -v port=":$1" '
        $1 == "ACTIVE" && ($4 ~ port "$" || $5 ~ port "$") { if ($NF == "SMCR") { good++; line = $0 } else bad++ }
        END { if (good && !bad) print "   " line; exit !(good && !bad) }'
}

# seen NAME PORT: connections while the programs run; tells it.
seen() {
    until_true 120 on_smc "$2" ||
        fail "$1: no connection on SMC-R: $("$LAB_BIN/smcss" -a; cat "$LAB_SHARED/$1".* "/run/log.$1.$LAB_ROLE")"
    signal "$1.seen"
}

# all_on_smc NAME LEAST READ WRITTEN: over SMC-R went, of this end, at least so many connections and bytes; over TCP none, or $left_out at most.
left_out=0
all_on_smc() {
    local said on off read written
    [[ $backend == kernel ]] && said=$(by_kernel) || said=$(by_report)
    echo "   $backend: $said (connections on SMC-R, not on it, bytes read, written)"
    read -r on off read written <<<"$said"
    ((on >= $2 && off <= left_out && read >= $3 && written >= $4)) ||
        fail "$1: $said, not $2 $left_out $3 $4: $("$LAB_BIN/smcr" -d stats; cat "/run/log.$1.$LAB_ROLE")"
}

# Connections on SMC-R in the expected role, others, bytes read, bytes written. By the kernel, and by the library.
by_kernel() {
    local role=server
    [[ $LAB_ROLE == a ]] || role=client
    "$LAB_BIN/smcr" -d stats | awk -v role=$role '
        $1 == role && $2 == "v1" { on = $NF }
        /SMC connections/ { all = $NF }
        /Handshake errors/ || /TCP fallback/ { off += $NF }
        /Data transmitted/ { bytes[n++] = $NF }
        END { print on + 0, off + all - on, bytes[0] + 0, bytes[1] + 0 }'
}
by_report() {
    local role=SERV
    [[ $LAB_ROLE == a ]] || role=CLNT
    awk -v on_smc="\"mode\":\"SMCR\".*\"role\":\"$role\",\"device\":\"rxe0/1\"" '
        function bytes(name) { return match($0, "\"" name "\":[0-9]+") ? substr($0, RSTART + length(name) + 3, RLENGTH - length(name) - 3) : 0 }
        /"state":"LISTEN"/ { next }
        $0 !~ on_smc { off++; next }
        { on++; read += bytes("ring_rx_bytes"); written += bytes("ring_tx_bytes") }
        END { print on + 0, off + 0, read + 0, written + 0 }' "$report"
}

# serve NAME PORT COMMAND...: in machine a, until the other machine is through.
serve() {
    local name=$1 port=$2
    shift 2
    "${program[@]}" "$@" >"$LAB_SHARED/$name.server.out" 2>&1 </dev/null &
    pid=$!
    until_true 120 listens "$port" || fail "$name does not listen: $(cat "$LAB_SHARED/$name.server.out")"
    signal "$name.ready"
    seen "$name" "$port"
    await "$name.done"
    kill "$pid" 2>/dev/null
    wait "$pid"
}

# The kernel's are no TCP sockets.
listens() {
    [[ -n $(ss -Hltn "sport = :$1")$("$LAB_BIN/smcss" -l | grep ":$1 ") ]]
}

# use NAME PORT COMMAND...: in machine b, again and again until both machines have seen a connection: how long a command takes is the machine's mood.
use() {
    local name=$1 port=$2
    shift 2
    await "$name.ready"
    again "$name" "$@" &
    pid=$!
    seen "$name" "$port"
}

again() {
    local name=$1 runs=0
    shift
    until ((runs > 0)) && [[ -e $LAB_SHARED/signal.$name.seen.a && -e $LAB_SHARED/signal.$name.seen.b ]]; do
        # It listens anew for each test.
        [[ $1 != iperf3 ]] || until_true 120 served "$name" $((runs + 1)) || fail "$name: iperf3 does not listen again"
        "${program[@]}" "$@" >"$LAB_SHARED/$name.client.out" 2>&1 </dev/null || return 1
        runs=$((runs + 1))
    done
}

# served NAME TIMES: the server has begun to listen so many times.
served() {
    (($(grep -c "Server listening" "$LAB_SHARED/$1.server.out") >= $2))
}

# ends NAME: what `use` has started comes to a good end.
ends() {
    wait "$pid" || fail "$1: $(cat "$LAB_SHARED/$1".{client,server}.out)"
    tr '\r' '\n' <"$LAB_SHARED/$1.client.out" | grep -E 'requests per second|sender|receiver' | sed 's/^/   /'
}

# NAME CONNECTIONS LEAST-READ LEAST-WRITTEN
redis_server() {
    serve "$1" 6379 redis-server --bind $server --protected-mode no --save '' --daemonize no
    all_on_smc "$@"
}

# NAME CONNECTIONS. Not more of them: a kernel server does the handshakes of connections begun at once one after the other, and a client waits six seconds
# for its own; and redis-benchmark never ends when a connect fails.
redis_client() {
    local cli=("${program[@]}" redis-cli -h "$server")
    use "$1" 6379 redis-benchmark -h $server -q -c "$2" -n $((60 * $2)) -t set,get -d 1000
    ends "$1"
    [[ $(head -c $value $files/bytes | "${cli[@]}" -x set value) == OK ]] || fail "$1: set"
    "${cli[@]}" get value | head -c $value | cmp -n $value - $files/bytes || fail "$1: another value came back"
    signal "$1.done"
    all_on_smc "$1" $((2 * $2 + 2)) $value $value
}

# A connection for each request. The last one of each command may be closed before its handshake is over, and it may run some times.
churn_client() {
    use "$1" 6379 redis-benchmark -h $server -q -k 0 -c 2 -n 100 -t set,get -d 1000
    ends "$1"
    signal "$1.done"
    all_on_smc "$1" 200 100000 100000
}

# Longer than the 30 s after which both sides send TEST LINK, and the 2 s they have for the answer.
idle_client() {
    use "$1" 6379 sh -c "{ echo ping; sleep 35; echo ping; } | redis-cli -h $server"
    ends "$1"
    [[ $(<"$LAB_SHARED/$1.client.out") == $'PONG\nPONG' ]] || fail "$1: $(cat "$LAB_SHARED/$1.client.out")"
    signal "$1.done"
    all_on_smc "$1" 1 10 10
}

# NAME CONNECTIONS LEAST-READ LEAST-WRITTEN [OPTION]... The receiver stops when it is told that the sender is through, so that the last bytes may be
# missing; and with --file iperf3 sends other bytes where a socket takes less than a block, on TCP too. The bytes themselves are for the other tests.
iperf3_server() {
    serve "$1" 5201 iperf3 --server --forceflush --bind $server
    all_on_smc "$@"
}

iperf3_client() {
    local name=$1 on=$2 read=$3 written=$4
    shift 4
    use "$name" 5201 iperf3 --client $server --length 64K --bytes $size "$@"
    ends "$name"
    signal "$name.done"
    all_on_smc "$name" "$on" "$read" "$written"
}

nginx_server() {
    cat >$files/conf <<END
daemon off; pid /run/nginx.pid; error_log stderr; user root; worker_processes 2;
events { worker_connections 64; }
http { access_log off; sendfile on; server { listen $server:8080; root $files; } }
END
    serve "$1" 8080 nginx -e stderr -c $files/conf
    all_on_smc "$1" 2 0 $((2 * size))
}

nginx_client() {
    # Slow enough to be seen.
    use "$1" 8080 curl -sS --fail --limit-rate 2M -o $files/got http://$server:8080/bytes
    ends "$1"
    cmp $files/got $files/bytes || fail "$1: other bytes"
    "${program[@]}" curl -sS --fail -o $files/got http://$server:8080/bytes || fail "$1, once more"
    cmp $files/got $files/bytes || fail "$1: other bytes the second time"
    signal "$1.done"
    all_on_smc "$1" 2 $((2 * size)) 0
}

# pair TEST SERVER CLIENT
pair() {
    local name=$1-$2-$3 started=$EPOCHREALTIME
    [[ $names == "  " || $names == *" $1 "* || $names == *" $name "* ]] || return 0
    echo "== $name"
    if [[ $LAB_ROLE == a ]]; then
        end "$name" "$2"
    else
        end "$name" "$3"
    fi
    # What was counted so far is not counted.
    signal "$name.begins"
    await "$name.begins"
    case $1,$LAB_ROLE in
    iperf3,a) iperf3_server "$name" 2 $most 0 ;;
    iperf3,b) iperf3_client "$name" 2 0 $size ;;
    iperf3-bidir,a) iperf3_server "$name" 5 $((most / 2)) $most ;;
    iperf3-bidir,b) iperf3_client "$name" 5 $((most / 2)) $most --parallel 2 --bidir ;;
    redis,a) redis_server "$name" 18 $value $value ;;
    redis,b) redis_client "$name" 8 ;;
    redis-20,a) redis_server "$name" 42 $value $value ;;
    redis-20,b) redis_client "$name" 20 ;;
    churn,*) left_out=20 ;;&
    churn,a) redis_server "$name" 200 100000 100000 ;;
    idle,a) redis_server "$name" 1 10 10 ;;
    iperf3-R,a) iperf3_server "$name" 2 0 $size ;;
    iperf3-R,b) iperf3_client "$name" 2 $most 0 --reverse ;;
    *,a) "${1}_server" "$name" ;;
    *,b) "${1}_client" "$name" ;;
    esac
    left_out=0
    awk -v a="$started" -v b="$EPOCHREALTIME" 'BEGIN { printf "   %.2f s\n", b - a }'
}

"$LAB_BIN/smcctl" tcp-option on >/dev/null || fail "tcp-option on"
kernel_smc
if [[ $LAB_ROLE == a ]]; then
    head -c $size /dev/urandom >"$LAB_SHARED/bytes"
    signal bytes
else
    await bytes
fi
mkdir $files
cp "$LAB_SHARED/bytes" $files || fail "no bytes to send"
for test in redis redis-20 churn idle iperf3 iperf3-R iperf3-bidir nginx; do
    pair $test kernel ours
    pair $test ours kernel
done
