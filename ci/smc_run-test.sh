#!/bin/bash
# The tests of smc_run.sh. They need no built library: a stub stands in for it.
cd "$(dirname "$0")/.." || exit 1
exec bash tests/smc_run/run.sh "$PWD/smc_run.sh"
