#!/bin/bash
# The models of the ring, the arming protocol and the switching of streams (smc-core/src/ring/tests.rs), in every
# interleaving that loom finds. In a target directory of its own: everything is built with another configuration.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
target=${CARGO_TARGET_DIR:-$PWD/target}
export CARGO_TARGET_DIR=$target/loom
# A model that fails aborts the test program: one by one, so that the others are still counted.
export RUSTFLAGS="--cfg loom" RUST_BACKTRACE=0
run() { cargo test --quiet --release --locked -p smc-core --lib "$@"; }

models=$(run -- --list ring::tests::interleaved | sed -n 's/: test$//p')
passed=0 failed=0
for model in $models; do
    if run -- --exact "$model"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "loom: $model failed" >&2
    fi
done
echo "loom: $passed passed, $failed failed"
((failed == 0 && passed > 0))
