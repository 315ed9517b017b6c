#!/bin/bash
# Tests of smc_run.sh. Usage: tests/smc_run/run.sh SMC_RUN_SH
# The library is a stub built from C which says in the environment variable SMC_STUB_LOADED that it was loaded.
set -uo pipefail

smc_run=$(readlink -f -- "${1:?usage: run.sh SMC_RUN_SH}") || exit 1
repository=$(cd "$(dirname "$0")/../.." && pwd) || exit 1
# ld.so splits LD_PRELOAD at spaces and colons: the folder must have neither.
work=$(mktemp -d /tmp/smc_run-test.XXXXXX) || exit 1
chmod 755 "$work"
trap 'rm -rf "$work"' EXIT
unset SMC_RCVBUF SMC_SNDBUF SMC_UPGRADE_AFTER SMC_DISABLE SMC_LOG SMC_REPORT SMC_PRELOAD SMC_POLICY SMC_CONFIG SMC_BACKEND SMC_UEID LD_PRELOAD
unset CARGO_TARGET_DIR

passed=0 failed=0

# ok SENTENCE, after a command whose status decides.
ok() {
    if (($? == 0)); then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'FAILED: %s\n' "$1"
        printf '  status %s\n  stdout: %s\n  stderr: %s\n' "${status-}" "${out-}" "${err-}"
    fi
}

# Runs a command; leaves its output in `out` and `err` and its status in `status`.
try() {
    out=$("$@" 2>"$work/stderr" </dev/null)
    status=$?
    err=$(<"$work/stderr")
}

says() { [[ $err == *"$1"* ]]; }

cd "$work" || exit 1
mkdir -p bin "with space"
cat >stub.c <<'END'
#include <stdlib.h>
__attribute__((constructor)) static void loaded(void) { setenv("SMC_STUB_LOADED", "yes", 1); }
END
cat >show.c <<'END'
/* Prints what it was given: the arguments in brackets, then the variables of interest. Exits with the status $STATUS. */
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv) {
    static const char *names[] = {"LD_PRELOAD", "SMC_RCVBUF", "SMC_SNDBUF", "SMC_UPGRADE_AFTER", "SMC_DISABLE",
                                  "SMC_LOG", "SMC_REPORT", "SMC_POLICY", "SMC_CONFIG", "SMC_BACKEND", "SMC_STUB_LOADED",
                                  "dotted.name", NULL};
    for (int i = 0; i < argc; i++) printf("[%s]", argv[i]);
    printf("\n");
    for (const char **n = names; *n; n++)
        if (getenv(*n)) printf("%s=%s\n", *n, getenv(*n));
    return getenv("STATUS") ? atoi(getenv("STATUS")) : 0;
}
END
if ! { gcc -shared -fPIC -o stub.so stub.c && gcc -o bin/show show.c && gcc -static -o bin/show-static show.c &&
    gcc -static-pie -fPIE -o bin/show-static-pie show.c; }; then
    echo "smc_run: the test programs could not be built"
    exit 1
fi
cp stub.so other.so
export SMC_PRELOAD=$work/stub.so
PATH=$work/bin:$PATH

# The shapes of ELF files that this machine cannot build: an edited copy of a real one.
patched() { # FILE OFFSET OCTAL NEW
    cp bin/show "bin/$1"
    # shellcheck disable=SC2059 # an octal escape
    printf "\\$3" | dd of="bin/$1" bs=1 seek="$2" conv=notrunc status=none
}
patched show-32 4 001     # EI_CLASS: ELFCLASS32
patched show-s390 18 026  # e_machine: EM_S390
cp bin/show bin/show-musl # PT_INTERP
interpreter=$(strings -n 8 bin/show | grep -m 1 '^/lib.*/ld-')
# The same length, so that nothing moves.
musl=$(printf '/lib/ld-musl-%s' "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" | cut -c "1-${#interpreter}")
sed -i "s|$interpreter|$musl|" bin/show-musl

