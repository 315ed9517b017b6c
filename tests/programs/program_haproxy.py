"""HAProxy: HTTP and TCP proxying, splicing, TLS at its front, reload under load with handed-over listeners."""

import hashlib
import os
import shutil
import signal

import case
import processes

COMMANDS = ["haproxy", "nginx", "curl", "openssl"]
SUMMARY = ("HTTP with kept connections at both sides, TCP mode with splicing, TLS at its front, two threads; five reloads "
           "under load, with the listening sockets passed from the old process (expose-fd).")
REMARKS = "The server behind it (nginx) runs on the side of the clients."

CONFIGURATION = """
global
    stats socket {work}/control mode 600 level admin expose-fd listeners
    nbthread 2
    maxconn 400
defaults
    mode http
    timeout connect 20s
    timeout client 60s
    timeout server 60s
    option http-keep-alive
    http-reuse always
    retries 3
frontend plain
    bind 127.0.0.1:{http}
    bind ::1:{http}
    default_backend servers
frontend secure
    bind 127.0.0.1:{tls} ssl crt {work}/both.pem
    default_backend servers
backend servers
    server one 127.0.0.1:{nginx}
    server two [::1]:{nginx} check inter 200
listen stream
    mode tcp
    option splice-auto
    bind 127.0.0.1:{tcp}
    server one 127.0.0.1:{nginx}
"""

NGINX = """
worker_processes 1; daemon off; pid {work}/nginx.pid; error_log {work}/nginx.error.log;
events {{}}
http {{
    access_log off; sendfile on; keepalive_requests 100000;
    client_body_temp_path {work}/body; proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
    server {{ listen 127.0.0.1:{nginx}; listen [::1]:{nginx}; root {work}/www; }}
}}
"""


def version():
    return case.first_line("haproxy", "-v").split()[2].split("-")[0]


def workers(of):
    return {pid for pid in processes.descendants(of) if "haproxy" in processes.command_line(pid)}


def loads(haproxy):
    """How often the master has told that a configuration was loaded, and that the worker before has ended."""
    log = processes.text(haproxy.log)
    return min(log.count("Loading success"), 1 + log.count("Former worker"))


def run(t):
    ports = {name: t.port() for name in ("http", "tls", "tcp", "nginx")}
    key, certificate = t.certificate()
    t.file("both.pem", t.read(certificate) + t.read(key))
    checksum = hashlib.sha256(t.read(t.random_file("www/small", 3000))).hexdigest()
    t.random_file("www/large", 20_000_000)
    t.server([shutil.which("nginx"), "-c", t.file("nginx.conf", NGINX.format(work=t.work, **ports))], side="client",
             port=ports["nginx"])
    configuration = t.file("haproxy.cfg", CONFIGURATION.format(work=t.work, **ports))
    haproxy = t.server([shutil.which("haproxy"), "-W", "-f", configuration, "-p", f"{t.work}/haproxy.pid"],
                       port=ports["http"])
    plain = f"http://127.0.0.1:{ports['http']}"
    t.until("the servers are up", lambda: t.client(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"{plain}/small"],
                                                   status=None) == b"200")

    t.equal("large", t.client(["curl", "-sS", f"{plain}/large"]))
    t.equal("large over IPv6", t.client(["curl", "-sS", f"http://[::1]:{ports['http']}/large"]))
    t.equal("spliced", t.client(["curl", "-sS", f"http://127.0.0.1:{ports['tcp']}/large"]))
    t.equal("slowly", t.client(["curl", "-sS", "--limit-rate", "10M", f"http://127.0.0.1:{ports['tcp']}/large"]))
    t.equal("tls", t.client(["curl", "-sS", "--cacert", certificate, f"https://localhost:{ports['tls']}/large"]))
    t.equal("missing", t.client(["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", f"{plain}/missing"]))
    t.equal("many on one connection", t.client(["curl", "-sS", *[f"{plain}/small"] * 100]))
    for name in ("http", "tcp"):
        t.equal(f"load on {name}", t.load_result(t.load(f"http://127.0.0.1:{ports[name]}/small", sha256=checksum)))

    load = t.load(f"{plain}/small", sha256=checksum, endless=True)
    for _ in range(5):
        # A signal that comes before the last reload is done may be lost.
        before, loaded, done = workers(haproxy.pid), loads(haproxy), t.progress(load)
        os.kill(haproxy.pid, signal.SIGUSR2)
        t.until("another worker has been loaded", lambda: loads(haproxy) > loaded and workers(haproxy.pid) - before)
        t.until("the load goes on", lambda: t.progress(load) > done + 100)
    t.check("the load was served over reloads", t.end_load(load)[0] > 500)
    t.until("one worker is left", lambda: len(workers(haproxy.pid)) == 1)
    # Softly, as systemd does it, so that it reports.
    t.stop(haproxy, signal.SIGUSR1, status=None)
    t.on_ring("haproxy", 2_000_000, always=True)
    t.on_ring("python3", 100_000, always=True)
