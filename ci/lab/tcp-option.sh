#!/bin/bash
# In one machine: smcctl tcp-option on, status and off, for all processes and for one cgroup; the option on the wire, asked
# for without privilege; and with the kernel's AF_SMC at the other end.
set -uo pipefail
# shellcheck source=ci/lab/lib.sh
source "$LAB_ROOT/ci/lab/lib.sh"
smcctl=$LAB_BIN/smcctl
cgroups=/sys/fs/cgroup

# status CODE WORDS: what `status` exits with and begins with, for root.
status() {
    local said code
    said=$("$smcctl" tcp-option status)
    code=$?
    [[ $code == "$1" && $said == "$2"* ]] || fail "status: $code, $said; not $1, $2"
}
# Where the checkout lies, only root may be able to look.
install -m 755 "$smcctl" /run/smcctl || fail "install"
nobody() {
    setpriv --reuid 65534 --regid 65534 --clear-groups /run/smcctl "$@"
}
# nobody_status CODE: what `status` exits with for an ordinary user; not that of a program that cannot be run.
# Its last line says whether the option is there for the process that asks.
nobody_status() {
    local said code last="available to this process"
    (($1 == 0)) || last="not $last"
    said=$(nobody tcp-option status)
    code=$?
    [[ $code == "$1" && ${said##*$'\n'} == "$last" ]] || fail "status for nobody: $code, $said; not $1, $last"
}

status 3 off
nobody tcp-option on 2>/dev/null
[[ $? == 1 ]] || fail "on, by nobody"
status 3 off
"$smcctl" tcp-option on || fail "on"
status 0 "on for $cgroups"
[[ $("$smcctl" tcp-option on) == "already on"* ]] || fail "a second on"
nobody_status 0
failed=0
for mode in '' cookies kernel; do
    # shellcheck disable=SC2086 # no argument rather than an empty one
    timeout 200 "$LAB_BIN/tcp-option" $mode || failed=1
done
((failed == 0)) || fail "on the wire"

# A peer that sends all options back is reached over TCP, and its bytes are the program's: 30,000 of them, position-coded.
timeout 200 "$LAB_BIN/tcp-option" echoing-peer "$LAB_BIN/smc-r-peer" connect 10.77.0.2:7000 --expect 'tcp 0x03010000' \
    --connections 3 --bytes 10000 --size 3000 || fail "a peer that sends all options back"

# A second copy, for a cgroup further in, does not get into the way of the first.
mkdir "$cgroups/inner" || fail "mkdir $cgroups/inner"
"$smcctl" tcp-option on --cgroup "$cgroups/inner" --pins /sys/fs/bpf/inner || fail "on for a second cgroup"
(
    echo "$BASHPID" >"$cgroups/inner/cgroup.procs"
    timeout 200 "$LAB_BIN/tcp-option"
) || fail "on the wire, with two copies"
"$smcctl" tcp-option off --pins /sys/fs/bpf/inner || fail "off --pins"
rmdir "$cgroups/inner" || fail "rmdir"

"$smcctl" tcp-option off || fail "off"
status 3 off
nobody_status 3

# One cgroup, and a program in it and one outside.
mkdir "$cgroups/lab" || fail "mkdir $cgroups/lab"
"$smcctl" tcp-option on --cgroup "$cgroups/lab" || fail "on --cgroup"
status 0 "on for $cgroups/lab"
nobody_status 3
(
    echo "$BASHPID" >"$cgroups/lab/cgroup.procs"
    nobody_status 0
) || fail "not available in the cgroup"
"$smcctl" tcp-option on --cgroup "$cgroups" 2>/dev/null && fail "on for a second cgroup"
"$smcctl" tcp-option on --cgroup /proc 2>/dev/null && fail "on for what is no cgroup"
rmdir "$cgroups/lab" || fail "rmdir"
# What it was attached to is gone, and with it the programs; the pins of that are replaced.
status 3 "off: only"
"$smcctl" tcp-option on || fail "on after its cgroup was removed"
status 0 "on for $cgroups"
"$smcctl" tcp-option off || fail "off"
