#!/bin/bash
# Every cause that keeps a connection on TCP or brings it back there is brought about; codes and texts of both ends are
# compared in smcss --json, smcss -a, SMC_REPORT and the log.
# Usage: ci/reasons.sh [FILTER]   only the causes with FILTER in their names
set -uo pipefail
# shellcheck source=tests/environment.sh
source "$(dirname "$0")/../tests/environment.sh"
programs=$(test_programs) || exit
require_preload
SMC_SMCSS=${SMC_SMCSS:-$TARGET/release/smcss}
if [[ ! -x $SMC_SMCSS ]]; then
    echo "reasons: $SMC_SMCSS is missing: cargo build --release -p smc-tools" >&2
    exit 2
fi
export SMC_SMCSS
env -u LD_PRELOAD SMC_PRELOAD="$PRELOAD" "$programs/reasons" "$@"
