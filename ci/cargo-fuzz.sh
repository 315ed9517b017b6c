# shellcheck shell=bash
# Where ci/deps.sh installs cargo-fuzz and ci/fuzz.sh finds it: outside of the tree, by version. Sourced.
# shellcheck disable=SC2034
CARGO_FUZZ_VERSION=0.13.2
# shellcheck disable=SC2034
CARGO_FUZZ_ROOT=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/smc-ci/cargo-fuzz-$CARGO_FUZZ_VERSION
