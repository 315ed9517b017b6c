#!/bin/bash -p
# smc_run: start a program with its TCP sockets on Shared Memory Communications.
#
# bash, not sh: dash drops environment variables whose names are not identifiers (spring.config.name=x), and the
# program must get the environment it would get without this script. -p: no BASH_ENV and no functions from the
# environment run in here.

VERSION=0.1.0
# As for env(1), timeout(1) and nohup(1): a status that tells an error of smc_run from one of the program.
EXIT_USAGE=125
EXIT_NOT_EXECUTABLE=126
EXIT_NOT_FOUND=127
LIBRARY=libsmc_preload.so

usage() {
    cat <<'END'
Usage: smc_run [OPTIONS] [--] COMMAND [ARGUMENTS]

Run COMMAND with its TCP connections on Shared Memory Communications where the
other end can do it too, and on plain TCP otherwise.

  -d, --debug              log what the library does, to standard error
  -r, --rcvbuf=SIZE        receive buffer (ring) of a connection, in bytes
  -t, --sndbuf=SIZE        send buffer (ring) of a connection, in bytes
      --backend=BACKEND    auto: shared memory, as above. kernel: sockets of the kernel's
                           own SMC (AF_SMC), where it has that
      --upgrade-after=SIZE bytes a connection carries over TCP before it moves;
                           0: move at once
      --exclude=CONDITIONS leave on TCP the connections for which all CONDITIONS hold:
      --include=CONDITIONS program=NAME, uid=NUMBER, local=ADDRESS, peer=ADDRESS; the
                           first rule that holds decides (smcctl explain --help)
      --config=FILE        settings and rules, in place of /etc/smc/smc.conf
      --disable            run COMMAND with everything left on TCP
      --log=LEVEL[:FILE]   log LEVEL (error, warn, info, debug, trace) to FILE
      --report=FILE        append a line of JSON to FILE for each connection
  -h, --help               show this text
  -v, --version            show the version

SIZE may end in k (1024) or m (1024 * 1024).

Each option sets an environment variable, which may be set instead: SMC_BACKEND,
SMC_RCVBUF, SMC_SNDBUF, SMC_UPGRADE_AFTER, SMC_POLICY, SMC_CONFIG, SMC_DISABLE, SMC_LOG,
SMC_REPORT; so may SMC_MAX_CONNS. SMC_PRELOAD names the library to load in place of the one found beside
smc_run. A bad value of an option is refused; other bad settings are told here, and
COMMAND runs on TCP where nobody can tell what they mean.

Exit status: that of COMMAND; 125 if smc_run itself fails, 126 if COMMAND cannot
be executed, 127 if it is not found.
END
}

warn() { printf 'smc_run: warning: %s\n' "$*" >&2; }

die() {
    local status=$1
    shift
    printf 'smc_run: %s\n' "$*" >&2
    exit "$status"
}

# The largest ring: MAX_RING of smc-core/src/ring/layout.rs.
LARGEST_BUFFER=64m

# check_size OPTION VALUE MINIMUM [MAXIMUM]: digits with an optional k or m, in these limits. The library would use the
# default for a bad value; here nothing runs.
check_size() {
    local digits=$2 unit=1 largest=${4-}
    case $2 in
    *[kK]) digits=${2%?} unit=1024 ;;
    *[mM]) digits=${2%?} unit=1048576 ;;
    esac
    # At most ten digits, so that the product below cannot overflow.
    if ! [[ $digits =~ ^[0-9]{1,10}$ ]]; then
        die $EXIT_USAGE "$1: '$2' is not a size (a number of bytes, with an optional k or m)"
    fi
    if ((10#$digits * unit < $3)); then
        die $EXIT_USAGE "$1: '$2' is too small (at least $3)"
    fi
    if [[ -n $largest ]] && ((10#$digits * unit > ${largest%m} * 1048576)); then
        die $EXIT_USAGE "$1: '$2' is too large (at most $largest)"
    fi
}

check_log() {
    case ${1%%:*} in
    off | error | warn | info | debug | trace) ;;
    *) die $EXIT_USAGE "--log: '$1' does not start with a level (off, error, warn, info, debug, trace)" ;;
    esac
    case $1 in
    *:) die $EXIT_USAGE "--log: '$1' names no file" ;;
    esac
}