# --- options and settings
try "$smc_run" -h
[[ $status == 0 && -z $err && $out == "Usage: smc_run"* ]]
ok "-h prints the usage to standard output"
for word in -d -r -t --debug --help --version --rcvbuf --sndbuf --upgrade-after --backend --disable --log --report \
    SMC_BACKEND SMC_RCVBUF SMC_SNDBUF SMC_UPGRADE_AFTER SMC_DISABLE SMC_LOG SMC_REPORT; do
    [[ $out == *"$word"* ]]
    ok "the usage names $word"
done
try "$smc_run" --help
[[ $status == 0 && $out == "Usage: smc_run"* ]]
ok "--help is -h"

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$repository/Cargo.toml")
for flag in -v --version; do
    try "$smc_run" "$flag"
    [[ $status == 0 && $out == "smc_run $version" ]]
    ok "$flag prints the version of the workspace"
done

try "$smc_run"
[[ $status == 125 && -z $out && $err == "Usage: smc_run"* ]]
ok "without a command: the usage on standard error, status 125"
try "$smc_run" --frobnicate show
[[ $status == 125 && -z $out ]] && says --frobnicate
ok "an unknown long option is refused by name"
try "$smc_run" -x show
[[ $status == 125 && -z $out ]] && says -x
ok "an unknown short option is refused by name"

# settings NAME=VALUE... -- OPTIONS...: with OPTIONS the program sees exactly these settings, and no complaint is made.
settings() {
    local expected=() seen
    while [[ $1 != -- ]]; do
        expected+=("$1")
        shift
    done
    shift
    try "$smc_run" "$@" show
    seen=$(grep -E '^SMC_(B|R|SN|U|D|L|P|C)' <<<"$out" | sort)
    [[ $status == 0 && -z $err && $seen == "$(printf '%s\n' "${expected[@]}" | sort)" ]]
    ok "smc_run $* sets ${expected[*]}"
}
settings SMC_RCVBUF=64k -- -r 64k
settings SMC_RCVBUF=64k -- -r64k
settings SMC_RCVBUF=2M -- --rcvbuf=2M
settings SMC_RCVBUF=70000 -- --rcvbuf 70000
settings SMC_SNDBUF=1m -- -t 1m
settings SMC_SNDBUF=128K -- --sndbuf=128K
settings SMC_RCVBUF=08k -- -r 08k
settings SMC_UPGRADE_AFTER=0 -- --upgrade-after=0
settings SMC_UPGRADE_AFTER=16k -- --upgrade-after=16k
settings SMC_BACKEND=kernel -- --backend=kernel
settings SMC_BACKEND=auto -- --backend auto
settings SMC_DISABLE=1 -- --disable
try "$smc_run" --backend=Kernel show
[[ $status == 125 && -z $out ]] && says "neither auto nor kernel"
ok "a backend that is none is refused"
settings SMC_LOG=debug:stderr -- -d
settings SMC_LOG=debug:stderr -- --debug
settings SMC_LOG=info -- --log=info
settings SMC_LOG=trace:/x/y:z -- --log=trace:/x/y:z
settings "SMC_LOG=info:$work/log" -- --log=info:log
settings "SMC_REPORT=$work/sub/report" -- --report=sub/report
settings SMC_REPORT=/tmp/report -- --report /tmp/report
settings SMC_LOG=debug:stderr SMC_RCVBUF=64k SMC_SNDBUF=32k -- -dr 64k -t32k
settings "SMC_POLICY=exclude peer=:6379" -- --exclude peer=:6379
settings "SMC_POLICY=include uid=5 local=10.0.0.0/8; exclude program=a,b; exclude " -- \
    --include="uid=5 local=10.0.0.0/8" --exclude=program=a,b --exclude=
touch smc.conf
settings "SMC_CONFIG=$work/smc.conf" -- --config=smc.conf
try env "SMC_POLICY=include uid=7" "$smc_run" --exclude uid=5 show
[[ $out == *"SMC_POLICY=exclude uid=5; include uid=7"* ]]
ok "rules of options come before those of the environment"
try "$smc_run" --config=no-such-file show
[[ $status == 125 && -z $out ]] && says "--config: cannot read no-such-file"
ok "--config refuses a file that is not there"
try "$smc_run" --exclude "uid=5; include" show
[[ $status == 125 && -z $out ]] && says "one rule at a time"
ok "--exclude takes one rule"

