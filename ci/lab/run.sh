#!/bin/bash
# Boots one or two virtual machines with soft-RoCE and a kernel that has AF_SMC, runs a script in each, as root, and
# returns its exit status: 0 if it is 0 in all of them. Emulation only: works where there is no KVM.
# Usage: ci/lab/run.sh [--two] [--timeout SECONDS] [--logs DIR] SCRIPT [ARGUMENT]...
#
# The machines see the host's files, read-only under a layer of their own, so the programs just built are there. In
# the script: LAB_ROLE is `one`, or `a` and `b`; LAB_SHARED a folder that all of them and the host can write; LAB_BIN
# the folder of the programs, LAB_KERNEL that of the kernel; LAB_IF the interface, LAB_ADDRESS its address, LAB_PEER
# the other machine's; rxe0 is the RDMA device on it. ci/lab/guest.sh prepares that, ci/lab/lib.sh has functions for scripts.
set -uo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}

usage() {
    echo "usage: ci/lab/run.sh [--two] [--timeout SECONDS] [--logs DIR] SCRIPT [ARGUMENT]..." >&2
    exit 2
}

roles=(one) limit=180 logs=
while [[ ${1-} == --* ]]; do
    case $1 in
    --two) roles=(a b) ;;
    --timeout) limit=${2-} && shift ;;
    --logs) logs=${2-} && shift ;;
    *) usage ;;
    esac
    shift
done
[[ -n ${1-} && $limit =~ ^[0-9]+$ ]] || usage
script=$(realpath -- "$1")
[[ -f $script ]] || usage
shift

for tool in qemu-system-x86_64 depmod file busybox; do
    if ! PATH=$PATH:/usr/sbin:/sbin command -v $tool >/dev/null; then
        echo "lab: $tool is missing: run ci/deps.sh" >&2
        exit 1
    fi
done
cache=$("$HERE/fetch.sh") || exit 1

# Short, for Unix sockets lie in it.
work=$(mktemp -d "${TMPDIR:-/tmp}/smc-lab.XXXXXX") || exit 1
declare -A vm=()
# shellcheck disable=SC2317 # run by the trap
cleanup() {
    local pid
    # timeout(1) passes the signal on to its whole group: virtme-ng and QEMU.
    for pid in "${vm[@]}"; do
        kill -TERM "$pid" 2>/dev/null
    done
    for pid in "${vm[@]}"; do
        wait "$pid" 2>/dev/null
    done
    if [[ -n $logs ]]; then
        mkdir -p "$logs" && cp "$work"/console.* "$work"/shared/*.[abo]* "$logs" 2>/dev/null
    fi
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

mkdir "$work/shared"
{
    printf 'SCRIPT=%q\nARGUMENTS=(' "$script"
    (($# == 0)) || printf '%q ' "$@"
    printf ')\nexport LAB_SHARED=%q LAB_BIN=%q LAB_ROOT=%q LAB_KERNEL=%q SMC_PRELOAD=%q\n' "$work/shared" "$TARGET/release" \
        "$ROOT" "$cache/kernel" "${SMC_PRELOAD:-$TARGET/release/libsmc_preload.so}"
    # For what the host's PATH finds in odd places.
    printf 'export PATH=%q\n' "$PATH:/usr/sbin:/sbin"
} >"$work/shared/settings"

# start ROLE NETDEV LAST-OCTET
# Before other work, where that is allowed: a kernel gives up a link group when its peer, also one that is starved, does
# not answer an LLC request within two seconds.
start() {
    local role=$1 netdev=$2 octet=$3
    local qemu="-netdev $netdev,id=lab -device virtio-net-pci,netdev=lab,mac=52:54:00:aa:00:0$octet"
    PYTHONPATH=$cache/virtme PYTHONDONTWRITEBYTECODE=1 PATH=$cache/virtme/bin:$PATH:/usr/sbin:/sbin \
        nice -n -10 timeout --kill-after=10 "$limit" "$cache/virtme/bin/vng" --run "$cache/kernel/boot/vmlinuz" \
        --disable-kvm --force-9p --memory 1500M --cpus 1 --user root --cwd / --rwdir "$work/shared" \
        --verbose --append 'loglevel=4 no_timer_check nowatchdog' --qemu-opts="$qemu" \
        -- bash "$HERE/guest.sh" "$work/shared" "$role" </dev/null >"$work/console.$role" 2>&1 &
    vm[$role]=$!
}

if ((${#roles[@]} == 1)); then
    # A port of a hub with nothing else on it.
    start one hubport,hubid=0 1
else
    a="type=unix,local.path=$work/a" b="type=unix,local.path=$work/b"
    start a "dgram,local.$a,remote.${b/local/remote}" 1
    start b "dgram,local.$b,remote.${a/local/remote}" 2
fi

# What the script in a machine said, or nothing.
verdict() {
    [[ -f $work/shared/status.$1 ]] && cat "$work/shared/status.$1"
}

# No program of ours has had a part in it before.
all_booted() {
    local role
    for role in "${roles[@]}"; do
        [[ -e $work/shared/out.$role ]] || return 1
    done
}

result=0
while ((${#vm[@]} > 0)); do
    wait -n -p ended "${vm[@]}"
    status=$?
    for role in "${roles[@]}"; do
        [[ ${vm[$role]-} == "$ended" ]] || continue
        unset "vm[$role]"
        said=$(verdict "$role")
        [[ $said == 0 ]] && continue
        case $said,$status in
        ,124 | ,137)
            why="did not finish within ${limit}s" said=124
            all_booted || why="$why, and not all have booted" said=125
            ;;
        ,*) why="ended without finishing the script" said=125 ;;
        *) why="the script ended with status $said" ;;
        esac
        # The other one waits for this one.
        for other in "${!vm[@]}"; do
            kill -TERM "${vm[$other]}" 2>/dev/null
            wait "${vm[$other]}" 2>/dev/null
            unset "vm[$other]"
        done
        result=$said
        echo "lab: machine $role: $why"
    done
done

for role in "${roles[@]}"; do
    echo "---- machine $role"
    cat "$work/shared/out.$role" 2>/dev/null || echo "(it did not get as far as the script)"
    if ((result != 0)); then
        echo "---- console of machine $role"
        # Without virtme-ng's account of the firmware's memory map and the like.
        grep -vE '^\[    0\.0+\]' "$work/console.$role" | cut -c 1-500 | tail -n 40
    fi
done
exit "$result"
