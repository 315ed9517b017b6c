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
report=$LAB_SHARED/report.$LAB_ROLE
export SMC_EID=SMCLAB

# end BACKEND: `program`, the words with which a program is started at that end; `family`, what it opens.
end() {
    program=() family=tcp
    if [[ $1 == kernel ]]; then
        family=smc
    else
        program=(env "LD_PRELOAD=$SMC_PRELOAD" "SMC_REPORT=$report" "SMC_LOG=debug:$LAB_SHARED/log.$LAB_ROLE")
    fi
}

# said NAME ROLE COUNT: so many connections of this end were on SMC-R.
said() {
    local count
    count=$(grep -c "\"mode\":\"SMCR\".*\"role\":\"$2\",\"device\":\"rxe0/1\"" "$report")
    cat "$report"
    [[ $count == "$3" ]] || fail "$1: $count connections on SMC-R, not $3"
}

# echo NAME CONNECTIONS BYTES WRITE-SIZE: position-coded bytes to the server and back, blocking calls.
echo_bytes() {
    local name=$1 started=$EPOCHREALTIME
    [[ $names == "  " || $names == *" $name "* ]] || return 0
    echo "== $name"
    local seen=() sockets="bash $LAB_ROOT/ci/lab/kernel-sockets.sh"
    : >"$report"
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
echo_bytes first 1 10000 1000
