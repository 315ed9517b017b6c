"""netcat in its three kinds: a file over a connection in either direction, a program as server, a port scan."""

import os
import subprocess

COMMANDS = ["nc.openbsd", "nc.traditional", "ncat"]
SUMMARY = ("OpenBSD's, the traditional one and Nmap's: 20 MB to the server and from it, a program as server (-e), a port scan.")


def version():
    lines = subprocess.run(["dpkg-query", "-W", "-f", "${Package} ${Version}, ", "netcat-openbsd", "netcat-traditional", "ncat"],
                           capture_output=True, check=False).stdout.decode()
    return lines.rstrip(", ")


def listen(kind, port, sends):
    """The server's command. One that does not send leaves its input alone: at its end it would half-close."""
    address = ["127.0.0.1", str(port)]
    return {"nc.openbsd": ["nc.openbsd", "-l", "-N" if sends else "-d", *address],
            "nc.traditional": ["nc.traditional", "-l", "-s", "127.0.0.1", "-p", str(port)],
            "ncat": ["ncat", "-l", "--send-only" if sends else "--recv-only", *address]}[kind]


def connect(kind, port, sends):
    address = ["127.0.0.1", str(port)]
    return {"nc.openbsd": ["nc.openbsd", "-N" if sends else "-d", *address],
            "nc.traditional": ["nc.traditional", "-q", "0", *address],
            "ncat": ["ncat", "--send-only" if sends else "--recv-only", *address]}[kind]


def run(t):
    content, other = t.random_file("content", 20_000_000), t.random_file("other", 20_000_000)
    fifo = f"{t.work}/fifo"
    os.mkfifo(fifo)
    for kind in COMMANDS:
        for what, up, down in (("up", content, "/dev/null"), ("down", "/dev/null", other)):
            if kind == "nc.traditional" and what == "down":
                # With -q 0 it leaves when its own input has ended.
                continue
            port = t.port()
            # A shell gives it the file; its output is kept in a file. The traditional one would end the connection at the
            # end of its input, so it gets one that has no end.
            source = f">{fifo}" if kind == "nc.traditional" else down
            command = " ".join(listen(kind, port, what == "down"))
            server = t.server(["sh", "-c", f"exec {command} <{source} >{t.work}/received"], port=port, name=kind)
            with open(up, "rb") as stdin:
                received = t.client(connect(kind, port, what == "up"), stdin=stdin)
            t.finish(server)
            t.equal(f"{kind} {what}: at the client", received)
            t.equal(f"{kind} {what}: at the server", t.read(f"{t.work}/received"))
    port = t.port()
    server = t.server(["ncat", "-l", "-k", "-e", "/bin/cat", "127.0.0.1", str(port)], port=port, name="ncat -e")
    # Not more than fits into the pipes: ncat writes to the program until that reads.
    for command in (["nc.openbsd", "-N"], ["ncat"]):
        t.equal(f"{command[0]}: echoed by a program",
                t.client([*command, "127.0.0.1", str(port)], data=t.read(content)[:30_000]))
    t.stop(server, status=None)
    port = t.port()
    server = t.server(["nc.openbsd", "-l", "-k", "127.0.0.1", str(port)], port=port)
    t.client(["nc.openbsd", "-z", "127.0.0.1", str(port)])
    t.client(["nc.openbsd", "-z", "127.0.0.1", str(t.port())], status=1)
    t.stop(server, status=-15)
    t.on_ring("nc.openbsd", 100_000)
    t.on_ring("ncat", 100_000)
