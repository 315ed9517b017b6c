#!/bin/bash
# Tests in virtual machines that have what this host may lack: RDMA (soft-RoCE) and a kernel with AF_SMC. See ci/lab/run.sh.
# Usage: ci/lab.sh [all | NAME...]      without a name: those that ci/test.sh runs
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
target=${CARGO_TARGET_DIR:-$PWD/target}

# name, in ci/test.sh or not, machines, seconds allowed, script in ci/lab/ with its arguments.
TESTS="
preload                yes one  400  preload.sh
kernel-smcr            yes two  400  kernel-smcr.sh
kernel-backend         yes two  400  kernel-backend.sh view redis
kernel-backend-all     no  two  600  kernel-backend.sh
tcp-option             yes one  400  tcp-option.sh
two-hosts              yes two  400  two-hosts.sh
smcr-client            yes two  400  smc-r.sh kernel ours decline first one-byte stream half abort many
smcr-server            yes two  400  smc-r.sh ours kernel decline first echo half abort sequential
smcr-both              yes two  400  smc-r.sh ours ours first stream abort client-killed many
smcr-programs          yes two  600  smc-r-programs.sh ours ours first slow self fork ends signals redis nginx rude-server-silent rude-client-garbage
smcr-programs-kernel   yes two  400  smc-r-programs.sh kernel ours first many nonblocking peek
smcr-kernel-programs   yes two  400  smc-r-programs.sh ours kernel first slow
mixed-programs         yes two  600  mixed-programs.sh redis iperf3 iperf3-R
mixed-programs-all     no  two 1600  mixed-programs.sh
smcr-programs-all      no  two 1600  smc-r-programs.sh ours ours
smcr-client-trouble    no  two 1600  smc-r.sh kernel ours client-device-removed server-device-removed client-interface-down server-interface-down
smcr-server-trouble    no  two 1600  smc-r.sh ours kernel client-device-removed server-device-removed client-interface-down server-interface-down
smcr-both-trouble      no  two 1600  smc-r.sh ours ours client-device-removed server-device-removed client-interface-down server-interface-down
smcr-client-all        no  two 1600  smc-r.sh kernel ours
smcr-server-all        no  two 1600  smc-r.sh ours kernel
smcr-both-all          no  two 1600  smc-r.sh ours ours
iwarp                  no  two  400  iwarp.sh first client-killed programs last-port no-port
iwarp-all              no  two  500  iwarp.sh
behaviour              no  one 1800  behaviour.sh sending
"

known=$(awk 'NF { print $1 }' <<<"$TESTS")
for name in "$@"; do
    if [[ $name != all ]] && ! grep -qx -- "$name" <<<"$known"; then
        echo "lab: no test $name; there are: all ${known//$'\n'/ }" >&2
        exit 2
    fi
done

echo "lab: building"
cargo build --release --locked --quiet --workspace </dev/null || exit 1
# Not within the time of the first test.
what=
[[ " $* " != *" iwarp"* && " $* " != *" all "* ]] || what=siw
bash ci/lab/fetch.sh $what >/dev/null || exit 1

passed=0 failed=0
while read -r name usual machines limit script arguments; do
    [[ -n $name ]] || continue
    if (($# == 0)); then
        [[ $usual == yes ]] || continue
    else
        [[ " $* " == *" all "* || " $* " == *" $name "* ]] || continue
    fi
    options=(--timeout "$limit" --logs "$target/lab-logs/$name")
    [[ $machines == one ]] || options+=(--two)
    read -r -a arguments <<<"$arguments"
    started=$SECONDS
    ci/lab/run.sh "${options[@]}" "ci/lab/$script" "${arguments[@]}" >"$target/lab-$name.log" 2>&1
    status=$?
    if ((status == 125)); then
        # A kernel panic, the emulator's end, or a machine that never booted: nothing that a program in the machine could be the
        # cause of. Never twice in a row.
        echo "lab: $name: a machine crashed, so once more:"
        cat "$target/lab-$name.log"
        ci/lab/run.sh "${options[@]}" "ci/lab/$script" "${arguments[@]}" >"$target/lab-$name.log" 2>&1
        status=$?
    fi
    if ((status == 0)); then
        passed=$((passed + 1)) result=ok
    else
        failed=$((failed + 1)) result=FAILED
    fi
    printf 'lab: %-20s %4ss  %s\n' "$name" $((SECONDS - started)) "$result"
    [[ $result == ok ]] || cat "$target/lab-$name.log"
done <<<"$TESTS"

echo "lab: $passed passed, $failed failed"
((failed == 0))
