#!/usr/bin/env bash
# Compiles the programs in shim/tests/c and runs each natively, under the shim, under the shim with connections that have
# moved before the test begins, under the shim with a log (which gives it a descriptor of its own), and under the shim
# switched off. All must end alike and print the same.
#   shim/tests/run.sh path/to/libsmc_preload.so [name...]
set -uo pipefail

lib=$(realpath "${1:?usage: shim/tests/run.sh path/to/libsmc_preload.so [name...]}")
shift
dir=$(realpath "$(dirname "$0")/c")
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
failed=0

cflags="-O1 -g -Wall -Wextra -Werror -pthread"
gcc -O1 -g -Wall -Wextra -Wno-builtin-declaration-mismatch -fPIC -fno-builtin -shared -o "$out/libearly.so" "$dir/early_lib.c" ||
    exit 1

flags() { # of one program
    case $1 in
    fortify | cancel) echo "-O2 -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2" ;;
    early) echo "-L$out -learly -Wl,-rpath,$out" ;;
    fork) echo "-ldl" ;;
    esac
}

# In a directory of its own with a limit that leaves room for descriptors above 900; 300 s is not a measurement but the
# end of what hangs.
run() { # variant, program, environment...
    local variant=$1 program=$2
    shift 2
    (ulimit -n 1024 && exec env "$@" timeout 300 "$out/$program") >"$out/$program.$variant" 2>"$out/$program.$variant.err"
    echo "exit $?" >>"$out/$program.$variant"
}

for source in "$dir"/*.c; do
    name=$(basename "$source" .c)
    [ "$name" = early_lib ] && continue
    [ $# = 0 ] || [[ " $* " == *" $name "* ]] || continue
    # shellcheck disable=SC2046,SC2086
    gcc $cflags "$source" -o "$out/$name" $(flags "$name") || exit 1

    run native "$name" A=B
    run shim "$name" LD_PRELOAD="$lib"
    run moved "$name" LD_PRELOAD="$lib" SMC_UPGRADE_AFTER=0 TEST_EXCHANGES=20
    run log "$name" LD_PRELOAD="$lib" SMC_LOG="trace:$out/$name.smc" TEST_LOG="$out/$name.smc"
    run off "$name" LD_PRELOAD="$lib" SMC_DISABLE=1
    ok=1
    for variant in native shim moved log off; do
        if [ "$(tail -n 1 "$out/$name.$variant")" != 'exit 0' ]; then
            echo "$name ($variant): $(tail -n 1 "$out/$name.$variant")"
            cat "$out/$name.$variant.err"
            ok=0
        elif ! cmp -s "$out/$name.native" "$out/$name.$variant"; then
            echo "$name ($variant): prints something else than natively"
            diff "$out/$name.native" "$out/$name.$variant" | head -20
            ok=0
        elif [ -s "$out/$name.$variant.err" ]; then
            echo "$name ($variant): wrote to stderr"
            cat "$out/$name.$variant.err"
            ok=0
        fi
    done
    if [ ! -s "$out/$name.smc" ]; then
        echo "$name (log): no log was written"
        ok=0
    fi
    if [ "$ok" = 1 ]; then echo "$name: ok"; else failed=1; fi
done
exit "$failed"
