#!/bin/bash
# Puts a kernel and the program that boots it into the cache, once, and prints the folder.
# The kernel: Debian's 6.12 from bookworm-backports, which has smc, smc_diag and rdma_rxe as modules. It is unpacked,
# not installed. virtme-ng comes from PyPI. Safe to be run by several at once.
# With siw also the module siw (software iWARP), which Debian's kernel has not: built of Debian's source of that kernel (150 MB, not kept).
# Usage: ci/lab/fetch.sh [siw]      SMC_LAB_CACHE: where, by default ~/.cache/smc-lab
set -euo pipefail

CACHE=${SMC_LAB_CACHE:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/smc-lab}
SUITE=bookworm-backports
SERIES=6.12
VIRTME=1.42

die() {
    echo "lab: $*" >&2
    exit 1
}

[[ $(dpkg --print-architecture 2>/dev/null) == amd64 ]] || die "only Debian on x86-64 can boot the lab"

mkdir -p "$CACHE"
exec 9>"$CACHE/lock"
flock --wait 600 9 || die "somebody else has held $CACHE/lock for ten minutes"

work=
trap '[[ -z $work ]] || rm -rf "$work"' EXIT

# "URI keyring" of the machine's own Debian archive, wherever it is configured.
archive() {
    local file
    for file in /etc/apt/sources.list.d/*.sources; do
        [[ -f $file ]] || continue
        awk -v RS= '
            /(^|\n)Suites:[^\n]*[ \t]bookworm([ \t\n]|$)/ {
                uri = key = ""
                count = split($0, lines, "\n")
                for (i = 1; i <= count; i++) {
                    split(lines[i], words, /[ \t]+/)
                    if (words[1] == "URIs:") uri = words[2]
                    if (words[1] == "Signed-By:") key = words[2]
                }
                if (uri != "") { print uri, key; exit }
            }' "$file"
    done
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | awk '
        $1 == "deb" {
            key = ""
            if (match($0, /signed-by=[^] ]+/)) key = substr($0, RSTART + 10, RLENGTH - 10)
            sub(/\[[^]]*\]/, "")
            if ($3 == "bookworm") { print $2, key; exit }
        }'
}

# open_suite: a folder to work in, and apt as it sees the suite alone.
open_suite() {
    local uri key
    read -r uri key < <(archive) || true
    [[ -n ${uri-} ]] || die "no Debian bookworm archive is configured in /etc/apt: cannot fetch a kernel"
    work=$(mktemp -d "$CACHE/work.XXXXXX")
    mkdir -p "$work"/{lists,cache}/partial "$work"/cache/archives/partial
    # apt as root otherwise changes to a user who may not write there.
    chmod 755 "$work"
    echo "deb [${key:+signed-by=$key}] $uri $SUITE main" >"$work/suite.list"
    apt=(-qq -o "Dir::Etc::sourcelist=$work/suite.list" -o Dir::Etc::sourceparts=/dev/null
        -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root
        -o Acquire::Retries=3 -o Acquire::http::Timeout=60)
    timeout 300 apt-get "${apt[@]}" update || die "cannot read the package lists of $SUITE"
}

close_suite() {
    rm -rf "$work"
    work=
}

fetch_kernel() {
    local packages release
    open_suite
    mkdir "$work/kernel"
    packages=$(apt-cache "${apt[@]}" --names-only search "^linux-image-$SERIES" | awk '{ print $1 }' |
        grep -E -- '-amd64$' | grep -vE -- '-(cloud|rt)-amd64$' | sort -V)
    [[ -n $packages ]] || die "$SUITE has no linux-image-$SERIES"
    (cd "$work" && timeout 600 apt-get "${apt[@]}" download "$(tail -n 1 <<<"$packages")") ||
        die "cannot download the kernel"
    dpkg -x "$work"/linux-image-*.deb "$work/kernel"
    release=$(basename "$work"/kernel/lib/modules/*)
    [[ -f $work/kernel/boot/vmlinuz-$release ]] || die "the package has no kernel for $release"
    PATH=$PATH:/usr/sbin:/sbin depmod -b "$work/kernel" "$release"
    mv "$work/kernel/boot/vmlinuz-$release" "$work/kernel/boot/vmlinuz"
    mv "$work/kernel" "$CACHE/kernel"
    close_suite
}

build_siw() {
    local release package common headers packages
    release=$(basename "$CACHE"/kernel/lib/modules/*)
    common=linux-headers-${release%-amd64}-common
    packages=("linux-headers-$release" "$common" "linux-kbuild-${release%-amd64}" "linux-source-$SERIES")
    open_suite
    for package in "${packages[@]}"; do
        apt-cache "${apt[@]}" show "$package" >/dev/null 2>&1 ||
            die "$SUITE has no $package: remove $CACHE/kernel, for a newer one"
    done
    (cd "$work" && timeout 900 apt-get "${apt[@]}" download "${packages[@]}") || die "cannot download the kernel's source"
    for package in "$work"/*.deb; do
        dpkg -x "$package" "$work/root"
    done
    mkdir "$work/siw"
    tar -C "$work/siw" --strip-components=5 --wildcards -xJf "$work/root/usr/src/linux-source-$SERIES.tar.xz" \
        '*/drivers/infiniband/sw/siw/*'
    headers=$work/root/usr/src/linux-headers-$release
    # They are not where they were made to be.
    echo "include $work/root/usr/src/$common/Makefile" >"$headers/Makefile"
    make -s -C "$headers" "M=$work/siw" CONFIG_RDMA_SIW=m CONFIG_DEBUG_INFO_BTF_MODULES= modules >&2 || die "cannot build siw"
    strip --strip-debug -o "$CACHE/kernel/siw.ko.new" "$work/siw/siw.ko"
    mv "$CACHE/kernel/siw.ko.new" "$CACHE/kernel/siw.ko"
    close_suite
}

fetch_virtme() {
    local python
    # The one of the distribution has pip where ci/deps.sh has installed it.
    for python in python3 /usr/bin/python3; do
        "$python" -m pip --version >/dev/null 2>&1 && break
    done
    work=$(mktemp -d "$CACHE/virtme.XXXXXX")
    timeout 300 "$python" -m pip install --quiet --no-cache-dir --disable-pip-version-check --root-user-action=ignore \
        --target "$work/virtme" "virtme-ng==$VIRTME" >&2 || die "cannot install virtme-ng $VIRTME from PyPI"
    mv "$work/virtme" "$CACHE/virtme-$VIRTME"
    rm -rf "$work"
    work=
}

# Each appears under its name only when it is whole.
[[ -d $CACHE/kernel ]] || fetch_kernel
[[ -d $CACHE/virtme-$VIRTME ]] || fetch_virtme
[[ ${1-} != siw || -f $CACHE/kernel/siw.ko ]] || build_siw
ln -sfn "virtme-$VIRTME" "$CACHE/virtme"
echo "$CACHE"