# A smc_run with a smcctl beside it, which is a stub: the tool has tests of its own (ci/policy.sh).
mkdir tool
cp "$smc_run" tool/smc_run
cat >tool/smcctl <<'END'
#!/bin/sh
printf '%s: no good\n' "$SMC_POLICY$SMC_CONFIG"
! case $SMC_POLICY$SMC_CONFIG$SMC_RCVBUF in *bad*) true ;; *) false ;; esac
END
chmod +x tool/smcctl
try tool/smc_run --exclude bad show
[[ $status == 125 && -z $out ]] && says "--exclude: no good"
ok "--exclude refuses what smcctl refuses"
try env SMC_POLICY=bad STATUS=3 tool/smc_run show
[[ $status == 3 ]] && says "warning: bad: no good"
ok "a bad rule of the environment: a warning, and the program runs"
try env SMC_RCVBUF=bad tool/smc_run show
[[ $status == 0 ]] && says "warning: : no good"
ok "a bad size of the environment: a warning, and the program runs"
try env SMC_POLICY=good tool/smc_run --include good show
[[ $status == 0 && -z $err ]]
ok "good rules: no warning"

# shellcheck disable=SC2016 # text that must not be expanded, by anyone
for size in '' k -1 0 1.5k 64kb 64g ten 0x10 '1 k' 99999999999 99999999999999999999 '$(id)' 'a[0]'; do
    for option in --rcvbuf --sndbuf --upgrade-after; do
        [[ $option == --upgrade-after && $size == 0 ]] && continue
        try "$smc_run" "$option=$size" show
        [[ $status == 125 && -z $out ]] && says "$option: '$size' is"
        ok "$option refuses '$size', naming both"
    done
done
for size in 65m 67108865 65537k 9999999999m; do
    try "$smc_run" -t "$size" show
    [[ $status == 125 && -z $out ]] && says "-t: '$size' is too large"
    ok "-t refuses $size: a ring has at most 64 MiB"
done
settings SMC_SNDBUF=64m -- -t 64m
settings SMC_UPGRADE_AFTER=9999m -- --upgrade-after=9999m
layout=$repository/smc-core/src/ring/layout.rs
if [[ -f $layout ]]; then
    megabytes=$(sed -n 's/^LARGEST_BUFFER=\([0-9]*\)m$/\1/p' "$smc_run")
    grep -q "^pub const MAX_RING: u64 = $megabytes << 20;" "$layout"
    ok "smc_run and the library agree on the largest ring"
fi
try "$smc_run" -r 12x show
[[ $status == 125 && -z $out ]] && says "-r: '12x' is"
ok "-r refuses 12x, naming both"
try "$smc_run" -r
[[ $status == 125 ]] && says "-r needs a value"
ok "an option without its value is refused"
try "$smc_run" --log=loud show
[[ $status == 125 && -z $out ]] && says "'loud'"
ok "an unknown log level is refused"

# --- the program gets what it would get
try "$smc_run" show one "two words" "" -r '*' $'new\nline' --
[[ $status == 0 && $out == "[show][one][two words][][-r][*]["*"line][--]"* ]]
ok "arguments and argv[0] are unchanged, the program's options are its own"
try "$smc_run" -- show -h
[[ $out == "[show][-h]"* ]]
ok "-- ends the options"
cp bin/show bin/-dash
try "$smc_run" -- -dash x
[[ $status == 0 && $out == "[-dash][x]"* ]]
ok "a program whose name starts with - is run after --"
try env STATUS=42 "$smc_run" show
[[ $status == 42 ]]
ok "the exit status is the program's"
try env dotted.name=kept "$smc_run" show
[[ $out == *"dotted.name=kept"* ]]
ok "variables whose names are not identifiers are kept"
# shellcheck disable=SC2317 # called by no one, that is the point
od() { echo 0; }
export -f od
try "$smc_run" show-static
says "statically linked"
ok "a function exported by the caller does not run inside smc_run"
unset -f od
try env BASH_ENV=/dev/stdin "$smc_run" show <<<'echo intruder'
[[ $out != *intruder* ]]
ok "BASH_ENV is not read"
out=$(echo through | "$smc_run" cat)
[[ $out == through ]]
ok "standard input is the program's"
[[ $("$smc_run" show | grep -c SMC_STUB_LOADED=yes) == 1 ]]
ok "the library is loaded into the program"

