#!/bin/bash
# Installs a finished build: smc_run, smcss, smcctl, smcr, libsmc_preload.so, libsmc_rdma.so (if that was built) and the documents, under
# PREFIX (/usr/local). Builds nothing.
# Usage: [PREFIX=DIR] [LIBDIR=DIR] [DESTDIR=DIR] ci/install.sh [uninstall]
# DESTDIR stands in front of every path, for making packages. smc_run finds the library in PREFIX/lib, lib64, lib/smc
# and lib/MACHINE-linux-gnu.
set -euo pipefail
cd "$(dirname "$0")/.."

prefix=${PREFIX:-/usr/local}
libdir=${LIBDIR:-$prefix/lib}
doc=$prefix/share/doc/smc
destdir=${DESTDIR-}
release=${CARGO_TARGET_DIR:-target}/release

for path in "$prefix" "$libdir"; do
    if [[ $path != /* ]]; then
        echo "install: $path is not an absolute path" >&2
        exit 2
    fi
done

case ${1-} in
'') ;;
uninstall)
    rm -f "$destdir$prefix/bin/"{smc_run,smcss,smcctl,smcr} "$destdir$libdir/"libsmc_{preload,rdma}.so
    rm -rf "$destdir$doc"
    exit
    ;;
*)
    echo "usage: [PREFIX=DIR] [LIBDIR=DIR] [DESTDIR=DIR] ci/install.sh [uninstall]" >&2
    exit 2
    ;;
esac

for file in "$release"/{libsmc_preload.so,smcss,smcctl,smcr}; do
    if [[ ! -f $file ]]; then
        echo "install: $file is not there: build it with 'cargo build --release'" >&2
        exit 1
    fi
done

# In a library built without link-time optimisation, a thread cancelled in a blocking call ends the program.
if command -v readelf >/dev/null && command -v objdump >/dev/null; then
    checked=$(bash ci/exports.sh "$release/libsmc_preload.so" 2>&1) || true
    if [[ $checked == *" has an exception table "* ]]; then
        echo "install: $release/libsmc_preload.so is built without lto: build it with the profile release as it is in Cargo.toml" >&2
        exit 1
    fi
fi

install -d "$destdir$prefix/bin" "$destdir$libdir" "$destdir$doc"
install -m 755 smc_run.sh "$destdir$prefix/bin/smc_run"
install -m 755 "$release/smcss" "$release/smcctl" "$release/smcr" "$destdir$prefix/bin"
# A rename: programs that have the old library mapped keep it whole.
for library in libsmc_preload.so libsmc_rdma.so; do
    # The second is for hosts with RDMA, and is not built by default.
    [[ -f $release/$library ]] || continue
    install -m 644 "$release/$library" "$destdir$libdir/$library.new"
    mv "$destdir$libdir/$library.new" "$destdir$libdir/$library"
done
install -m 644 README.md docs/configuration.md examples/config/smc.conf LICENSE-MIT LICENSE-APACHE "$destdir$doc"
echo "install: smc_run, smcss, smcctl and smcr in $destdir$prefix/bin, libsmc_preload.so in $destdir$libdir"
