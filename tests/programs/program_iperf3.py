"""iperf3: both directions, at the same time, parallel streams, a limited rate."""

import json

import case

COMMANDS = ["iperf3"]
SUMMARY = "100 MB in each direction, in both at once, in four parallel streams, at a limited rate, with small writes, over IPv6."


def version():
    return case.first_line("iperf3", "--version").split()[1]


def run(t):
    port = t.port()
    server = t.server(["iperf3", "-s", "-p", str(port)], port=port)
    for what, host, words in [
        ("up", "127.0.0.1", ["-n", "100M"]),
        ("down", "127.0.0.1", ["-n", "100M", "-R"]),
        ("both ways", "127.0.0.1", ["-n", "50M", "--bidir"]),
        ("four streams", "127.0.0.1", ["-n", "100M", "-P", "4"]),
        ("four streams down", "::1", ["-n", "100M", "-P", "4", "-R"]),
        ("small writes", "127.0.0.1", ["-n", "4M", "-l", "1000"]),
        ("limited", "::1", ["-n", "2M", "-b", "40M"]),
    ]:
        def test(host=host, words=words):
            answer = json.loads(t.client(["iperf3", "-c", host, "-p", str(port), "-J", *words], status=None))
            # The server may not be done with the test before.
            return None if "busy" in answer.get("error", "") else answer

        result = t.until(f"the server takes the test {what}", test)
        if "error" in result:
            raise case.Failed(f"{what}: {result['error']}")
        sent, received = result["end"]["sum_sent"]["bytes"], result["end"]["sum_received"]["bytes"]
        # What is under way when the client has sent enough is not counted, and may be much.
        t.check(f"{what}: {received} of {sent} bytes received", 0 < received <= sent)
    t.stop(server, status=None)
    t.on_ring("iperf3", 20_000_000, always=True)
