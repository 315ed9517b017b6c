#!/bin/bash
# A peer that breaks every rule, against victims under the preload library. Prints its seed.
# Usage: ci/hostile.sh [OPTION]...   options of the program: --seed N, --rounds N, --filter TEXT
set -uo pipefail
# shellcheck source=tests/environment.sh
source "$(dirname "$0")/../tests/environment.sh"
programs=$(test_programs) || exit
require_preload
env -u LD_PRELOAD SMC_PRELOAD="$PRELOAD" "$programs/hostile" "$@"
