#!/bin/bash
# Format, lints, documentation and shell scripts, of the fuzz targets too. Changes nothing; reports all of them before it fails.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
passed=0 failed=0

check() {
    local name=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "check: $name failed" >&2
    fi
}

for component in fmt clippy; do
    if ! cargo "$component" --version >/dev/null 2>&1; then
        echo "check: cargo $component is missing (rustup component add rustfmt clippy)" >&2
    fi
done

mapfile -t scripts < <(find . -name '*.sh' -not -path './target/*' -not -path './.git/*' | sort)

check format cargo fmt --all --check
check clippy cargo clippy --workspace --all-targets --locked -- -D warnings
# A workspace of its own.
check fuzz-format cargo fmt --manifest-path wire/fuzz/Cargo.toml --check
check fuzz-clippy cargo clippy --manifest-path wire/fuzz/Cargo.toml --locked -- -D warnings
check documentation env RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked
check shellcheck shellcheck --external-sources "${scripts[@]}" .ci/run

echo "check: $passed passed, $failed failed"
((failed == 0))