# Sets `smcctl` to the tool that knows the settings, beside this script or in the build of its checkout, or to nothing.
find_smcctl() {
    local here candidate
    smcctl=
    here=$(readlink -f -- "${BASH_SOURCE[0]}") || return 0
    here=${here%/*}
    for candidate in "$here/smcctl" "${CARGO_TARGET_DIR:-$here/target}/release/smcctl"; do
        if [[ -x $candidate ]]; then
            smcctl=$candidate
            return
        fi
    done
}

# check_rule OPTION CONDITIONS: one rule alone. Without smcctl it is left to the library.
check_rule() {
    local said
    case $2 in
    *';'*) die $EXIT_USAGE "$1: '$2': one rule at a time" ;;
    esac
    find_smcctl
    [[ -n $smcctl ]] || return 0
    said=$(env -u SMC_RCVBUF -u SMC_SNDBUF -u SMC_UPGRADE_AFTER -u SMC_MAX_CONNS -u SMC_DISABLE -u SMC_LOG -u SMC_REPORT \
        -u SMC_BACKEND -u SMC_UEID -u SMC_RDMA_DEVICE -u SMC_RDMA_PORTS SMC_CONFIG= SMC_POLICY="${1#--} $2" "$smcctl" check --quiet) ||
        die $EXIT_USAGE "$1: ${said#*: }"
}

# Tells what is wrong with settings from elsewhere: the environment and the configuration file.
check_settings() {
    local said line
    [[ -n ${SMC_POLICY-}${SMC_CONFIG-}${SMC_RCVBUF-}${SMC_SNDBUF-}${SMC_UPGRADE_AFTER-}${SMC_MAX_CONNS-}${SMC_DISABLE-}${SMC_LOG-}${SMC_BACKEND-}${SMC_UEID-}${SMC_RDMA_DEVICE-}${SMC_RDMA_PORTS-} ||
        -z ${SMC_CONFIG+set} && -e /etc/smc/smc.conf ]] || return 0
    find_smcctl
    if [[ -n $smcctl ]] && ! said=$("$smcctl" check); then
        while IFS= read -r line; do
            warn "$line"
        done <<<"$said"
    fi
}

# The program may change its directory before the library opens the file.
absolute() {
    case $1 in
    /*) printf '%s' "$1" ;;
    *) printf '%s/%s' "$PWD" "$1" ;;
    esac
}

# set_option NAME VALUE, NAME being the long form without its dashes.
set_option() {
    case $1 in
    rcvbuf)
        check_size "$option" "$2" 1 $LARGEST_BUFFER
        export SMC_RCVBUF=$2
        ;;
    sndbuf)
        check_size "$option" "$2" 1 $LARGEST_BUFFER
        export SMC_SNDBUF=$2
        ;;
    upgrade-after)
        check_size "$option" "$2" 0
        export SMC_UPGRADE_AFTER=$2
        ;;
    backend)
        [[ $2 == auto || $2 == kernel ]] || die $EXIT_USAGE "$option: '$2' is neither auto nor kernel"
        export SMC_BACKEND=$2
        ;;
    include | exclude)
        check_rule "$option" "$2"
        rules+=${rules:+; }"$1 $2"
        ;;
    config)
        [[ -n $2 ]] || die $EXIT_USAGE "$option names no file"
        [[ -r $2 ]] || die $EXIT_USAGE "$option: cannot read $2"
        SMC_CONFIG=$(absolute "$2") && export SMC_CONFIG
        ;;
    log)
        check_log "$2"
        case $2 in
        *:stderr | *:stdout) export SMC_LOG=$2 ;;
        *:*) SMC_LOG=${2%%:*}:$(absolute "${2#*:}") && export SMC_LOG ;;
        *) export SMC_LOG=$2 ;;
        esac
        ;;
    report)
        [[ -n $2 ]] || die $EXIT_USAGE "$option names no file"
        SMC_REPORT=$(absolute "$2") && export SMC_REPORT
        ;;
    esac
}

# Sets `library` to an absolute path, or ends with a message that says what to do.
find_library() {
    local here candidate target
    if [[ -n ${SMC_PRELOAD-} ]]; then
        library=$(absolute "$SMC_PRELOAD")
        [[ -r $library ]] || die $EXIT_USAGE "SMC_PRELOAD: cannot read $library"
    else
        here=$(readlink -f -- "${BASH_SOURCE[0]}") || die $EXIT_USAGE "cannot find the folder of smc_run"
        here=${here%/*}
        library=
        if [[ -f $here/Cargo.toml && -d $here/shim ]]; then
            target=$(absolute "${CARGO_TARGET_DIR:-$here/target}")
            library=$target/release/$LIBRARY
            [[ -r $library ]] || die $EXIT_USAGE "$library is not there: build it with 'cargo build --release' in $here"
        else
            for candidate in "${here%/*}"/{lib,lib64,lib/smc,lib/"$(uname -m)"-linux-gnu}/$LIBRARY; do
                if [[ -r $candidate ]]; then
                    library=$candidate
                    break
                fi
            done
            [[ -n $library ]] || die $EXIT_USAGE "$LIBRARY is not in ${here%/*}/lib, lib64 or lib/smc:" \
                "install it there or name it in SMC_PRELOAD"
        fi
    fi
    case $library in
    *[[:space:]:]*) die $EXIT_USAGE "$library: a path with a space or a colon cannot be preloaded (see ld.so(8)):" \
        "name the library by another path in SMC_PRELOAD" ;;
    esac
}

# bytes FILE OFFSET COUNT: sets the array B to the values of these bytes; fails on a file that cannot be read.
bytes() {
    local text
    text=$(od -An -v -tu1 -j "$2" -N "$3" -- "$1" 2>/dev/null) || return 1
    read -r -d '' -a B <<<"$text"
    ((${#B[@]} > 0))
}

# number INDEX SIZE: sets N to an integer of the ELF file whose bytes are in B, in the byte order of that file.
number() {
    local i
    N=0
    for ((i = 0; i < $2; i++)); do
        if ((elf_data == 2)); then
            N=$((N << 8 | ${B[$1 + i]:-0}))
        else
            N=$((N | ${B[$1 + i]:-0} << (8 * i)))
        fi
    done
}

# elf_kind, with the first 64 bytes of a file in B: sets elf_class, elf_machine and elf_data; fails if it is not an
# ELF file.
elf_kind() {
    [[ "${B[*]:0:4}" == "127 69 76 70" ]] || return 1
    elf_class=${B[4]:-0}
    elf_data=${B[5]:-0}
    number 18 2
    elf_machine=$N
}

# elf_interpreter, after elf_kind FILE: sets `interpreter` to the dynamic loader that FILE asks for, empty for
# none. PT_INTERP decides: a static-pie has PT_DYNAMIC too.
elf_interpreter() {
    local table entry_size entries at offset size
    interpreter=
    if ((elf_class == 2)); then
        number 32 8 && table=$N
        number 54 2 && entry_size=$N
        number 56 2 && entries=$N
    else
        number 28 4 && table=$N
        number 42 2 && entry_size=$N
        number 44 2 && entries=$N
    fi
    ((entries > 0 && entries < 4096 && entry_size >= 32)) || return 0
    bytes "$1" "$table" $((entries * entry_size)) || return 0
    for ((at = 0; at < entries * entry_size; at += entry_size)); do
        number "$at" 4
        ((N == 3)) || continue
        if ((elf_class == 2)); then
            number $((at + 8)) 8 && offset=$N
            number $((at + 32)) 8 && size=$N
        else
            number $((at + 4)) 4 && offset=$N
            number $((at + 16)) 4 && size=$N
        fi
        interpreter="(unreadable)"
        if ((size > 1 && size < 4096)) && bytes "$1" "$offset" $((size - 1)); then
            # shellcheck disable=SC2059 # the format is made here, of octal escapes alone
            interpreter=$(printf "$(printf '\\%03o' "${B[@]}")")
        fi
        return 0
    done
}

# resolve NAME: sets `path` to the file that exec would run; fails with the status a shell would give.
resolve() {
    local directory rest found=
    case $1 in
    */*)
        path=$1
        [[ -e $path ]] || return $EXIT_NOT_FOUND
        [[ -f $path && -x $path ]] || return $EXIT_NOT_EXECUTABLE
        return 0
        ;;
    '') return $EXIT_NOT_FOUND ;;
    esac
    rest=${PATH-/usr/local/bin:/usr/bin:/bin}:
    while [[ -n $rest ]]; do
        directory=${rest%%:*}
        rest=${rest#*:}
        path=${directory:-.}/$1
        if [[ -f $path ]]; then
            [[ -x $path ]] && return 0
            found=$path
        fi
    done
    [[ -z $found ]] || return $EXIT_NOT_EXECUTABLE
    return $EXIT_NOT_FOUND
}

