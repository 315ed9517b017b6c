#!/bin/bash
# Two ordinary programs, each started with smc_run: a web server of Python's library and curl. Run it from anywhere;
# SMC_RUN names smc_run where it is neither installed nor in this checkout.
set -euo pipefail

smc_run=${SMC_RUN:-$(command -v smc_run || echo "$(dirname "$0")/../../smc_run.sh")}
work=$(mktemp -d)
server=
trap '[[ -z $server ]] || kill "$server"; rm -rf "$work"' EXIT

head -c 50000000 /dev/zero >"$work/file"
# Port 0: the kernel chooses a free one, and the server says which.
"$smc_run" python3 -u -m http.server 0 --bind 127.0.0.1 --directory "$work" >"$work/log" 2>&1 &
server=$!
until port=$(sed -n 's/.* port \([0-9]*\) .*/\1/p' "$work/log") && [[ -n $port ]]; do
    kill -0 "$server" || { cat "$work/log" >&2; exit 1; }
    sleep 0.1
done

# One line of JSON for each connection: where its bytes went, and why.
"$smc_run" --report="$work/report" curl -sS -o "$work/copy" "http://127.0.0.1:$port/file"
cmp "$work/file" "$work/copy"
if [[ -s $work/report ]]; then
    cat "$work/report"
else
    echo "no report: the library was not active in curl" >&2
    exit 1
fi
