"""memcached: values of all sizes with both protocols, many clients at once, four worker threads."""

import case

COMMANDS = ["memcached"]
SUMMARY = "four worker threads; 16 clients at once, values up to 1 MB, pipelined gets, counters, UDP off, both protocols."


def version():
    return case.first_line("memcached", "-V").split()[1]


def run(t):
    port = t.port()
    user = ["-u", "nobody"]
    server = t.server(["memcached", *user, "-l", "127.0.0.1,::1", "-p", str(port), "-U", "0", "-t", "4", "-m", "128"], port=port)
    t.equal("clients", t.client([case.PYTHON, t.script("memcached_client.py"), "127.0.0.1", str(port), "16", "60"]))
    t.equal("clients over IPv6", t.client([case.PYTHON, t.script("memcached_client.py"), "::1", str(port), "4", "30"]))
    t.stop(server)
    t.on_ring("memcached", 1_000_000, always=True)
    t.on_ring("python3", 1_000_000, always=True)