for signal in TERM INT HUP USR1 KILL; do
    mkfifo "ready.$signal"
    # setsid: not a background job of this shell, whose SIGINT is ignored; SIGHUP is, under nohup.
    setsid python3 -c 'import signal, subprocess, sys
for name in ("TERM", "INT", "HUP", "USR1"):
    signal.signal(getattr(signal, "SIG" + name), signal.SIG_DFL)
child = subprocess.Popen([sys.argv[1], "sh", "-c", "echo $$ >" + sys.argv[2] + "; exec sleep 60"])
said = int(open(sys.argv[2]).read())
child.send_signal(getattr(signal, "SIG" + sys.argv[3]))
sys.exit(not (said == child.pid and child.wait() == -getattr(signal, "SIG" + sys.argv[3])))' \
        "$smc_run" "$work/ready.$signal" "$signal"
    ok "the program has the process id of smc_run and dies of SIG$signal as without it"
done
python3 -c 'import signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
def masks(command):
    text = subprocess.run(command + ["cat", "/proc/self/status"], stdout=subprocess.PIPE, text=True).stdout
    return [line for line in text.splitlines() if line.startswith(("SigBlk", "SigIgn"))]
sys.exit(masks([]) != masks([sys.argv[1]]) or not masks([]))' "$smc_run"
ok "ignored and blocked signals are passed on"

# --- LD_PRELOAD
try "$smc_run" show
[[ $out == *"LD_PRELOAD=$work/stub.so"$'\n'* ]]
ok "LD_PRELOAD is the library"
try env LD_PRELOAD="$work/other.so" "$smc_run" show
[[ $out == *"LD_PRELOAD=$work/stub.so:$work/other.so"$'\n'* ]]
ok "an LD_PRELOAD that is there is kept behind the library"
try env LD_PRELOAD="$work/other.so $work/stub.so" "$smc_run" show
[[ $out == *"LD_PRELOAD=$work/other.so $work/stub.so"$'\n'* ]]
ok "the library is not named twice"
try "$smc_run" "$smc_run" show
[[ $out == *"LD_PRELOAD=$work/stub.so"$'\n'* ]]
ok "smc_run under smc_run names the library once"

# --- where the library is
unset SMC_PRELOAD
mkdir -p checkout/shim checkout/target/release custom/release
touch checkout/Cargo.toml
cp "$smc_run" checkout/smc_run.sh
try checkout/smc_run.sh show
[[ $status == 125 && -z $out ]] && says "cargo build --release" && says "$work/checkout/target/release/libsmc_preload.so"
ok "a checkout that is not built: says what to build, runs nothing"
cp stub.so checkout/target/release/libsmc_preload.so
try checkout/smc_run.sh show
[[ $out == *"LD_PRELOAD=$work/checkout/target/release/libsmc_preload.so"* ]]
ok "the library of the checkout is found"
ln -s ../checkout/smc_run.sh bin/linked_smc_run
try linked_smc_run show
[[ $out == *"LD_PRELOAD=$work/checkout/target/release/libsmc_preload.so"* ]]
ok "a symbolic link to smc_run.sh finds the library of the checkout"
cp stub.so custom/release/libsmc_preload.so
try env CARGO_TARGET_DIR="$work/custom" checkout/smc_run.sh show
[[ $out == *"LD_PRELOAD=$work/custom/release/libsmc_preload.so"* ]]
ok "CARGO_TARGET_DIR is honoured"
try env CARGO_TARGET_DIR=custom checkout/smc_run.sh show
[[ $out == *"LD_PRELOAD=$work/custom/release/libsmc_preload.so"* ]]
ok "a relative CARGO_TARGET_DIR becomes an absolute path"
try env SMC_PRELOAD="$work/other.so" checkout/smc_run.sh show
[[ $out == *"LD_PRELOAD=$work/other.so"* ]]
ok "SMC_PRELOAD comes before the library of the checkout"
try env SMC_PRELOAD=other.so checkout/smc_run.sh show
[[ $out == *"LD_PRELOAD=$work/other.so"* ]]
ok "a relative SMC_PRELOAD becomes an absolute path"
try env SMC_PRELOAD=/nonexistent.so "$smc_run" show
[[ $status == 125 && -z $out ]] && says /nonexistent.so
ok "an SMC_PRELOAD that is not there is refused by name"
try env SMC_PRELOAD="$work/stub.c" "$smc_run" show
[[ $status == 125 && -z $out ]] && says "not an ELF file"
ok "an SMC_PRELOAD that is no library is refused"
cp stub.so "with space/stub.so"
try env SMC_PRELOAD="$work/with space/stub.so" "$smc_run" show
[[ $status == 125 && -z $out ]] && says "with space"
ok "a library whose path ld.so would split is refused"

