"""Java: a selector, blocking channels and classic sockets, in two JVMs and in one."""

import subprocess

import case

COMMANDS = ["java", "javac"]
SUMMARY = ("a selector and a thread for each connection as servers; classic sockets, channels with transferTo and transferFrom, small "
           "messages, timeouts, close and interrupt of a blocked read; in two JVMs, and with both ends in one.")


def version():
    return case.first_line("java", "-version").split('"')[1]


def run(t):
    subprocess.run(["javac", "-d", t.work, t.script("JavaProgram.java")], check=True, timeout=case.LIMIT)
    # The serial collector and little compilation: the machine has other things to do.
    java = ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-cp", t.work, "JavaProgram"]
    file = t.random_file("file", 20_000_000)
    for server in ("nio-server", "classic-server"):
        port = t.port()
        process = t.server([*java, server, str(port)], port=port, name=server)
        t.equal(f"clients of {server}", t.client([*java, "clients", str(port), file]))
        # The status of a JVM that is ended by SIGTERM.
        t.stop(process, status=143)
    t.equal("both ends in one", t.client([*java, "both-ends", "0", file]))
    # A JVM ended by SIGTERM leaves by exit, and reports.
    t.on_ring("java", 100_000_000, always=True)
