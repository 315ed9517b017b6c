# Functions for scripts that run in a machine of the lab. To be sourced.
# shellcheck shell=bash

# fail WORDS...: ends the script.
fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# until_true SECONDS COMMAND...: repeats the command until it succeeds.
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < end)) || return 1
        sleep 0.1
    done
}

# One for each name: tell the other machine, wait until it has told.
signal() {
    : >"$LAB_SHARED/signal.$1.$LAB_ROLE"
}
await() {
    local other=a
    [[ $LAB_ROLE != a ]] || other=b
    # However long it takes to get there: run.sh ends what hangs, and this machine when the other one has failed.
    until_true 3600 test -e "$LAB_SHARED/signal.$1.$other" || fail "the other machine did not come to: $1"
}

# Makes the kernel's SMC usable on this machine: one EID for all, and a PNET id that joins interface and RDMA device.
kernel_smc() {
    "$LAB_BIN/smcr" ueid add SMCLAB || fail "ueid add"
    "$LAB_BIN/smcr" pnet add LABNET --interface "$LAB_IF" --device rxe0 || fail "pnet add"
}
