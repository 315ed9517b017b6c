"""smcd_share.py COMM [FILE...]: how the TCP connections of programs named COMM are carried.

Reads `smcss --json` on standard input, or the lines that SMC_REPORT has appended to FILEs, and prints
"CONNECTIONS SMCD RING_BYTES TCP_BYTES": all connections, those on shared memory, and the bytes of either way.
"""

import json
import sys


def main():
    comm, files = sys.argv[1], sys.argv[2:]
    sockets = []
    for path in files:
        with open(path, encoding="utf-8") as lines:
            sockets += [json.loads(line) for line in lines]
    if not files:
        sockets = json.load(sys.stdin)["sockets"]
    # A listening socket has no peer to share memory with.
    own = [s for s in sockets if s["comm"] == comm and s["state"] != "LISTEN"]
    on_ring = sum(s["mode"] == "SMCD" for s in own)
    ring = sum(s["ring_rx_bytes"] + s["ring_tx_bytes"] for s in own)
    tcp = sum(s["tcp_rx_bytes"] + s["tcp_tx_bytes"] for s in own)
    print(len(own), on_ring, ring, tcp)


if __name__ == "__main__":
    main()
