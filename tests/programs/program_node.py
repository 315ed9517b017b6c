"""Node.js: http, net, cluster in both ways of scheduling, child_process that gets sockets."""

import case

COMMANDS = ["node"]
SUMMARY = ("http with kept and short connections, net with 14 MB and half-close, cluster with shared listeners and with "
           "connections passed to workers, connections passed to a child after data, and as standard input and output of one.")
REMARKS = "Connections passed to another process stay on TCP, or go back to it."


def version():
    return case.first_line("node", "--version").lstrip("v")


def run(t):
    script = t.script("node_program.js")

    def pair(name, server, clients, *more, status=0):
        port = t.port()
        process = t.server(["node", script, server, str(port), *more], port=port, name=name)
        for client in clients:
            t.equal(f"{name}: {client}", t.client(["node", script, client, str(port)]))
        t.stop(process, status=status)

    pair("http", "http-server", ["http-client", "short-client"], status=-15)
    pair("net", "echo-server", ["echo-client", "line-client"], status=-15)
    pair("cluster, shared", "cluster-server", ["http-client", "short-client"], "none")
    pair("cluster, passed", "cluster-server", ["http-client", "short-client"], "passed")
    pair("child gets connections", "passing-server", ["line-client"])
    pair("program gets connections", "spawning-server", ["line-client"], status=-15)
    # What ends by a signal reports nothing itself.
    t.on_ring("node", 2_000_000, always=True)