for folder in lib lib64 lib/smc "lib/$(uname -m)-linux-gnu"; do
    rm -rf prefix
    mkdir -p "prefix/bin" "prefix/$folder"
    cp "$smc_run" prefix/bin/smc_run
    cp stub.so "prefix/$folder/libsmc_preload.so"
    try prefix/bin/smc_run show
    [[ $out == *"LD_PRELOAD=$work/prefix/$folder/libsmc_preload.so"* ]]
    ok "an installed smc_run finds the library in $folder"
done
rm "prefix/$folder/libsmc_preload.so"
try prefix/bin/smc_run show
[[ $status == 125 && -z $out ]] && says "$work/prefix/lib"
ok "an installed smc_run without its library says where it looked"
export SMC_PRELOAD=$work/stub.so

# --- installing
mkdir -p built/release
cp stub.so built/release/libsmc_preload.so
cp bin/show built/release/smcss
cp bin/show built/release/smcctl
cp bin/show built/release/smcr
install_smc() { env CARGO_TARGET_DIR="$work/built" "$@"; }
unset SMC_PRELOAD
try install_smc PREFIX="$work/installed" "$repository/ci/install.sh"
[[ $status == 0 ]] && try "$work/installed/bin/smc_run" show
[[ $out == *"LD_PRELOAD=$work/installed/lib/libsmc_preload.so"* && -x $work/installed/bin/smcss && -x $work/installed/bin/smcctl &&
    -x $work/installed/bin/smcr ]]
ok "ci/install.sh installs what smc_run finds"
try install_smc PREFIX="$work/installed" "$repository/ci/install.sh" uninstall
[[ $status == 0 && -z $(find "$work/installed" -type f) ]]
ok "ci/install.sh uninstall leaves no file"
try install_smc DESTDIR="$work/stage" PREFIX=/usr LIBDIR=/usr/lib64 "$repository/ci/install.sh"
[[ $status == 0 && -f $work/stage/usr/lib64/libsmc_preload.so && -x $work/stage/usr/bin/smc_run ]]
ok "ci/install.sh puts DESTDIR in front and honours LIBDIR"
try env CARGO_TARGET_DIR="$work/unbuilt" PREFIX="$work/installed" "$repository/ci/install.sh"
[[ $status == 1 ]] && says "cargo build --release"
ok "ci/install.sh without a build says what to build"
export SMC_PRELOAD=$work/stub.so

# --- programs that cannot be run
try "$smc_run" no-such-program
[[ $status == 127 ]] && says "no-such-program"
ok "a program that is not in PATH: 127"
try "$smc_run" ./no-such-program
[[ $status == 127 ]] && says "./no-such-program"
ok "a path that is not there: 127"
try "$smc_run" ''
[[ $status == 127 ]]
ok "an empty name: 127"
try "$smc_run" ./stub.c
[[ $status == 126 ]] && says "./stub.c"
ok "a file that is not executable: 126"
try "$smc_run" "./with space"
[[ $status == 126 ]]
ok "a directory: 126"
cp stub.c bin/not-executable
chmod 644 bin/not-executable
try "$smc_run" not-executable
[[ $status == 126 ]]
ok "a file of PATH that is not executable: 126"
printf '#!/no/such/interpreter\n' >bin/orphan
chmod +x bin/orphan
try "$smc_run" orphan
[[ $status == 126 || $status == 127 ]]
ok "a script without its interpreter fails as in a shell"

