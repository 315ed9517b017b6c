#!/bin/bash
# Redis over TCP and over SMC, side by side. Installs and builds what it needs, starts one redis-server natively and one
# under smc_run.sh, measures both with redis-benchmark in alternating rounds, shows smcss while connections are
# open, and compares data written and read back. Fails, and says why, when SMC was not used.
#
# DEMO_ROUNDS (5): rounds of each measurement.  DEMO_REQUESTS (100000): requests of one round with 50 clients; a
# quarter of it with one client.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
root=$PWD
rounds=${DEMO_ROUNDS:-5}
requests=${DEMO_REQUESTS:-100000}

fail() {
    echo "demo: $*" >&2
    exit 1
}

bash ci/deps.sh demo </dev/null || fail "the programs it needs could not be installed"
echo "demo: building (cargo build --release)"
cargo build --release --locked --quiet -p smc-shim -p smc-tools </dev/null || fail "the build failed"
target=${CARGO_TARGET_DIR:-$root/target}
[[ $target == /* ]] || target=$root/$target
export SMC_PRELOAD=$target/release/libsmc_preload.so
smcss=$target/release/smcss
[[ -r $SMC_PRELOAD && -x $smcss ]] || fail "the build left no $SMC_PRELOAD or no $smcss"
# The demonstration is of the defaults.
unset SMC_RCVBUF SMC_SNDBUF SMC_BACKEND SMC_UEID SMC_UPGRADE_AFTER SMC_DISABLE SMC_LOG SMC_REPORT LD_PRELOAD
smc=(bash "$root/smc_run.sh")

work=$(mktemp -d "${TMPDIR:-/tmp}/smc-demo.XXXXXX") || fail "no temporary folder"
started=()
finish() {
    local pid
    for pid in "${started[@]}"; do
        kill -TERM "$pid" 2>/dev/null
    done
    for pid in "${started[@]}"; do
        wait "$pid" 2>/dev/null
    done
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# start_redis NAME [COMMAND...]: starts redis-server under COMMAND on a free port of 127.0.0.1; sets `port` and `pid`.
# Below the usual ephemeral ports, so that no client takes it. A server that answers with our process id is ours.
start_redis() {
    local name=$1 try
    shift
    for ((try = 0; try < 20; try++)); do
        port=$((16000 + RANDOM % 16000))
        mkdir -p "$work/$name"
        "$@" redis-server --port "$port" --bind 127.0.0.1 --daemonize no --save "" --appendonly no \
            --dir "$work/$name" --logfile "$work/$name/log" </dev/null >"$work/$name/output" 2>&1 &
        pid=$!
        while kill -0 "$pid" 2>/dev/null; do
            # Not through a pipe, whose writer may meet its closed end.
            if [[ $(redis-cli -h 127.0.0.1 -p "$port" info server 2>/dev/null) == *$'\n'"process_id:$pid"$'\r'* ]]; then
                started+=("$pid")
                return
            fi
            sleep 0.05
        done
        wait "$pid"
        grep -qs 'Address already in use' "$work/$name/log" || break
    done
    cat "$work/$name/output" "$work/$name/log" >&2
    fail "redis-server ($name) did not start"
}

# benchmark PORT CLIENTS REQUESTS [COMMAND...]: prints "SET rate" and "GET rate", in requests a second.
benchmark() {
    local port=$1 clients=$2 count=$3
    shift 3
    "$@" redis-benchmark -h 127.0.0.1 -p "$port" -c "$clients" -n "$count" -t set,get --csv -q </dev/null |
        tr -d '"\r' | awk -F, '$1 == "SET" || $1 == "GET" { print $1, $2 }'
}

# Reads smcss --json; prints for the connections to server port $1: how many, how many in mode SMCD, the bytes that the
# server's ends carried on rings and over TCP, and the reasons of the others.
summarize='
import collections, json, sys
port, server = sys.argv[1], int(sys.argv[2])
mine = [s for s in json.load(sys.stdin)["sockets"] if s["pid"] == server
        and s["local"].endswith(":" + port) and not s["peer"].endswith(":0") and s["peer"] not in ("", "-", None)]
ring = sum(s["ring_rx_bytes"] + s["ring_tx_bytes"] for s in mine)
tcp = sum(s["tcp_rx_bytes"] + s["tcp_tx_bytes"] for s in mine)
why = collections.Counter("%s %s" % (s["reason"], s["reason_text"]) for s in mine if s["mode"] != "SMCD")
print(len(mine), sum(s["mode"] == "SMCD" for s in mine), ring, tcp,
      "; ".join("%d of %s" % (n, text) for text, n in why.most_common(3)) or "-")
'

start_redis tcp
tcp_port=$port
start_redis smc "${smc[@]}"
smc_port=$port smc_pid=$pid
echo "demo: $(redis-server --version | awk '{ print $1, $2, $3 }') on 127.0.0.1: TCP on port $tcp_port, SMC on port $smc_port"

# --- the tools' view, while connections are open
"${smc[@]}" redis-benchmark -h 127.0.0.1 -p "$smc_port" -c 50 -t set,get -l -q </dev/null >/dev/null 2>&1 &
load=$!
started+=("$load")
seen="0 0 0 0 -"
deadline=$((SECONDS + 120))
while ((SECONDS < deadline)) && kill -0 "$load" 2>/dev/null; do
    "$smcss" --json >"$work/smcss.json" || fail "smcss --json failed"
    seen=$(python3 -c "$summarize" "$smc_port" "$smc_pid" <"$work/smcss.json") ||
        fail "smcss --json printed something else than expected"
    read -r connections moved ring tcp reasons <<<"$seen"
    # Once the rings have carried ten times what went over TCP before the move, nothing more is to be learnt.
    ((connections > 0 && moved == connections && ring > 10 * tcp)) && break
    sleep 0.2
done
read -r connections moved ring tcp reasons <<<"$seen"
echo
echo "\$ smcss -a | head -n 8         (while redis-benchmark runs, 50 clients)"
"$smcss" -a >"$work/smcss.txt" || fail "smcss -a failed"
head -n 8 "$work/smcss.txt"
kill -TERM "$load" 2>/dev/null
wait "$load" 2>/dev/null
echo
echo "demo: $moved of $connections connections of redis-server in mode SMCD;" \
    "bytes on the rings $ring, over TCP $tcp"
((connections > 0)) || fail "SMC was not used: smcss shows no connection of redis-server to port $smc_port"
((moved > 0)) || fail "SMC was not used: every connection stayed on TCP ($reasons)"
((ring > tcp)) || fail "SMC was used too little: more bytes went over TCP than over the rings ($reasons)"

# --- the same data
python3 - "$work" <<'END' || fail "the test data could not be made"
import random, sys
random.seed(20)
work = sys.argv[1]
keys = [("key:%d" % i, "".join(random.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=random.choice((1, 50, 1000, 20000)))))
        for i in range(2000)]
with open(work + "/set", "w") as f:
    f.writelines("SET %s %s\n" % pair for pair in keys)
with open(work + "/get", "w") as f:
    f.writelines("GET %s\n" % key for key, _ in keys)
with open(work + "/expected", "w") as f:
    f.writelines("%s\n" % value for _, value in keys)
END
redis_cli() {
    local port=$1
    shift
    "$@" redis-cli -h 127.0.0.1 -p "$port"
}
redis_cli "$smc_port" "${smc[@]}" <"$work/set" >"$work/answers" || fail "redis-cli failed under SMC"
[[ $(sort "$work/answers" | uniq -c | tr -s ' ') == " 2000 OK" ]] || fail "SET under SMC was not answered with 2000 OK"
redis_cli "$smc_port" "${smc[@]}" <"$work/get" >"$work/got.smc" || fail "redis-cli failed under SMC"
redis_cli "$smc_port" <"$work/get" >"$work/got.tcp" || fail "redis-cli failed over TCP"
cmp "$work/expected" "$work/got.smc" || fail "data read back over SMC differs"
cmp "$work/expected" "$work/got.tcp" || fail "data written over SMC and read over TCP differs"
echo "demo: 2000 values written over SMC ($(wc -c <"$work/expected") bytes), the same when read over SMC and over TCP"

# --- the same work, in alternating rounds: drift of the machine meets both alike
echo "demo: measuring, $rounds rounds of each"
for ((round = 1; round <= rounds; round++)); do
    for clients in 50 1; do
        count=$((clients == 1 ? requests / 4 : requests))
        benchmark "$tcp_port" "$clients" "$count" | sed "s/^/$round $clients tcp /"
        benchmark "$smc_port" "$clients" "$count" "${smc[@]}" | sed "s/^/$round $clients smc /"
    done
done >"$work/rates"
python3 - "$work/rates" "$rounds" <<'END' || fail "redis-benchmark gave no usable result"
import statistics, sys
rates = {}
for line in open(sys.argv[1]):
    round_, clients, path, test, rate = line.split()
    rates[int(clients), test, path, int(round_)] = float(rate)
rounds = range(1, int(sys.argv[2]) + 1)
print()
print("redis-benchmark       TCP, requests/s   SMC, requests/s   SMC/TCP (of each round)")
for clients in (50, 1):
    for test in ("SET", "GET"):
        tcp = [rates[clients, test, "tcp", r] for r in rounds]
        smc = [rates[clients, test, "smc", r] for r in rounds]
        ratios = sorted(s / t for s, t in zip(smc, tcp))
        print("%-3s %2d client%s %20.0f %17.0f   %7.2f (%.2f to %.2f)" % (
            test, clients, "s" if clients > 1 else " ", statistics.median(tcp), statistics.median(smc),
            statistics.median(ratios), ratios[0], ratios[-1]))
print()
END
for pid in "${started[@]}"; do
    [[ $pid == "$load" ]] || kill -0 "$pid" 2>/dev/null || fail "a redis-server ended before its time"
done
echo "demo: done"
