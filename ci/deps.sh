#!/bin/bash
# Installs what ci/demo.sh, ci/test.sh, ci/bench.sh and ci/programs.sh need on Debian 12, only what is missing. Root, or a
# user with sudo. Services that the packages bring are not started.
# Usage: ci/deps.sh [demo|test|bench|programs]     (test, the default, and bench include demo; programs includes test)
set -euo pipefail
cd "$(dirname "$0")/.."

# What to look for (a command, the path of a file, module:NAME of some Python, system-module:NAME of Debian's) and the
# Debian package that brings it.
DEMO_NEEDS="
gcc                                  gcc
/usr/include/stdio.h                 libc6-dev
redis-server                         redis-server
redis-benchmark                      redis-tools
module:statistics                    python3
"
TEST_NEEDS="
g++                                  g++
shellcheck                           shellcheck
nm                                   binutils
make                                 make
curl                                 curl
getcap                               libcap2-bin
setpriv                              util-linux
ps                                   procps
/usr/bin/python3                     python3
module:test.test_socket              libpython3.11-testsuite
clang                                clang
/usr/include/bpf/bpf_helpers.h       libbpf-dev
qemu-system-x86_64                   qemu-system-x86
depmod                               kmod
busybox                              busybox-static
file                                 file
module:pip                           python3-pip
system-module:tornado.test           python3-tornado
system-module:twisted.test           python3-twisted
rdma                                 iproute2
ibv_devinfo                          ibverbs-utils
/etc/libibverbs.d/rxe.driver         ibverbs-providers
/etc/libibverbs.d/siw.driver         ibverbs-providers
nginx                                nginx-light
openssl                              openssl
ss                                   iproute2
/usr/lib/postgresql/15/bin/initdb    postgresql-15
node                                 nodejs
sshd                                 openssh-server
ssh                                  openssh-client
rsync                                rsync
socat                                socat
pkg-config                           pkg-config
/usr/include/infiniband/verbs.h      libibverbs-dev
/usr/include/rdma/rdma_cma.h         librdmacm-dev
/usr/lib/llvm-14/lib/libclang.so     libclang-14-dev
"
BENCH_NEEDS="
nginx                                nginx-light
wrk                                  wrk
memcached                            memcached
/usr/lib/postgresql/15/bin/initdb    postgresql-15
/usr/lib/postgresql/15/bin/pgbench   postgresql-15
strace                               strace
valgrind                             valgrind
"
PROGRAMS_NEEDS="
haproxy                              haproxy
memcached                            memcached
iperf3                               iperf3
javac                                openjdk-17-jdk-headless
nc.openbsd                           netcat-openbsd
nc.traditional                       netcat-traditional
ncat                                 ncat
system-module:requests               python3-requests
"
# The oldest compiler the workspace accepts (rust-version in Cargo.toml).
RUST_MINOR=$(sed -n 's/^rust-version = "1\.\([0-9]*\).*/\1/p' Cargo.toml)

case ${1-test} in
demo) needs=$DEMO_NEEDS ;;
test) needs=$DEMO_NEEDS$TEST_NEEDS ;;
bench) needs=$DEMO_NEEDS$BENCH_NEEDS ;;
programs) needs=$DEMO_NEEDS$TEST_NEEDS$PROGRAMS_NEEDS ;;
*)
    echo "usage: ci/deps.sh [demo|test|bench|programs]" >&2
    exit 2
    ;;
esac

# A system command, also one in sbin for a user whose PATH lacks it.
present() {
    case $1 in
    /*) [[ -e $1 ]] ;;
    system-module:*) /usr/bin/python3 -c "import ${1#system-module:}" 2>/dev/null ;;
    module:*)
        local python
        for python in python3 /usr/bin/python3; do
            "$python" -c "import importlib.util as u, sys; sys.exit(u.find_spec(sys.argv[1]) is None)" \
                "${1#module:}" 2>/dev/null && return 0
        done
        return 1
        ;;
    *) PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null ;;
    esac
}

# retry COMMAND...: a mirror or a proxy may fail for a moment, and somebody else may hold the locks of apt.
retry() {
    local tries
    for tries in 1 2 3; do
        "$@" && return
        echo "deps: $* failed (time $tries)" >&2
        ((tries == 3)) || sleep $((tries * 10))
    done
    return 1
}

install_packages() {
    local apt=(apt-get -qq -o Acquire::Retries=5 -o DPkg::Lock::Timeout=300)
    "${run[@]}" "${apt[@]}" update </dev/null &&
        "${run[@]}" "${apt[@]}" install -y --no-install-recommends "${packages[@]}" </dev/null
}

packages=()
while read -r what package; do
    [[ -z $what ]] || present "$what" || packages+=("$package")
done <<<"$needs"

if ((${#packages[@]} > 0)); then
    echo "deps: installing ${packages[*]}"
    if ! command -v apt-get >/dev/null; then
        echo "deps: no apt-get here: install the equivalents of ${packages[*]} by hand" >&2
        exit 1
    fi
    run=(env DEBIAN_FRONTEND=noninteractive)
    if ((EUID != 0)); then
        if ! command -v sudo >/dev/null; then
            echo "deps: needs root, or sudo, to install ${packages[*]}" >&2
            exit 1
        fi
        run=(sudo "${run[@]}")
    fi
    # Without this, packages start the services they bring.
    policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        trap '"${run[@]}" rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' | "${run[@]}" install -m 755 /dev/stdin "$policy"
    fi
    retry install_packages
    for package in "${packages[@]}"; do
        while read -r what needed_by; do
            if [[ $needed_by == "$package" ]] && ! present "$what"; then
                echo "deps: $package was installed but $what is still missing" >&2
                exit 1
            fi
        done <<<"$needs"
    done
fi

if ! command -v cargo >/dev/null; then
    echo "deps: cargo is not in PATH: install a Rust toolchain, 1.$RUST_MINOR or newer" >&2
    exit 1
fi
cargo_version=$(cargo --version)
if [[ ! $cargo_version =~ ^cargo\ 1\.([0-9]+) ]] || ((BASH_REMATCH[1] < RUST_MINOR)); then
    echo "deps: '$cargo_version' is too old: 1.$RUST_MINOR or newer is needed (Debian 12's own is 1.63)" >&2
    exit 1
fi

# What the builds download, here where it can be tried again.
platform=$(rustc -vV | sed -n 's/^host: //p')
retry cargo fetch --quiet --locked --target "$platform" </dev/null
[[ ${1-test} == test ]] || exit 0
retry cargo fetch --quiet --locked --manifest-path wire/fuzz/Cargo.toml --target "$platform" </dev/null
# shellcheck source=ci/cargo-fuzz.sh
source ci/cargo-fuzz.sh
if ! PATH=$CARGO_FUZZ_ROOT/bin:$PATH command -v cargo-fuzz >/dev/null; then
    # A few minutes, once.
    echo "deps: installing cargo-fuzz $CARGO_FUZZ_VERSION in $CARGO_FUZZ_ROOT"
    retry cargo install --quiet --locked --root "$CARGO_FUZZ_ROOT" --version "$CARGO_FUZZ_VERSION" cargo-fuzz </dev/null
fi
# ci/lab.sh would fetch it too, once.
retry bash ci/lab/fetch.sh >/dev/null || echo "deps: no kernel for the lab" >&2