# --- programs the library cannot work in: a warning, and they run
try "$smc_run" show
[[ $status == 0 && -z $err ]]
ok "no warning for a dynamic program"

for program in show-static show-static-pie; do
    try env STATUS=3 "$smc_run" $program a
    [[ $status == 3 && $out == "[$program][a]"* && $out != *STUB_LOADED* ]] && says "$work/bin/$program is statically linked"
    ok "$program: a warning, and it runs"
    try "$smc_run" --disable $program
    [[ $status == 0 && -z $err ]]
    ok "$program: no warning with --disable"
done
# show-32 and show-s390 are not runnable here (the kernel decides with what status); the warning comes first.
try "$smc_run" show-32
says "show-32 is a 32-bit program, the library is 64-bit"
ok "another ELF class: a warning"
try "$smc_run" show-s390
says "show-s390 is for another processor"
ok "another machine: a warning"
try "$smc_run" show-musl
says "show-musl is linked with musl"
ok "a musl program: a warning"

cat >bin/script-static <<END
#!$work/bin/show-static  -x
END
printf '#!/usr/bin/env show-static\n' >bin/script-env
printf '#! /usr/bin/env -S A=1 show-static -u\n' >bin/script-env-s
printf '#!%s\n' "$work/bin/script-static" >bin/script-of-script
printf '#!%s/bin/show' "$work" >bin/script-dynamic
printf 'exec show-static "$@"\n' >bin/script-bare
chmod +x bin/script-*
for script in script-static script-env script-env-s script-of-script; do
    try "$smc_run" $script arg
    [[ $status == 0 && $out == *"[arg]"* ]] && says "$work/bin/show-static is statically linked"
    ok "$script: the interpreter is looked at, and it runs"
done
try "$smc_run" script-dynamic
[[ $status == 0 && -z $err && $out == *STUB_LOADED=yes* ]]
ok "a script of a dynamic interpreter: no warning, and the library is loaded"
try "$smc_run" script-bare arg
[[ $status == 0 && $out == *"[arg]"* ]]
ok "a script without #! is run by the shell"

loader=$(readlink -f "$interpreter")
try "$smc_run" "$loader" "$work/bin/show"
[[ $status == 0 && -z $err && $out == *STUB_LOADED=yes* ]]
ok "the dynamic loader as a program: no warning, and the library is loaded"

# Changing owners needs root, and a file system that honours setuid.
if ((EUID == 0)); then
    install -m 4755 -o nobody bin/show bin/show-setuid
    install -m 2755 -g nogroup bin/show bin/show-setgid
    install -m 4755 -o root bin/show bin/show-setuid-self
    for kind in setuid setgid; do
        try env STATUS=4 "$smc_run" show-$kind
        [[ $status == 4 ]] && says "show-$kind is $kind"
        ok "a $kind program: a warning, and it runs"
    done
    try "$smc_run" show-setuid-self
    [[ $status == 0 && -z $err && $out == *STUB_LOADED=yes* ]]
    ok "a program setuid to the user himself: no warning, and the library is loaded"
    cp bin/show bin/show-caps
    if setcap cap_net_raw+ep bin/show-caps 2>/dev/null; then
        # A copy: nobody cannot read the checkout everywhere.
        cp "$smc_run" bin/smc_run
        try setpriv --reuid nobody --regid nogroup --clear-groups "$work/bin/smc_run" show-caps
        [[ $status == 0 ]] && says "show-caps has file capabilities"
        ok "a program with file capabilities: a warning, and it runs"
        try setpriv --reuid nobody --regid nogroup --clear-groups "$work/bin/smc_run" show
        [[ $status == 0 && -z $err && $out == *STUB_LOADED=yes* ]]
        ok "another user: no warning for an ordinary program"
        # Execute permission alone: nothing to be read, nothing to be said.
        install -m 0711 bin/show bin/show-unreadable
        try setpriv --reuid nobody --regid nogroup --clear-groups "$work/bin/smc_run" show-unreadable
        [[ $status == 0 && -z $err && $out == "[show-unreadable]"* ]]
        ok "a program that may be executed but not read runs"
    fi
else
    echo "not root: the tests with setuid, setgid and file capabilities are left out"
fi

echo "smc_run: $passed passed, $failed failed"
((failed == 0))
