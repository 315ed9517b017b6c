"""nginx: workers, keepalive, sendfile, TLS, reuseport, a proxy to itself, reload and binary upgrade under load."""

import hashlib
import os
import shutil
import signal

import case
import processes

COMMANDS = ["nginx", "curl", "openssl"]
SUMMARY = ("two workers; kept connections, sendfile of 20 MB, TLS, reuseport, IPv6, a proxied server on kept connections, "
           "uploads; five reloads and an exchange of the binary under load without a lost request.")

CONFIGURATION = """
worker_processes 2;
pid {work}/nginx.pid;
error_log {work}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {work}/body; proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
    sendfile on; tcp_nopush on; keepalive_requests 500; client_max_body_size 100m;
    proxy_buffer_size 32k; proxy_buffers 8 32k;
    upstream self {{ server 127.0.0.1:{plain}; keepalive 8; }}
    server {{
        listen 127.0.0.1:{plain}; listen [::1]:{plain};
        root {work}/www;
        location /via/ {{ proxy_pass http://self/; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    }}
    server {{ listen 127.0.0.1:{shared} reuseport; root {work}/www; sendfile off; }}
    server {{
        listen 127.0.0.1:{tls} ssl; root {work}/www;
        ssl_certificate {work}/cert.pem; ssl_certificate_key {work}/key.pem;
    }}
    server {{ listen 127.0.0.1:{upload}; location / {{ proxy_pass http://127.0.0.1:{sink}; proxy_request_buffering off; }} }}
    server {{ listen 127.0.0.1:{sink}; location / {{ client_body_in_single_buffer on; return 200 "$content_length\\n"; }} }}
}}
"""


def version():
    return case.first_line("nginx", "-v").rpartition("/")[2]


def master(t):
    text = processes.text(f"{t.work}/nginx.pid").strip()
    return int(text) if text else 0


def workers(of):
    return {pid for pid in processes.descendants(of) if "worker process" in processes.command_line(pid)
            and "shutting down" not in processes.command_line(pid)}


def run(t):
    ports = {name: t.port() for name in ("plain", "shared", "tls", "upload", "sink")}
    t.certificate()
    small = t.random_file("www/small", 3000)
    large = t.random_file("www/large", 20_000_000)
    checksum = hashlib.sha256(t.read(small)).hexdigest()
    configuration = t.file("nginx.conf", CONFIGURATION.format(work=t.work, **ports))
    # Becomes a daemon, as started by its users; by its whole path, without which it cannot exchange its binary.
    nginx = shutil.which("nginx")
    t.client([nginx, "-c", configuration], side="server")
    t.until("the workers are there", lambda: t.listens(ports["plain"]) and len(workers(master(t))) == 2)
    plain = f"http://127.0.0.1:{ports['plain']}"

    t.equal("large", t.client(["curl", "-sS", f"{plain}/large"]))
    t.equal("part", t.client(["curl", "-sS", "-r", "1000000-9999999", f"http://[::1]:{ports['plain']}/large"]))
    t.equal("through the proxy", t.client(["curl", "-sS", f"{plain}/via/large"]))
    t.equal("without sendfile", t.client(["curl", "-sS", f"http://127.0.0.1:{ports['shared']}/large"]))
    t.equal("tls", t.client(["curl", "-sS", "--cacert", f"{t.work}/cert.pem", f"https://localhost:{ports['tls']}/large"]))
    t.equal("missing", t.client(["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", f"{plain}/missing"]))
    t.equal("slowly", t.client(["curl", "-sS", "--limit-rate", "10M", f"{plain}/large"]))
    t.equal("upload", t.client(["curl", "-sS", "-T", large, f"http://127.0.0.1:{ports['upload']}/"]))
    several = [word for _ in range(40) for word in (f"{plain}/small", f"{plain}/via/small")]
    t.equal("many on one connection", t.client(["curl", "-sS", *several]))
    for path, port in (("/small", "plain"), ("/via/small", "plain"), ("/small", "shared")):
        t.equal(f"load on {path} of {port}", t.load_result(
            t.load(f"http://127.0.0.1:{ports[port]}{path}", requests=100, sha256=checksum)))

    reload_under_load(t, f"{plain}/via/small", configuration, checksum)
    upgrade_under_load(t, f"{plain}/small", checksum)
    old = master(t)
    t.client([shutil.which("nginx"), "-c", configuration, "-s", "quit"], side="server")
    t.until("nginx has ended", lambda: old not in processes.descendants())
    emergencies = [line for line in processes.text(f"{t.work}/error.log").split("\n") if "[alert]" in line or "[emerg]" in line]
    t.check(f"the error log has {emergencies[:3]}", not emergencies)
    t.on_ring("nginx", 2_000_000, always=True)
    t.on_ring("python3", 100_000, always=True)
    t.on_ring("curl", 100_000, always=True)


def reload_under_load(t, url, configuration, checksum):
    load = t.load(url, sha256=checksum, endless=True)
    for _ in range(5):
        before, done = workers(master(t)), t.progress(load)
        t.client([shutil.which("nginx"), "-c", configuration, "-s", "reload"], side="server")
        t.until("there are two other workers", lambda: len(workers(master(t)) - before) == 2)
        t.until("the load goes on", lambda: t.progress(load) > done + 100)
    t.check("the load was served over reloads", t.end_load(load)[0] > 500)


def upgrade_under_load(t, url, checksum):
    """As nginx's manual has it: USR2, WINCH and QUIT to the old master."""
    load = t.load(url, sha256=checksum, endless=True)
    t.until("the load runs", lambda: t.progress(load) > 100)
    old = master(t)
    os.kill(old, signal.SIGUSR2)
    t.until("a new master is there", lambda: master(t) not in (0, old) and len(workers(master(t))) == 2)
    os.kill(old, signal.SIGWINCH)
    t.until("the old workers are gone", lambda: not (workers(old) - workers(master(t))))
    os.kill(old, signal.SIGQUIT)
    t.until("the old master is gone", lambda: old not in processes.descendants())
    done = t.progress(load)
    t.until("the load goes on", lambda: t.progress(load) > done + 100)
    t.check("the load was served over the upgrade", t.end_load(load)[0] > 300)
