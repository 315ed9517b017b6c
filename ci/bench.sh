#!/bin/bash
# Workloads over TCP, over SMC and, where they apply, over a Unix socket and with an eBPF sockmap: as ratios to TCP in the
# same round. docs/performance.md says how to read the table, and what was measured.
# Usage: ci/bench.sh [--quick] [--rounds=N] [--ms=N] [--json=FILE]
#                    [--patience=SECONDS] [--list] [WORKLOAD]...
#   A name stands for all workloads that begin with it. The JSON, with every round, goes to target/bench.json unless
#   told otherwise. What is needed is installed by ci/deps.sh bench; a workload whose programs are missing fails
#   alone, and the exit status says so. Without root there is no sockmap, and nothing tells how busy others were.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
target=${CARGO_TARGET_DIR:-$PWD/target}
[[ $target == /* ]] || target=$PWD/$target
cargo build --release --locked --quiet -p smc-shim -p smc-benches </dev/null || exit
export SMC_PRELOAD=${SMC_PRELOAD:-$target/release/libsmc_preload.so}
json=(--json "$target/bench.json")
for argument; do
    case $argument in
    --json | --json=*) json=() ;;
    esac
done
exec "$target/release/smc-bench" "${json[@]}" "$@"