# script_interpreter FILE: sets `path` to the program named in the #! line of FILE, looking through env(1); fails
# if none is named, or it is not found (exec will say so).
script_interpreter() {
    local line words word
    # The kernel reads 256 bytes; -n counts characters of a text file here.
    IFS= read -r -n 256 line <"$1" 2>/dev/null || [[ -n $line ]] || return 1
    line=${line%$'\r'}
    read -r -a words <<<"${line#'#!'}"
    ((${#words[@]} > 0)) || return 1
    if [[ ${words[0]##*/} == env ]]; then
        for word in "${words[@]:1}"; do
            case $word in
            -S?*) word=${word#-S} ;;
            -* | *=*) continue ;;
            esac
            resolve "$word"
            return
        done
    fi
    resolve "${words[0]}"
}

# Sets `why_not` to the reason why the library cannot work in the file `path`, or to nothing. Sets `can_preload` to
# no where the dynamic loader would complain about the library or refuse to start the program with it.
check_program() {
    local file=$path depth owner library_class library_machine getcap
    why_not=
    can_preload=yes
    if ! { bytes "$library" 0 64 && elf_kind; }; then
        die $EXIT_USAGE "$library is not an ELF file"
    fi
    library_class=$elf_class
    library_machine=$elf_machine

    # What cannot be read or is neither script nor ELF file: nothing can be said, and exec knows better.
    bytes "$file" 0 64 || return 0
    # The kernel follows scripts of scripts, too, a few times.
    for ((depth = 0; depth < 4; depth++)); do
        [[ "${B[*]:0:2}" == "35 33" ]] || break
        script_interpreter "$file" || return 0
        bytes "$path" 0 64 || return 0
        file=$path
    done
    elf_kind || return 0
    if ((elf_class != library_class)); then
        why_not="$file is a $((elf_class * 32))-bit program, the library is $((library_class * 32))-bit"
        can_preload=no
        return
    fi
    if ((elf_machine != library_machine)); then
        why_not="$file is for another processor (ELF machine $elf_machine) than the library ($library_machine)"
        can_preload=no
        return
    fi
    elf_interpreter "$file"
    case $interpreter in
    '')
        # The dynamic loader may be started as a program; it has no PT_INTERP, and does preload.
        case ${file##*/} in
        ld-linux*.so* | ld64.so* | ld-[0-9]*.so | ld.so) ;;
        *) why_not="$file is statically linked" ;;
        esac
        ;;
    *ld-musl*)
        why_not="$file is linked with musl, the library with glibc"
        can_preload=no
        ;;
    esac
    [[ -z $why_not ]] || return 0

    # What the kernel calls a secure execution: the identity changes, or capabilities are gained by a user who is
    # not root. The dynamic loader then ignores LD_PRELOAD.
    if [[ -u $file || -g $file ]]; then
        read -r -a owner <<<"$(stat -L -c '%u %g' -- "$file" 2>/dev/null)"
    fi
    if [[ -u $file && ${owner[0]-} != "$UID" ]]; then
        why_not="$file is setuid"
    elif [[ -g $file && ${owner[1]-} != "${GROUPS[0]}" ]]; then
        why_not="$file is setgid"
    elif ((UID != 0)); then
        for getcap in getcap /usr/sbin/getcap /sbin/getcap; do
            if command -v "$getcap" >/dev/null; then
                [[ -z $("$getcap" "$file" 2>/dev/null) ]] || why_not="$file has file capabilities"
                break
            fi
        done
    fi
}

rules=
while (($# > 0)); do
    option=$1
    case $1 in
    --)
        shift
        break
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    -v | --version)
        echo "smc_run $VERSION"
        exit 0
        ;;
    -d | --debug) export SMC_LOG=debug:stderr ;;
    --disable) export SMC_DISABLE=1 ;;
    --rcvbuf=* | --sndbuf=* | --upgrade-after=* | --backend=* | --include=* | --exclude=* | --config=* | --log=* | --report=*)
        option=${1%%=*}
        set_option "${option#--}" "${1#*=}"
        ;;
    -r | -t | --rcvbuf | --sndbuf | --upgrade-after | --backend | --include | --exclude | --config | --log | --report)
        (($# > 1)) || die $EXIT_USAGE "$1 needs a value (smc_run -h shows the options)"
        case $1 in
        -r) set_option rcvbuf "$2" ;;
        -t) set_option sndbuf "$2" ;;
        *) set_option "${1#--}" "$2" ;;
        esac
        shift
        ;;
    -[rt]?*)
        # -r64k
        value=${1#-?}
        option=${1%"$value"}
        set -- "$option" "$value" "${@:2}"
        continue
        ;;
    -[dhv]?*)
        # -dr 64k
        set -- "${1:0:2}" "-${1:2}" "${@:2}"
        continue
        ;;
    -*) die $EXIT_USAGE "unknown option $1 (smc_run -h shows the options)" ;;
    *) break ;;
    esac
    shift
done

if (($# == 0)); then
    usage >&2
    exit $EXIT_USAGE
fi

resolve "$1"
case $? in
0) ;;
"$EXIT_NOT_EXECUTABLE") die $EXIT_NOT_EXECUTABLE "$1: cannot be executed" ;;
*) die $EXIT_NOT_FOUND "$1: not found" ;;
esac
# What is said here comes before what is set elsewhere.
[[ -z $rules ]] || export SMC_POLICY="$rules${SMC_POLICY:+; $SMC_POLICY}"
find_library
check_program
check_settings
if [[ -n $why_not && ${SMC_DISABLE-} != 1 ]]; then
    warn "$why_not: SMC does not apply to it, its connections stay on TCP"
fi
if [[ $can_preload == yes ]]; then
    # ld.so takes colons and spaces as separators.
    case :${LD_PRELOAD// /:}: in
    *":$library:"*) ;;
    *) export LD_PRELOAD=$library${LD_PRELOAD:+:$LD_PRELOAD} ;;
    esac
fi
exec -- "$@"
