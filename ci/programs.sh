#!/bin/bash
# Real programs, each natively, with both sides under the preload library, and with one side only: the results must be
# the native ones, the connections on shared memory where they can be, and nothing left behind.
# Usage: ci/programs.sh [--list] [--mode both|server|client] [--keep] [NAME|core]...
#   Without names: all of them (some fifteen minutes); then docs/compatibility.md is written.
#   core: six of them, without the one-sided runs; about four minutes on two processors.
#   Results of the last run of each program are kept in target/programs.
#   SMC_PROGRAMS_LOG=LEVEL:FILE   a log of the library (a FILE all users can write)
#   SMC_PROGRAMS_GDB=1            stacks of what hangs, with gdb
set -uo pipefail
# shellcheck source=tests/environment.sh
source "$(dirname "$0")/../tests/environment.sh"
require_preload
if [[ ! -x ${SMC_SMCSS:-$(dirname "$PRELOAD")/smcss} ]]; then
    echo "programs: smcss is missing: cargo build --release -p smc-tools" >&2
    exit 2
fi
# nginx and others are in sbin.
export SMC_PRELOAD=$PRELOAD PATH=$PATH:/usr/sbin:/sbin
unset SMC_UPGRADE_AFTER SMC_MAX_CONNS SMC_RCVBUF SMC_SNDBUF SMC_BACKEND SMC_UEID SMC_DISABLE SMC_REPORT SMC_RUN_DIR SMC_POLICY LD_PRELOAD
# Nor the settings of the host.
export SMC_CONFIG=
page=()
named=0
for argument in "$@"; do
    [[ $argument == --keep ]] || named=1
done
((named)) || page=(--page "$ROOT/docs/compatibility.md")
# As a child, so that the work directory of the scripts is removed.
/usr/bin/python3 "$ROOT/tests/programs/matrix.py" --results "$TARGET/programs" "${page[@]}" "$@"
