"""socat: relays, children for each connection, programs on the connection itself, half-close, many at once."""

import case

COMMANDS = ["socat", "openssl"]
SUMMARY = ("a relay of two processes in a row, a child for each connection, EXEC and SYSTEM with pipes and with the connection as "
           "standard input, TLS, ten clients at once, IPv6.")
REMARKS = ("A program on the connection itself (nofork) has it as descriptors 0 and 1: TCP. socat's own PIPE as an echo server is not "
           "used: with a peer that reads slowly it fills its pipe and waits for itself, natively too, and sooner where buffers are "
           "smaller, as rings are.")


def version():
    for line in case.first_lines("socat", "-V"):
        if "version" in line:
            return line.split()[2]
    return "?"


def run(t):
    content = t.read(t.random_file("content", 5_000_000))
    key, certificate = t.certificate()
    t.file("both.pem", t.read(key) + t.read(certificate))

    def client(port, data, address="TCP4:127.0.0.1"):
        return t.client(["socat", "-t", "50", "-", f"{address}:{port}"], data=data)

    def listen(target, kind="TCP4-LISTEN", bind="127.0.0.1", more="fork"):
        port = t.port()
        t.server(["socat", f"{kind}:{port},bind={bind},reuseaddr,{more}", target], port=port)
        return port

    # EXEC:cat, not PIPE: socat would fill its own pipe and wait for itself when the network is slow.
    echo = listen("EXEC:cat")
    t.equal("echo", client(echo, content))
    relay = listen(f"TCP4:127.0.0.1:{echo}")
    t.equal("relayed twice", client(listen(f"TCP4:127.0.0.1:{relay}"), content))
    t.equal("a program with pipes", client(listen("EXEC:cat,pipes"), content[:30_000]))
    t.equal("a program on the connection", client(listen("EXEC:cat,nofork"), content))
    t.equal("a shell on the connection", client(listen("SYSTEM:'head -n 1; md5sum',nofork"), b"one line\n" + content))
    t.equal("ipv6", client(listen("EXEC:cat", "TCP6-LISTEN", "[::1]"), content, "TCP6:[::1]"))
    tls = listen("EXEC:cat", "OPENSSL-LISTEN", more=f"fork,cert={t.work}/both.pem,verify=0")
    t.equal("tls", t.client(["socat", "-t", "50", "-", f"OPENSSL:127.0.0.1:{tls},cafile={certificate}"], data=content[:999_000]))
    path = t.file("data", content)
    several = [t.background(["socat", "-u", f"TCP4:127.0.0.1:{listen(f'FILE:{path}', more='fork')}", f"CREATE:{t.work}/got{i}"],
                            name=f"client{i}") for i in range(10)]
    for process in several:
        t.finish(process)
    t.check("all ten have the same", all(t.read(f"{t.work}/got{i}") == content for i in range(10)))
    # Servers end by a signal and report nothing.
    t.on_ring("socat", 100_000, always=True)
