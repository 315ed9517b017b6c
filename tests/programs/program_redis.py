"""Redis: counts and values under load, a child that saves the data set meanwhile, io-threads, a replica, pub/sub."""

import base64
import os
import re

import case

COMMANDS = ["redis-server", "redis-benchmark", "redis-cli", "redis-check-rdb"]
SUMMARY = ("increments counted under load and pipelined, values of up to 20 MB, the usual benchmark, BGSAVE by a forked child "
           "under load, io-threads, a replica that synchronises and follows.")
# Without it Redis 7 computes no digests.
DEBUG = ["--enable-debug-command", "local"]


def version():
    return re.search(r"v=(\S+)", case.first_line("redis-server", "--version"))[1]


def start(t, *more):
    port = t.port()
    directory = f"{t.work}/redis.{port}"
    os.mkdir(directory)
    server = t.server(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "::1", "--dir", directory, "--save", "",
                       *DEBUG, *more], port=port)
    return server, port, directory


def cli(t, port, *words, data=None):
    return t.client(["redis-cli", "-p", str(port), *words], data=data)


def benchmark(port, *words):
    return ["redis-benchmark", "-p", str(port), "-q", *words]


def increments(t, port, *words):
    t.client(benchmark(port, "-c", "20", *words, "incr", "counter"))
    t.equal(f"counter after {' '.join(words)}", cli(t, port, "get", "counter").strip())


def run(t):
    server, port, directory = start(t)
    increments(t, port, "-n", "20000")
    increments(t, port, "-n", "100000", "-P", "16")
    for size in (1, 1000, 70_000, 3_000_000, 20_000_000):
        value = base64.b64encode(t.read(t.random_file("value", size)))
        cli(t, port, "-x", "set", "value", data=value)
        t.check(f"the value of {size} bytes comes back", cli(t, port, "get", "value").rstrip(b"\n") == value)
    t.client(benchmark(port, "-c", "50", "-n", "5000", "-d", "256", "-t", "set,get,lpush,lrange_100,mset"))
    save_under_load(t, port, directory)
    increments(t, port, "-n", "10000", "-h", "::1")
    replicate(t, port)
    cli(t, port, "shutdown", "nosave")
    t.ended(server)

    server, port, _ = start(t, "--io-threads", "2", "--io-threads-do-reads", "yes")
    increments(t, port, "-n", "3000")
    increments(t, port, "-n", "20000", "-P", "16")
    t.stop(server)
    t.on_ring("redis-server", 1_000_000, always=True)
    t.on_ring("redis-benchmark", 1_000_000, always=True)
    t.on_ring("redis-cli", 100_000, always=True)


def save_under_load(t, port, directory):
    """The child inherits all connections, and the parent goes on serving them."""
    saved = 0
    # On a fast machine the load may be over before the first save has begun.
    while not saved:
        load = t.background(benchmark(port, "-c", "20", "-n", "60000", "-d", "500", "-r", "10000", "-t", "set"), name="load")
        while load.poll() is None:
            begun = b"started" in cli(t, port, "bgsave")
            saved += begun and load.poll() is None
            t.until("the data set is saved", lambda: b"rdb_bgsave_in_progress:0" in cli(t, port, "info", "persistence"))
        t.finish(load)
    t.check("the last save went well", b"rdb_last_bgsave_status:ok" in cli(t, port, "info", "persistence"))
    t.client(["redis-check-rdb", f"{directory}/dump.rdb"])


def replicate(t, port):
    # The replica is a client of the first server, and runs on the clients' side.
    replica_port = t.port()
    directory = f"{t.work}/replica"
    os.mkdir(directory)
    replica = t.server(["redis-server", "--port", str(replica_port), "--bind", "127.0.0.1", "--dir", directory, "--save", "",
                        "--replicaof", f"127.0.0.1 {port}", *DEBUG], side="client", port=replica_port)
    t.until("the replica is linked", lambda: b"master_link_status:up" in cli(t, replica_port, "info", "replication"))
    t.client(benchmark(port, "-c", "10", "-n", "20000", "-d", "300", "-r", "3000", "-t", "set,lpush"))
    t.check("the replica has all", cli(t, port, "wait", "1", "50000").strip() == b"1")

    def digests():
        found = [t.client(["redis-cli", "-p", str(number), "debug", "digest"], side="none") for number in (port, replica_port)]
        t.check(f"these are no digests: {found}", all(re.fullmatch(rb"[0-9a-f]{40}\s*", digest) for digest in found))
        return set(found)

    t.until("both have the same data", lambda: len(digests()) == 1)
    t.stop(replica)
