#!/bin/bash
# Rules and the configuration file with real programs: what is excluded stays on TCP with the reason that says so, its
# data flows, what is included moves; broken settings mean TCP and never a broken program; smcctl foretells all of it.
# Usage: ci/policy.sh
set -uo pipefail
# shellcheck source=tests/environment.sh
source "$(dirname "$0")/../tests/environment.sh"
require_preload
SMCCTL=$TARGET/release/smcctl
if [[ ! -x $SMCCTL ]]; then
    echo "policy: $SMCCTL is missing: cargo build --release -p smc-tools" >&2
    exit 2
fi
for program in redis-server redis-benchmark redis-cli python3; do
    command -v "$program" >/dev/null || { echo "policy: $program is missing: ci/deps.sh test" >&2 && exit 2; }
done
passed=0 failed=0
server=
trap '[[ -z $server ]] || kill "$server" 2>/dev/null; wait; rm -rf "$WORK"' EXIT
unset SMC_POLICY SMC_RCVBUF SMC_SNDBUF SMC_BACKEND SMC_UEID SMC_UPGRADE_AFTER SMC_DISABLE SMC_LOG
# Not the file of this host.
export SMC_CONFIG='' SMC_RUN_DIR=$WORK/run
mkdir "$WORK/run"
# The program itself, where python3 is a script that looks for it.
python=$(python3 -c 'import os; print(os.readlink("/proc/self/exe"))') || exit 2
readonly EXCLUDED="excluded by a rule of SMC_POLICY or of the configuration file"
readonly BROKEN="the configuration file or SMC_POLICY cannot be used"

# ok SENTENCE, after a command whose status decides.
ok() {
    if (($? == 0)); then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'policy: %s: failed\n' "$1"
        [[ ! -s $WORK/said ]] || tail -5 "$WORK/said"
    fi
}

# configure TEXT: the file of all that follows.
configure() {
    printf '%s\n' "$1" >"$WORK/smc.conf"
    export SMC_CONFIG=$WORK/smc.conf
}

# under NAME=VALUE... COMMAND...: under the library, with a fresh report.
under() {
    rm -f "$WORK/report"
    under_shim "$WORK/report" "$@" >"$WORK/said" 2>&1
}

# reported COMM: mode, reason, peer_reason and reason_text of each connection of a program, one line for each kind.
reported() {
    python3 -c 'import json, sys
kinds = set()
for line in open(sys.argv[2]):
    c = json.loads(line)
    if c["comm"].startswith(sys.argv[1]):
        kinds.add("|".join(c[k] for k in ("mode", "reason", "peer_reason", "reason_text")))
print("\n".join(sorted(kinds)))' "$1" "$WORK/report"
}

exchange() { under "$@" "$python" "$ROOT/tests/programs/exchange.py" && grep -qx "all right" "$WORK/said"; }

# explained EXPECTED ARGUMENTS: the last line of smcctl explain begins so.
explained() {
    local expected=$1
    shift
    [[ $("$SMCCTL" explain "$@" | tee "$WORK/said" | tail -1) == "$expected"* ]]
}

# --- one process at both ends
exchange && [[ $(reported python) == "SMCD|"* ]]
ok "without rules a busy pair moves"
for rule in "program=python3*" "uid=$(id -u)" "local=127.0.0.0/8 peer=:1-65535" "" "program=nothing,python*,more uid=0,$(id -u)"; do
    exchange SMC_POLICY="exclude $rule" && [[ $(reported python) == "TCP|0x03010001|0x03010001|$EXCLUDED" ]]
    ok "exclude $rule: the pair stays on TCP, and its data flows"
    SMC_POLICY="exclude $rule" explained "TCP, 0x03010001: by SMC_POLICY, rule 1" \
        --program python3.11 --local 127.0.0.1:5 --peer 127.0.0.1:6
    ok "exclude $rule: smcctl explain says so"
