"""sshd: sessions, scp and rsync over it, forwarded connections, exit status; on a port of its own with its own keys."""

import hashlib
import os
import subprocess

import case

COMMANDS = ["sshd", "ssh", "scp", "sftp", "rsync", "ssh-keygen", "curl"]
SUMMARY = ("scp of 20 MB both ways, rsync of a tree both ways and again, sftp, commands with input, output and exit status, "
           "a session on a terminal, a forwarded port with HTTP through it, ten sessions over one connection.")
REMARKS = ("sshd executes itself anew with each connection that it accepts, so the sessions stay on TCP; the connections that are "
           "forwarded move.")


def version():
    return case.first_line("ssh", "-V").split(",")[0].split("_")[1]


def run(t):
    port = t.port()
    sshd = "/usr/sbin/sshd"
    os.makedirs("/run/sshd", exist_ok=True) if os.geteuid() == 0 else None
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{t.work}/{name}"], check=True)
    configuration = t.file("sshd_config", f"""
ListenAddress 127.0.0.1
Port {port}
HostKey {t.work}/host
AuthorizedKeysFile {t.work}/user.pub
PidFile {t.work}/sshd.pid
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
Subsystem sftp internal-sftp
LogLevel ERROR
# Not the user's own start-up files.
SetEnv HOME={t.work}
""")
    options = ["-F", "/dev/null", "-i", f"{t.work}/user", "-o", "StrictHostKeyChecking=no", "-o",
               f"UserKnownHostsFile={t.work}/known", "-o", "LogLevel=ERROR"]
    server = t.server([sshd, "-D", "-e", "-f", configuration], port=port)
    address = "127.0.0.1"
    ssh = ["ssh", *options, "-p", str(port), address]

    t.equal("a command", t.client([*ssh, "echo out; cat; exit 7"], data=b"in\n" * 1000, status=7))
    large = t.random_file("large", 20_000_000)
    t.equal("through cat", t.client([*ssh, "cat"], data=t.read(large)))
    t.equal("much output", t.client([*ssh, "seq 1 500000"]))
    t.equal("a terminal", t.client([*ssh, "-tt", "tty >/dev/null && echo on a terminal"]))
    t.client(["scp", *options, "-P", str(port), large, f"{address}:{t.work}/up"])
    t.equal("scp up", t.read(f"{t.work}/up"))
    t.client(["scp", "-O", *options, "-P", str(port), f"{address}:{large}", f"{t.work}/down"])
    t.equal("scp down, the old protocol", t.read(f"{t.work}/down"))
    t.client(["sftp", "-b", "-", *options, "-P", str(port), address], data=f"get {large} {t.work}/got\n".encode())
    t.equal("sftp", t.read(f"{t.work}/got"))

    for i in range(200):
        t.file(f"tree/{i % 7}/file{i}", hashlib.sha256(b"%d" % i).digest() * (i * 10))
    remote = ["-a", "-e", " ".join(ssh[:-1])]
    t.client(["rsync", *remote, f"{t.work}/tree/", f"{address}:{t.work}/tree.up/"])
    t.file("tree/3/file10", b"changed")
    os.unlink(f"{t.work}/tree/4/file11")
    t.client(["rsync", *remote, "--delete", "-z", f"{t.work}/tree/", f"{address}:{t.work}/tree.up/"])
    t.client(["rsync", *remote, "--checksum", f"{address}:{t.work}/tree.up/", f"{t.work}/tree.down/"])
    t.client(["diff", "-r", f"{t.work}/tree", f"{t.work}/tree.down"], side="none")

    forward(t, ssh)
    control = [*ssh[:-1], "-o", f"ControlPath={t.work}/control", address]
    master = t.server([*control[:-1], "-M", "-N", address], side="client", name="master",
                      ready=lambda: os.path.exists(f"{t.work}/control"))
    several = [t.background([*control, f"seq {i} 20000 | md5sum"], name=f"session{i}") for i in range(10)]
    t.equal("ten sessions", "".join(t.finish(process) for process in several))
    t.stop(master, status=None)
    # SIGHUP: it executes itself anew.
    server.send_signal(1)
    t.until("it answers again", lambda: t.client([*ssh, "echo again"], status=None) == b"again\n")
    t.stop(server, status=None)
    # At both sides, with the web server and with curl.
    t.on_ring("ssh", 100_000, always=True)
    t.on_ring("sshd", 100_000, always=True)


def forward(t, ssh):
    """A web server on the far side, through a port on this side."""
    port, local = t.port(), t.port()
    t.random_file("www/file", 5_000_000)
    web = t.server([case.PYTHON, "-m", "http.server", "-b", "127.0.0.1", str(port), "-d", f"{t.work}/www"], port=port, name="web")
    tunnel = t.server([*ssh[:-1], "-N", "-L", f"127.0.0.1:{local}:127.0.0.1:{port}", ssh[-1]], side="client", port=local,
                      name="tunnel")
    for i in range(3):
        t.equal(f"forwarded {i}", t.client(["curl", "-sS", f"http://127.0.0.1:{local}/file"]))
    t.stop(tunnel, status=None)
    t.stop(web, status=-15)
