#!/bin/bash
# The models of the ring, the arming protocol and the switching of streams (smc-core/src/ring/tests.rs), and of the arming of SMC-R's
# completion queues (rdma/src/link/arming.rs), in every interleaving that loom finds. In a target directory of its own: everything is
# built with another configuration.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
target=${CARGO_TARGET_DIR:-$PWD/target}
export CARGO_TARGET_DIR=$target/loom
# A model that fails aborts the test program: one by one, so that the others are still counted.
export RUSTFLAGS="--cfg loom" RUST_BACKTRACE=0
passed=0 failed=0
# models CRATE MODULE
models() {
    local model names
    run() { cargo test --quiet --release --locked -p "$1" --lib "${@:2}"; }
    names=$(run "$1" -- --list "$2" | sed -n 's/: test$//p')
    [[ -n $names ]] || failed=$((failed + 1))
    for model in $names; do
        if run "$1" -- --exact "$model"; then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
            echo "loom: $model failed" >&2
        fi
    done
}
models smc-core ring::tests::interleaved
models smc-rdma link::arming
echo "loom: $passed passed, $failed failed"
((failed == 0 && passed > 0))