done
for rules in "exclude program=redis*" "exclude uid=4294967294" "exclude peer=10.0.0.0/8" "exclude peer=::/0" \
    "exclude local=:0" "include program=python*; exclude" "include uid=$(id -u);exclude" "exclude program=/python3"; do
    exchange SMC_POLICY="$rules" && [[ $(reported python) == "SMCD|"* ]]
    ok "$rules: the pair moves"
    SMC_POLICY=$rules explained "SMC, " --program python3.11 --local 127.0.0.1:5 --peer 127.0.0.1:6
    ok "$rules: smcctl explain says so"
done
exchange SMC_POLICY="exclude program=$python" && [[ $(reported python) == "TCP|"* ]]
ok "a program is excluded by its path"
under SMC_UPGRADE_AFTER=0 SMC_POLICY="exclude peer=127.0.0.1" "$python" "$ROOT/tests/programs/exchange.py" 200 --async &&
    [[ $(reported python) == "TCP|0x03010001|0x03010001|$EXCLUDED" ]]
ok "a connection that was made without blocking is excluded by its peer"
printf '#!%s\nexec(open("%s").read())\n' "$python" "$ROOT/tests/programs/exchange.py" >"$WORK/script"
chmod +x "$WORK/script"
under SMC_POLICY="exclude program=script" "$WORK/script" && [[ $(reported script) == "TCP|0x03010001|0x03010001|$EXCLUDED" ]]
ok "a script is excluded by its own name"

# --- two processes, one of them excluded
start_redis() {
    local try
    for ((try = 0; try < 20; try++)); do
        # Below the usual ephemeral ports, so that no client takes it.
        port=$((16000 + RANDOM % 16000))
        try_redis "$@" && return
        # Somebody has the port.
        grep -q 'Address already in use' "$WORK/redis.log" || break
    done
    tail "$WORK/redis.log"
    return 1
}

try_redis() {
    local said
    rm -f "$WORK/report"
    [[ -z ${1-} ]] || configure "${1//PORT/$port}"
    # Not under(): the process to end is the server's own.
    env LD_PRELOAD="$PRELOAD" SMC_REPORT="$WORK/report" redis-server --port "$port" --bind 127.0.0.1 --dir "$WORK" \
        --save '' >"$WORK/redis.log" 2>&1 &
    server=$!
    while kill -0 "$server" 2>/dev/null; do
        # Ours, not one that was there.
        said=$(SMC_DISABLE=1 redis-cli -p "$port" info server 2>/dev/null)
        [[ $said == *$'\n'"process_id:$server"$'\r'* ]] && return
        sleep 0.05
    done
    wait "$server"
    server=
    return 1
}

# bench NAME=VALUE...: a busy client, and then the end of the server.
bench() {
    local right
    env LD_PRELOAD="$PRELOAD" SMC_REPORT="$WORK/report" "$@" redis-benchmark -p "$port" -c 4 -n 20000 -q incr counter \
        >"$WORK/said" 2>&1
    right=$(SMC_DISABLE=1 redis-cli -p "$port" get counter)
    SMC_DISABLE=1 redis-cli -p "$port" shutdown nosave >/dev/null 2>&1
    wait "$server"
    server=
    [[ $right == 20000 ]]
}

# has KIND TEXT: TEXT is among the lines that reported(KIND) has: redis-benchmark asks for the configuration on a
# connection of its own, which is too short to move.
has() { grep -qxF -- "$2" <<<"$(reported "$1")"; }
none_moved() { [[ $(reported redis) != *SMCD* ]]; }

for rule in "exclude program=redis-server" "exclude program=redis-server local=127.0.0.1:PORT" "exclude local=:PORT" \
    "include program=redis-benchmark
# everything else
exclude"; do
    start_redis "$rule" && bench && none_moved &&
        has redis-server "TCP|0x03010001|0x00000000|$EXCLUDED" &&
        has redis-benchmar "TCP|0x05000000|0x03010001|the peer stays on TCP"
    ok "the server's end is excluded (${rule//$'\n'/; }): both ends say who, and no increment is lost"
done
start_redis "exclude program=redis-benchmark peer=127.0.0.0/8:PORT" && bench && none_moved &&
    has redis-benchmar "TCP|0x03010001|0x00000000|$EXCLUDED" &&
    has redis-server "TCP|0x05000000|0x03010001|the peer stays on TCP"
