#!/usr/bin/env bash
# Checks what a built libsmc_preload.so exports and needs. Builds nothing.
#   ci/exports.sh path/to/libsmc_preload.so
# - The dynamic symbols it defines are exactly those that shim/src/symbols.rs declares.
# - No hook has an exception table, nor the functions of `abi` and `ops` that it calls: a cancelled thread unwinds
#   through them (shim/src/guard.rs). The exceptions: what redhook's hook! makes, which is never used for a call that
#   can be cancelled, and functions that make no such call, by name.
# - The trampolines are one jump, so that the real function finds registers and stack as the caller left them.
# - It needs libc, the loader and libgcc_s, and nothing else.
set -euo pipefail

lib=${1:?usage: ci/exports.sh path/to/libsmc_preload.so}
list=$(dirname "$0")/../shim/src/symbols.rs
status=0

complain() {
    echo "exports: $*" >&2
    status=1
}

declared() { # kinds, separated by |
    sed -nE "s/^ {8}($1) ([A-Za-z0-9_]+)[(;].*/\2/p" "$list" | sort
}

all='required|optional|alias|trampoline|redhook'
[ -n "$(declared "$all")" ] || complain "found no declarations in $list"
if ! difference=$(diff <(declared "$all") <(nm -D --defined-only "$lib" | awk '{print $3}' | sort)); then
    complain "declared (<) and exported (>) differ:"$'\n'"$difference"
fi

# Addresses of functions whose unwind information has an exception table (LSDA).
with_table=$(readelf --debug-dump=frames "$lib" 2>/dev/null | awk '
    / CIE$/ { cie = $1 }
    /Augmentation:/ { has[cie] = ($2 ~ /L/) }
    / FDE / && match($0, /cie=[0-9a-f]+/) {
        id = substr($0, RSTART + 4, RLENGTH - 4)
        match($0, /pc=[0-9a-f]+/)
        if (has[id]) print substr($0, RSTART + 3, RLENGTH - 3)
    }' | sed 's/^0*//' | sort -u)
# What redhook makes has one, so that this would notice a reader of the tables that finds nothing.
for name in $(declared redhook); do
    address=$(nm -D --defined-only "$lib" | awk -v name="$name" '$3 == name {sub(/^0*/, "", $1); print $1}')
    grep -qx "$address" <<<"$with_table" || complain "no exception table found for $name: cannot check the others"
done
plain=$(declared 'required|optional|alias|trampoline')
while read -r address name; do
    complain "$name has an exception table (at $address)"
done < <(
    {
        nm -D --defined-only "$lib" | grep -wF "$plain"
        # What the exports go on to, where that was not inlined.
        nm --demangle --defined-only "$lib" | grep -E ' smc_preload::(abi|ops)::[a-z]+::[a-z_0-9]+' |
            grep -vE '::(redhooked::|fd::next_own)'
    } | awk -v addresses="$with_table" '
        BEGIN { n = split(addresses, list); for (i = 1; i <= n; i++) table[list[i]] = 1 }
        { address = $1; sub(/^0*/, "", address); if (address in table) print $1, $3 }'
)

for name in $(declared trampoline); do
    first=$(objdump -d --no-show-raw-insn --disassemble="$name" "$lib" | awk '/^ *[0-9a-f]+:/ && !seen++ {print $2}')
    case $first in
    jmp | b) ;;
    *) complain "$name begins with '$first', not with a jump" ;;
    esac
done

needed=$(readelf -d "$lib" | sed -nE 's/.*\(NEEDED\).*\[(.*)\]/\1/p')
for name in $needed; do
    case $name in
    libc.so.6 | libgcc_s.so.1 | ld-linux-*.so.* | libdl.so.2 | libpthread.so.0) ;; # the last two before glibc 2.34
    *) complain "needs $name" ;;
    esac
done

[ "$status" = 0 ] && echo "exports: $(declared "$all" | wc -l) symbols, as declared; needs" "${needed//$'\n'/ }"
exit "$status"
