#!/bin/bash
# redis-server under load, natively and under the preload library: the right answers, with a child that saves the data
# set meanwhile; under the library its connections are on shared memory and most bytes go that way.
# Usage: ci/programs-core.sh
set -uo pipefail
# shellcheck source=tests/environment.sh
source "$(dirname "$0")/../tests/environment.sh"
require_preload
SMCSS=${SMC_SMCSS:-$TARGET/release/smcss}
if [[ ! -x $SMCSS ]]; then
    echo "programs-core: $SMCSS is missing: cargo build --release -p smc-tools" >&2
    exit 2
fi
for program in redis-server redis-benchmark redis-cli python3; do
    command -v "$program" >/dev/null || { echo "programs-core: $program is missing: ci/deps.sh test" >&2 && exit 2; }
done
passed=0 failed=0
server=
trap '[[ -z $server ]] || kill "$server" 2>/dev/null; wait; rm -rf "$WORK"' EXIT

# check NAME COMMAND...: counts the command's success.
check() {
    local name=$1
    shift
    if "$@" >"$WORK/check" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "programs-core: $environment: $name: failed"
        tail -20 "$WORK/check"
    fi
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# As the environment says: natively or under the library.
program() {
    env "${settings[@]}" "$@"
}

client() {
    program redis-cli -p "$port" "$@"
}

start_server() {
    local directory=$WORK/redis.$environment
    mkdir -p "$directory"
    port=$(free_port)
    # Not program(): the process to end is the server's own.
    env "${settings[@]}" redis-server --port "$port" --bind 127.0.0.1 --dir "$directory" --save '' \
        >"$directory/log" 2>&1 &
    server=$!
    # Natively, so as to leave the counts of the library alone.
    for ((i = 0; i < 200; i++)); do
        [[ $(redis-cli -p "$port" ping 2>/dev/null) == PONG ]] && return
        kill -0 "$server" 2>/dev/null || break
        sleep 0.05
    done
    echo "programs-core: $environment: redis-server does not answer:"
    tail "$directory/log"
    return 1
}

stop_server() {
    client shutdown nosave >/dev/null 2>&1
    local status=0
    wait "$server" || status=$?
    server=
    return "$status"
}

counts_every_increment() {
    local n=$1 before
    before=$(client get counter)
    program redis-benchmark -p "$port" -c 20 -n "$n" -q incr counter
    [[ $(client get counter) == $((${before:-0} + n)) ]]
}

counts_every_pipelined_increment() {
    local before
    before=$(client get counter)
    program redis-benchmark -p "$port" -c 20 -P 16 -n 200000 -q incr counter
    [[ $(client get counter) == $((${before:-0} + 200000)) ]]
}

returns_what_was_stored() {
    local size
    for size in 1 1000 70000 3000000 20000000; do
        head -c "$size" /dev/urandom | base64 -w 0 >"$WORK/value"
        client -x set value <"$WORK/value" >/dev/null || return
        client get value | head -c -1 | cmp - "$WORK/value" || return
    done
}

serves_the_usual_benchmark() {
    program redis-benchmark -p "$port" -c 50 -n 20000 -d 256 -t set,get,lpush,lrange_100,mset -q
}

# A child with all connections inherited writes the data set, while the parent goes on serving.
saves_under_load() {
    local benchmark
    program redis-benchmark -p "$port" -c 20 -n 100000 -d 500 -r 20000 -t set -q &
    benchmark=$!
    local saved=0
    while kill -0 "$benchmark" 2>/dev/null; do
        if client bgsave | grep -q started; then
            saved=$((saved + 1))
        fi
        sleep 0.1
    done
    wait "$benchmark" || return
    for ((i = 0; i < 200; i++)); do
        client info persistence | grep -q rdb_bgsave_in_progress:0 && break
        sleep 0.05
    done
    client info persistence | tr -d '\r' | grep -x rdb_last_bgsave_status:ok || return
    echo "saved $saved times"
    ((saved > 0)) && redis-check-rdb "$WORK/redis.$environment/dump.rdb"
}

# While a benchmark runs, all its connections are listed as on shared memory, with most of their bytes.
is_listed_on_shared_memory() {
    local benchmark all ring ring_bytes tcp_bytes best=0
    program redis-benchmark -p "$port" -c 20 -n 300000 -d 1000 -t set,get -q >/dev/null &
    benchmark=$!
    while kill -0 "$benchmark" 2>/dev/null; do
        read -r all ring ring_bytes tcp_bytes < <(SMC_RUN_DIR=$WORK/run "$SMCSS" --json |
            python3 "$ROOT/tests/smcd_share.py" redis-benchmark)
        echo "redis-benchmark: $all connections, $ring on shared memory, $ring_bytes and $tcp_bytes bytes"
        if ((all >= 20 && ring == all && ring_bytes > 9 * tcp_bytes)); then
            best=1
        fi
        sleep 0.1
    done
    wait "$benchmark" && ((best == 1))
}

reports_mostly_ring_bytes() {
    local all ring ring_bytes tcp_bytes
    read -r all ring ring_bytes tcp_bytes < <(python3 "$ROOT/tests/smcd_share.py" redis-server "$WORK/report")
    echo "redis-server: $all connections, $ring on shared memory, $ring_bytes bytes there, $tcp_bytes over TCP"
    ((ring_bytes > 4 * tcp_bytes))
}

for environment in native at-once default; do
    settings=(SMC_UNUSED=)
    case $environment in
    at-once) settings=(SMC_UPGRADE_AFTER=0) ;;
    esac
    if [[ $environment != native ]]; then
        rm -rf "$WORK/report" "$WORK/run"
        mkdir "$WORK/run"
        settings+=(LD_PRELOAD="$PRELOAD" SMC_REPORT="$WORK/report" SMC_RUN_DIR="$WORK/run")
    fi
    if ! start_server; then
        failed=$((failed + 1))
        continue
    fi
    check "increments are counted" counts_every_increment 50000
    check "pipelined increments are counted" counts_every_pipelined_increment
    check "values come back" returns_what_was_stored
    check "benchmark" serves_the_usual_benchmark
    check "saving under load" saves_under_load
    check "increments are counted after saving" counts_every_increment 20000
    [[ $environment == native ]] || check "smcss" is_listed_on_shared_memory
    check "shutdown" stop_server
    [[ $environment == native ]] || check "report" reports_mostly_ring_bytes
done
echo "programs-core: $passed passed, $failed failed"
((failed == 0))
