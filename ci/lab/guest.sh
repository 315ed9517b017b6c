#!/bin/bash
# What runs first in a machine of the lab: network, modules, soft-RoCE, then the script. See run.sh.
# Usage (by run.sh only): guest.sh SHARED ROLE
set -uo pipefail
shared=$1
export LAB_ROLE=$2 LAB_IF LAB_ADDRESS=10.9.0.1 LAB_PEER=10.9.0.2
# shellcheck source=/dev/null
source "$shared/settings"

prepare() {
    local module
    [[ $LAB_ROLE != b ]] || LAB_ADDRESS=10.9.0.2 LAB_PEER=10.9.0.1
    ip link set lo up || return
    for module in virtio_net smc smc_diag rdma_rxe; do
        modprobe $module || return
    done
    LAB_IF=$(basename /sys/bus/virtio/drivers/virtio_net/virtio*/net/*)
    ip address add "$LAB_ADDRESS/24" dev "$LAB_IF" && ip link set "$LAB_IF" up || return
    rdma link add rxe0 type rxe netdev "$LAB_IF"
}

{
    if prepare; then
        bash "$SCRIPT" "${ARGUMENTS[@]}"
        status=$?
    else
        echo "the machine could not be prepared"
        status=126
    fi
} >"$shared/out.$LAB_ROLE" 2>&1 </dev/null
dmesg >"$shared/dmesg.$LAB_ROLE"
# Complete when it appears.
echo "$status" >"$shared/status.$LAB_ROLE.new"
mv "$shared/status.$LAB_ROLE.new" "$shared/status.$LAB_ROLE"
