"""One run of one program: starts servers and clients as the mode says, waits for conditions, notes results.

A program's file (redis.py, ...) has

    version()       a line that names the version
    run(t)          does everything, with `t` a `Case`; raises or calls `t.check` with what is false
    PACKAGES        the Debian packages it needs
    SUMMARY         what is exercised, for the compatibility page

Modes: `native` (nothing under the library), `both`, `server`, `client` (that side only).
"""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time

import processes

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
HERE = os.path.dirname(os.path.realpath(__file__))
PYTHON = "/usr/bin/python3"
# Seconds for a step that takes far less on an idle machine.
LIMIT = 120


class Failed(Exception):
    """Something is not as it should be."""


class Hung(Failed):
    """A step did not come to its end in time."""


class Case:
    def __init__(self, mode, upgrade, work, smcss):
        self.mode, self.upgrade, self.work, self.smcss = mode, upgrade, work, smcss
        self.results, self.failures, self.notes = {}, [], []
        self.expected_on_ring = []
        self.started = []
        self.ports = set()
        self.run_dir, self.report = f"{work}/run", f"{work}/report"
        # The programs' own users (nobody, postgres) write there too.
        os.chmod(work, 0o755)
        os.mkdir(self.run_dir)
        os.chmod(self.run_dir, 0o1777)
        with open(self.report, "w", encoding="utf-8"):
            os.chmod(self.report, 0o666)

    # What runs where

    def shimmed(self, side):
        """Whether this side runs under the library."""
        return self.mode == "both" or self.mode == side

    @property
    def at_once(self):
        return self.upgrade == "0"

    def environment(self, side, extra=None):
        env = {name: value for name, value in os.environ.items()
               # A proxy is for what is not on this host.
               if not name.startswith("SMC_") and not name.lower().endswith("_proxy")}
        env.pop("LD_PRELOAD", None)
        if self.shimmed(side):
            # No settings of the host.
            env.update(SMC_PRELOAD=os.environ["SMC_PRELOAD"], SMC_REPORT=self.report, SMC_RUN_DIR=self.run_dir, SMC_CONFIG="")
            if self.upgrade is not None:
                env["SMC_UPGRADE_AFTER"] = self.upgrade
            if os.environ.get("SMC_PROGRAMS_LOG"):
                env["SMC_LOG"] = os.environ["SMC_PROGRAMS_LOG"]
        env["LC_ALL"] = "C.UTF-8"
        env.update(extra or {})
        return env

    def command(self, side, argv):
        return [f"{ROOT}/smc_run.sh", *argv] if self.shimmed(side) else list(argv)

    # Servers

    def server(self, argv, side="server", ready=None, port=None, user=None, env=None, cwd=None, name=None):
        """Starts a program that stays; ready when `ready()` is true, or something listens on `port`."""
        name = name or os.path.basename(argv[0])
        log = f"{self.work}/{name}.{len(self.started)}.log"
        argv = self.command(side, argv)
        if user:
            argv = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", *argv]
        with open(log, "wb") as output:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                       env=self.environment(side, env), cwd=cwd or self.work)
        process.name, process.log, process.serves = name, log, False
        self.started.append(process)

        def is_ready():
            if process.poll() is not None:
                raise Failed(f"{name} has ended with status {process.returncode}:\n{processes.text(log)[-2000:]}")
            return ready() if ready else self.listens(port)

        if ready or port:
            self.until(f"{name} is ready", is_ready)
            process.serves = True
        return process

    def stop(self, process, number=signal.SIGTERM, status=0, limit=LIMIT):
        """Ends a server by a signal. Its exit status must be `status`; with None, the one it has natively."""
        process.send_signal(number)
        self.ended(process, status, limit)
        if status is None:
            self.equal(f"exit status of {process.name}", process.returncode)

    def ended(self, process, status=0, limit=LIMIT):
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            raise Hung(f"{process.name} does not end") from None
        if process in self.started:
            self.started.remove(process)
        if status is not None and process.returncode != status:
            raise Failed(f"{process.name} ended with status {process.returncode} instead of {status}:\n"
                         + processes.text(process.log)[-2000:])

    # Clients

    def client(self, argv, side="client", limit=LIMIT, data=None, status=0, env=None, user=None, cwd=None, stdin=None):
        """Runs a program to its end and returns what it wrote to its output."""
        argv = self.command(side, argv)
        if user:
            argv = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", *argv]
        with open(f"{self.work}/stderr", "w+b") as errors:
            process = subprocess.Popen(argv, stdin=stdin or (subprocess.PIPE if data is not None else subprocess.DEVNULL),
                                       stdout=subprocess.PIPE, stderr=errors, env=self.environment(side, env),
                                       cwd=cwd or self.work)
            try:
                output, _ = process.communicate(data, timeout=limit)
            except subprocess.TimeoutExpired:
                raise Hung(f"{' '.join(argv)[:200]} does not end") from None
            errors.seek(0)
            self.errors = errors.read()
        if status is not None and process.returncode != status:
            raise Failed(f"{' '.join(argv)[:200]} ended with status {process.returncode} instead of {status}:\n"
                         + self.errors.decode(errors="replace")[-2000:] + output.decode(errors="replace")[-1000:])
        return output

    def background(self, argv, side="client", env=None, name=None):
        """Starts a client that runs beside other steps; `finish` waits for it."""
        return self.server(argv, side=side, env=env, name=name)

    def finish(self, process, status=0, limit=LIMIT):
        """Waits for a client started by `background`; returns what it has written."""
        self.ended(process, status, limit)
        return processes.text(process.log)

    # Conditions and results

    def until(self, what, condition, limit=LIMIT):
        """Waits for a condition; what it returns is returned."""
        end = time.monotonic() + limit
        while True:
            value = condition()
            if value:
                return value
            for process in self.started:
                if process.serves and process.poll() is not None:
                    raise Failed(f"{process.name} has ended with status {process.returncode}, while waiting for: {what}")
            if time.monotonic() > end:
                raise Hung(f"not within {limit} s: {what}")
            time.sleep(0.02)

    def check(self, what, value):
        """Notes a failure and goes on."""
        if not value:
            self.failures.append(what)

    def equal(self, what, value):
        """Notes a result that must be the same as in the native run. Bytes are noted by size and checksum."""
        if isinstance(value, bytes):
            value = f"{len(value)} bytes, sha256 {hashlib.sha256(value).hexdigest()}"
        self.results[what] = str(value)

    def on_ring(self, comm, at_least=1, always=False):
        """Expects bytes in rings, reported by processes whose name matches `comm`, where both sides run under the
        library; with default settings too if `always` (the connections are busy enough to move)."""
        self.expected_on_ring.append((comm, at_least, always))

    # Small things that many need

    def port(self):
        """A free port below those that the kernel gives to clients, and not the next one after another one asked for."""
        while True:
            number = random.randint(20000, 31999)
            if {number, number - 1} & self.ports:
                continue
            try:
                for family, host in [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]:
                    with socket.socket(family) as probe:
                        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                        probe.bind((host, number))
                self.ports.add(number)
                return number
            except OSError:
                continue

    def listens(self, port):
        """Whether something listens, found out without a connection."""
        wanted = f":{port:04X}"
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            for line in processes.text(table).split("\n")[1:]:
                fields = line.split()
                if len(fields) > 3 and fields[3] == "0A" and fields[1].endswith(wanted):
                    return True
        return False

    def file(self, name, content):
        """Writes a file that everybody can read; returns its path."""
        path = f"{self.work}/{name}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        return path

    def random_file(self, name, size):
        """The same bytes in each run."""
        return self.file(name, random.Random(name).randbytes(size))

    def script(self, name):
        """A file beside this one."""
        return f"{HERE}/{name}"

    def read(self, path):
        with open(path, "rb") as file:
            return file.read()

    def certificate(self):
        """A key and a certificate for localhost, signed by itself."""
        key, certificate = f"{self.work}/key.pem", f"{self.work}/cert.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                        "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1", "-keyout", key, "-out", certificate],
                       check=True, capture_output=True, timeout=LIMIT)
        os.chmod(key, 0o644)
        return key, certificate

    def load(self, url, connections=8, requests=100, sha256=None, endless=False):
        """An HTTP load on connections that are kept; ends after `requests` on each, or `end_load`."""
        argv = [PYTHON, self.script("http_load.py"), url, str(connections), str(requests), sha256 or "-"]
        stop = None
        if endless:
            stop = self.file(f"load.{len(self.started)}", "")
            argv.append(stop)
        process = self.background(argv, name="load")
        process.stop_file = stop
        return process

    def end_load(self, process):
        """Ends an endless load and returns how many requests were answered rightly and wrongly."""
        if process.stop_file:
            os.unlink(process.stop_file)
        return self.load_result(process)

    def load_result(self, process):
        found = re.search(r"(\d+) right, (\d+) wrong", self.finish(process))
        if not found:
            raise Failed("the load has no result")
        if int(found[2]):
            self.failures.append("the load had wrong answers: " + processes.text(process.log)[:500])
        return int(found[1]), int(found[2])

    def progress(self, process):
        """How many requests the load has made so far."""
        lines = processes.text(process.log).split("\n")
        counts = [int(line) for line in lines if line.isdigit()]
        return counts[-1] if counts else 0

    # The end

    def clean_up(self):
        """All that was started must be gone, by itself or by SIGTERM, and nothing may be left of it."""
        for process in reversed(self.started[:]):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(LIMIT)
                except subprocess.TimeoutExpired:
                    self.failures.append(f"{process.name} does not end on SIGTERM\n" + self.describe())
        self.started = []
        try:
            self.until("the last process is gone", lambda: not processes.descendants())
        except Hung:
            self.failures.append("processes are left behind:\n" + self.describe())
        processes.kill_all()
        if self.mode == "native":
            return
        listed = subprocess.run([self.smcss, "--json"], env={**os.environ, "SMC_RUN_DIR": self.run_dir},
                                capture_output=True, timeout=LIMIT, check=False).stdout
        self.check(f"smcss still lists sockets: {listed[:500]}", json.loads(listed)["sockets"] == [])
        # The files of processes ended by a signal stay until other programs start; each of these removes some.
        def empty():
            if not os.listdir(self.run_dir):
                return True
            subprocess.run(self.command(side, [PYTHON, self.script("one_connection.py")]), check=True,
                           env=self.environment(side), timeout=LIMIT)
            return False

        side = "server" if self.mode == "both" else self.mode
        try:
            self.until("the run directory is empty", empty)
        except Hung:
            self.failures.append(f"files are left behind in the run directory: {os.listdir(self.run_dir)[:10]}")

    def describe(self):
        return processes.describe(self.smcss, self.run_dir)

    def judge_report(self):
        """Compares SMC_REPORT with what was expected. Returns connections, those with bytes in rings, these bytes,
        and all bytes."""
        lines = []
        with open(self.report, encoding="utf-8") as report:
            for line in report:
                lines.append(json.loads(line))
        connections = [line for line in lines if line["state"] != "LISTEN"]

        def ring(line):
            return line["ring_rx_bytes"] + line["ring_tx_bytes"]

        total = sum(ring(line) for line in connections)
        if self.mode in ("server", "client"):
            # A server may have connections with itself: then both ends have written a line.
            ends = {(line["local"], line["peer"]) for line in connections}
            alone = [line for line in connections if ring(line) and (line["peer"], line["local"]) not in ends]
            self.check(f"bytes went over rings to a peer without the library: {alone[:5]}", not alone)
        elif self.mode == "both":
            for comm, at_least, always in self.expected_on_ring:
                if always or self.at_once:
                    found = sum(ring(line) for line in connections if re.fullmatch(comm, line["comm"]))
                    if found < at_least:
                        others = sorted({(line["comm"], line["mode"], line["reason_text"], ring(line)) for line in connections})
                        self.failures.append(f"{comm}: {found} bytes over rings, expected {at_least} or more: {others[:30]}")
        for line in connections:
            self.check(f"no peer in the report: {line}", line["peer"] or not ring(line))
            # Broken rules and internal errors have no place among programs that mean well.
            if line["reason"] in ("0x04000000", "0x09990000"):
                self.failures.append(f"a connection ended with {line['reason']}: {line}")
        reasons = {}
        for line in connections:
            if line["mode"] != "SMCD":
                reasons[line["reason_text"]] = reasons.get(line["reason_text"], 0) + 1
        everything = total + sum(line["tcp_rx_bytes"] + line["tcp_tx_bytes"] for line in connections)
        return {"connections": len(connections), "on_ring": sum(ring(line) > 0 for line in connections),
                "ring_bytes": total, "bytes": everything, "reasons": reasons}


def have(*commands):
    """The commands that are missing."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [command for command in commands if not shutil.which(command, path=path)]


def first_lines(*argv):
    """What a program says about itself, as lines."""
    result = subprocess.run(argv, capture_output=True, timeout=LIMIT, check=False)
    return (result.stdout + result.stderr).decode(errors="replace").strip().split("\n")


def first_line(*argv):
    return first_lines(*argv)[0].strip()