ok "the client's end is excluded by its peer's port"
start_redis "include program=redis-*
exclude" && bench && has redis-server "SMCD|0x00000000|0x00000000|uses SMC"
ok "an included pair moves, with all else excluded"
start_redis "exclude uid=4294967294" && bench SMC_POLICY="exclude" && none_moved &&
    has redis-benchmar "TCP|0x03010001|0x00000000|$EXCLUDED"
ok "the environment of one end excludes it"

# --- broken settings
broken=(
    "a line that is nothing" $'SMC_UPGRADE_AFTER=0\nexlude uid=1' ":2: 'exlude uid=1' is neither"
    "a bad rule" $'# rules\n\nexclude peer=localhost' ":3: peer=localhost:"
    "an unknown setting" "SMC_RCVBUFF=64k" ":1: unknown setting 'SMC_RCVBUFF'"
    "a bad value" "SMC_RCVBUF=64g" ":1: SMC_RCVBUF=64g:"
    "bytes that are no text" $'\xff\xfe\x80' ":1: not UTF-8 text"
)
for ((i = 0; i < ${#broken[@]}; i += 3)); do
    configure "${broken[i + 1]}"
    exchange && [[ $(reported python) == "TCP|0x03010001|0x03010001|$BROKEN" ]]
    ok "${broken[i]}: TCP, and the program works"
    said=$("$SMCCTL" check)
    [[ $? == 1 && $said == "$SMC_CONFIG${broken[i + 2]}"* ]]
    ok "${broken[i]}: smcctl check names file and line"
    explained "TCP, 0x03010001: $SMC_CONFIG:" --program x
    ok "${broken[i]}: smcctl explain says what follows"
    under SMC_LOG="error:$WORK/log" true && grep -qF -- "$SMC_CONFIG${broken[i + 2]}" "$WORK/log"
    ok "${broken[i]}: it is in the log"
    SMC_PRELOAD=$PRELOAD bash "$ROOT/smc_run.sh" sh -c 'exit 7' 2>"$WORK/said"
    [[ $? == 7 ]] && grep -qF -- "smc_run: warning: $SMC_CONFIG${broken[i + 2]}" "$WORK/said"
    ok "${broken[i]}: smc_run tells, and runs the program"
done
mkfifo "$WORK/fifo"
head -c 1000000 /dev/zero | tr '\0' '#' >"$WORK/large"
for file in "$WORK/missing" "$WORK" "$WORK/fifo" "$WORK/large" /dev/zero /dev/tty "$WORK/large/file" relative.conf; do
    exchange SMC_CONFIG="$file" && [[ $(reported python) == "TCP|0x03010001|0x03010001|$BROKEN" ]]
    ok "SMC_CONFIG=$file: TCP, and the program works"
    said=$(SMC_CONFIG=$file "$SMCCTL" check)
    [[ $? == 1 && $said == "$file: "* ]]
    ok "SMC_CONFIG=$file: smcctl check says so"
done
exchange SMC_CONFIG= SMC_POLICY="exclude; nonsense" && [[ $(reported python) == "TCP|0x03010001|0x03010001|$BROKEN" ]]
ok "a broken SMC_POLICY: TCP, and the program works"
if ((EUID == 0)); then
    configure "SMC_UPGRADE_AFTER=0"
    chmod 755 "$WORK"
    chmod 600 "$WORK/smc.conf"
    said=$(setpriv --reuid 65534 --regid 65534 --clear-groups env SMC_CONFIG="$WORK/smc.conf" "$SMCCTL" check 2>&1)
    if [[ $? == 126 ]]; then
        echo "policy: left out: another user cannot reach $SMCCTL"
    else
        [[ $said == "$WORK/smc.conf: cannot be opened: Permission denied"* ]]
        ok "a file that may not be read is one that cannot be used"
    fi
fi

# --- settings of the file
configure $'SMC_UPGRADE_AFTER=9m\nSMC_REPORT='"$WORK/of-file"$'\nSMC_LOG=debug:'"$WORK/log-of-file"
env LD_PRELOAD="$PRELOAD" "$python" "$ROOT/tests/programs/exchange.py" >"$WORK/said" && [[ -s $WORK/log-of-file ]] &&
    [[ $(grep -c 'not moved yet: fewer bytes than SMC_UPGRADE_AFTER' "$WORK/of-file") == 2 ]]
ok "the file's report, log and threshold are followed"
exchange SMC_UPGRADE_AFTER=16k && [[ $(reported python) == "SMCD|"* ]]
ok "the environment wins over the file"
configure $'SMC_DISABLE=1\nSMC_LOG=debug:'"$WORK/log-disabled"
exchange && [[ ! -e $WORK/report && ! -e $WORK/log-disabled ]]
ok "SMC_DISABLE=1 in the file: the library does nothing"
explained "TCP: SMC_DISABLE is set ($SMC_CONFIG:1)" --program x
ok "SMC_DISABLE=1 in the file: smcctl explain says so"
exchange SMC_DISABLE=0 && [[ $(reported python) == "SMCD|"* ]]
ok "SMC_DISABLE=0 in the environment wins"

# --- the kernel's SMC
# backend NAME=VALUE...: a connection under SMC_BACKEND=kernel, and what the log says of AF_SMC, once.
backend() {
    rm -f "$WORK/log"
    exchange SMC_LOG="warn:$WORK/log" "$@"
}
configure SMC_BACKEND=kernel
NO_KERNEL="SMC_BACKEND is kernel, and the kernel has no AF_SMC, or does not give it to this program"
if grep -qw ^SMC /proc/net/protocols; then
    backend && [[ ! -e $WORK/report ]]
    ok "SMC_BACKEND=kernel in the file: the sockets are the kernel's"
else
    backend && [[ $(reported python) == "TCP|0x03030000|0x03030000|$NO_KERNEL" && $(grep -c AF_SMC "$WORK/log") == 1 ]]
    ok "SMC_BACKEND=kernel in the file, and no AF_SMC: TCP, and one line in the log"
fi
explained "a socket of the kernel's SMC; TCP, 0x03030000, if it has none: no rule is for it (SMC_BACKEND=kernel, $SMC_CONFIG:1)" \
    --program x
ok "SMC_BACKEND=kernel in the file: smcctl explain says so"
backend SMC_POLICY="exclude program=$python" && [[ $(reported python) == "TCP|0x03010001|0x03010001|$EXCLUDED" ]]
ok "SMC_BACKEND=kernel: a program is excluded"
backend SMC_BACKEND=auto && [[ $(reported python) == "SMCD|"* ]]
ok "SMC_BACKEND=auto in the environment wins"

# --- smcctl
SMC_CONFIG='' SMC_POLICY="exclude peer=:5" explained "open: SMC_POLICY, rule 1" --program x
ok "smcctl explain says what it has to know"
SMC_CONFIG='' SMC_POLICY="exclude peer=:5" "$SMCCTL" explain --program x >/dev/null
[[ $? == 1 ]]
ok "smcctl explain without it: status 1"
example=$ROOT/examples/config/smc.conf
"$SMCCTL" check "$example" >"$WORK/said"
ok "the example is right"
line() { grep -nxF -- "$1" "$example" | cut -d: -f1; }
explained "TCP, 0x03010001: by $example:$(line 'exclude program=redis-server,redis-cli peer=:7379')" --config "$example" \
    --program redis-server --uid 100 --local 127.0.0.1:6379 --peer 127.0.0.1:7379
ok "the example, a rule by program and port"
explained "SMC, " --config "$example" --program redis-server --uid 33 --local 127.0.0.1:6379 --peer 127.0.0.1:1
ok "the example, the first rule that holds"
explained "TCP, 0x03010001: by $example:$(line 'exclude uid=33,34')" --config "$example" \
    --program nginx --uid 33 --local 127.0.0.1:80 --peer 127.0.0.1:1
ok "the example, a rule by user"
explained "TCP, 0x03010001: by $example:$(line exclude)" --config "$example" \
    --program nginx --uid 0 --local 10.0.0.1:80 --peer 10.0.0.2:1
ok "the example, the last line"
explained "SMC, " --config "$example" --program nginx --uid 0 --local '[::1]:80' --peer '[::1]:1'
ok "the example, IPv6"

echo "policy: $passed passed, $failed failed"
((failed == 0))
